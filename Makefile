# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv if it is not there.
PYTHON ?= python3
RUN := .venv/bin/python
# Without KERAS_LOWBIT_DATA, real data are taken from ../shared when that exists.
export KERAS_LOWBIT_DATA ?= $(wildcard $(abspath ../shared))
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test fuzz lint results study study-report deployment deployment-report accuracy accuracy-report \
	budgets budgets-report rivals rivals-report clean

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[micro,vela,dev]'
	touch $@

demo: .venv/installed
	$(RUN) -m benchmarks.demo

test: .venv/installed
	$(RUN) -m pytest

# Other random networks than the tests' and many more of them; a quarter of an hour or two.
fuzz: export HYPOTHESIS_PROFILE = nightly
fuzz: .venv/installed
	$(RUN) -m pytest tests/export/test_random_graphs.py

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The table of results in the README, from its committed rows.
results: .venv/installed
	$(RUN) -m benchmarks.render --write

# The study of the paper on the data of KERAS_LOWBIT_DATA: hours; a run resumes where it was stopped.
# QUICK=1 measures a thin grid with few steps into out/; BACKEND=loky, dask, ray or sequential.
BACKEND ?= loky
JOBS ?= 2
QUICKLY := $(if $(QUICK),--quick --results out/study/rows.jsonl --report out/study/study.md)

.venv/cluster: .venv/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[cluster]'
	touch $@

study: .venv/installed $(if $(filter dask ray,$(BACKEND)),.venv/cluster)
	$(RUN) -m benchmarks.study run $(QUICKLY) --backend $(BACKEND) --jobs $(JOBS)

# docs/study.md and its figures, from the committed rows.
study-report: .venv/installed
	$(RUN) -m benchmarks.study report $(QUICKLY)

# Flash, RAM and accuracy on TFLM beside other tools: hours; a run resumes where it was stopped.
# TASKS=ds_cnn,har_cnn and WIDTHS=4,2 measure some of it; QUICK=1 takes few steps, into out/.
FILTERS := $(if $(TASKS),--tasks $(TASKS)) $(if $(WIDTHS),--widths $(WIDTHS))
BRIEFLY := $(if $(QUICK),--quick --results out/deployment/rows.jsonl --report out/deployment/deployment.md)

.venv/rival: .venv/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[rival]'
	touch $@

deployment: .venv/rival
	$(RUN) -m benchmarks.deployment run $(BRIEFLY) $(FILTERS)

# docs/deployment.md, from the committed rows.
deployment-report: .venv/installed
	$(RUN) -m benchmarks.deployment report $(BRIEFLY)

# What the recipes reach: many hours; a run resumes where it was stopped.
# TASKS=res8 RECIPES=best SETTINGS=W2A8,2/2 SEEDS=0 measures some of it; JOBS as above.
REACHED := $(if $(TASKS),--tasks $(TASKS)) $(if $(RECIPES),--recipes $(RECIPES)) \
	$(if $(SETTINGS),--settings $(SETTINGS)) $(if $(SEEDS),--seeds $(SEEDS)) --jobs $(JOBS)

accuracy: .venv/installed
	$(RUN) -m benchmarks.accuracy run $(REACHED)

# docs/accuracy.md, from the committed rows.
accuracy-report: .venv/installed
	$(RUN) -m benchmarks.accuracy report

# Bits within a budget: half an hour; a run resumes where it was stopped. TASKS=res8 measures some of it.
budgets: .venv/installed
	$(RUN) -m benchmarks.budgets run $(if $(TASKS),--tasks $(TASKS)) --jobs $(JOBS)

# docs/budgets.md and its figure, from the committed rows.
budgets-report: .venv/installed
	$(RUN) -m benchmarks.budgets report

# Accuracy and time beside other quantizers: many hours; a run resumes where it was stopped.
# TASKS=har_cnn SETTINGS=W4A8,W3A8 TOOLS=keras_lowbit,MCT measures some of it; THREADS=2 for more than one.
RIVALS := $(if $(TASKS),--tasks $(TASKS)) $(if $(SETTINGS),--settings $(SETTINGS)) \
	$(if $(TOOLS),--tools "$(TOOLS)") $(if $(THREADS),--threads $(THREADS))

rivals: .venv/rival
	$(RUN) -m benchmarks.rivals run $(RIVALS)

# docs/rivals.md, from the committed rows.
rivals-report: .venv/installed
	$(RUN) -m benchmarks.rivals report $(RIVALS)

clean:
	rm -rf .venv build out *.egg-info .pytest_cache .mypy_cache .ruff_cache
