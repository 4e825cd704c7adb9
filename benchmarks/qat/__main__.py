"""Command line of training with labels: quantized, then trained.

python -m benchmarks.qat plan
python -m benchmarks.qat run --tasks har_cnn,res8
python -m benchmarks.qat run --tasks res8 --settings W2A8,2/2 --learning_rates 3e-4,1e-3 --validate \
    --results benchmarks/results/qat_validation.jsonl
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import app, flags

from benchmarks.study.worker import ONE_THREAD

os.environ.update(ONE_THREAD)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads them when it is imported

from benchmarks.commands import dispatch, say, show_plan
from benchmarks.qat.measure import measure
from benchmarks.qat.plan import CONFIGS, NETWORKS, Cell, cells
from benchmarks.rows import of_today, read_rows
from benchmarks.study.backends import sequential
from benchmarks.study.runner import run

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(NETWORKS), "Networks, in this order.")
flags.DEFINE_list("settings", list(CONFIGS), "Bits.")
flags.DEFINE_list("learning_rates", [], "Instead of the recipes'.")
flags.DEFINE_integer("epochs", None, "Instead of the recipes'.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the calibration samples and of both optimisations.")
flags.DEFINE_boolean(
    "validate", False, "Evaluate on held-out training samples, to choose a recipe."
)
flags.DEFINE_string("results", "benchmarks/results/qat.jsonl", "File of rows.")


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    return dispatch(arguments, {"run": _run, "plan": _plan})


def _cells() -> list[Cell]:
    rates = [float(text) for text in FLAGS.learning_rates]
    return cells(FLAGS.tasks, FLAGS.settings, rates, FLAGS.epochs, FLAGS.seed, FLAGS.validate)


def _run() -> int:
    Path(FLAGS.results).parent.mkdir(parents=True, exist_ok=True)
    failed = run(_cells(), measure, sequential, Path(FLAGS.results), say, of_today(read_rows))
    return 1 if failed else 0


def _plan() -> int:
    """Every row that is to be measured, and whether it is."""
    return show_plan(_cells(), of_today(read_rows)(Path(FLAGS.results)))


if __name__ == "__main__":
    app.run(main)
