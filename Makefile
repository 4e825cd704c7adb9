# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv if it is not there.
PYTHON ?= python3
RUN := .venv/bin/python
# Without KERAS_LOWBIT_DATA, real data are taken from ../shared when that exists.
export KERAS_LOWBIT_DATA ?= $(wildcard $(abspath ../shared))
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint results clean

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[micro,dev]'
	touch $@

demo: .venv/installed
	$(RUN) -m benchmarks.demo

test: .venv/installed
	$(RUN) -m pytest

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The table of results in the README, from its committed rows.
results: .venv/installed
	$(RUN) -m benchmarks.render --write

clean:
	rm -rf .venv build out *.egg-info .pytest_cache .mypy_cache .ruff_cache
