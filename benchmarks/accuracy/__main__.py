"""Command line of what our recipes reach.

python -m benchmarks.accuracy plan
python -m benchmarks.accuracy run --recipes best --settings W2A8,mixed --seeds 0,1,2
python -m benchmarks.accuracy report
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from absl import app, flags

from benchmarks.commands import dispatch, say, show_plan
from benchmarks.study.worker import ONE_THREAD

# Workers inherit it, and TensorFlow must not be there before.
os.environ.update(ONE_THREAD)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.accuracy import plan, render
from benchmarks.accuracy.measure import measure
from benchmarks.rows import of_today, read_rows
from benchmarks.study import backends
from benchmarks.study.runner import run
from keras_lowbit import RECIPES

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(plan.TASKS), "Networks, in this order.")
flags.DEFINE_list("recipes", list(RECIPES), "Recipes.")
flags.DEFINE_list("settings", list(plan.SETTINGS), "Bits.")
flags.DEFINE_list("seeds", None, "Of samples and optimisation; by default those of each recipe.")
flags.DEFINE_integer("jobs", 2, "Workers.", lower_bound=1)
flags.DEFINE_string("results", "benchmarks/results/accuracy.jsonl", "File of rows.")
flags.DEFINE_string("qat_results", "benchmarks/results/qat.jsonl", "Rows of benchmarks.qat.")
flags.DEFINE_string("report", "docs/accuracy.md", "Page to write.")


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    return dispatch(arguments, {"run": _run, "plan": _plan, "report": _report})


def _cells() -> list[plan.Cell]:
    seeds = None if FLAGS.seeds is None else [int(text) for text in FLAGS.seeds]
    return plan.cells(FLAGS.tasks, FLAGS.recipes, FLAGS.settings, seeds)


def _run() -> int:
    backend = functools.partial(backends.loky, jobs=FLAGS.jobs)
    failed = run(_cells(), measure, backend, Path(FLAGS.results), say, of_today(plan.known_rows))
    return 1 if failed else 0


def _plan() -> int:
    """Every row that is to be measured, and whether it is."""
    return show_plan(_cells(), of_today(plan.known_rows)(Path(FLAGS.results)))


def _report() -> int:
    path = Path(FLAGS.report)
    trained = {row["key"]: row for row in read_rows(Path(FLAGS.qat_results))}
    path.write_text(render.page(plan.known_rows(Path(FLAGS.results)), list(trained.values())))
    say(f"{path} is written")
    return 0


if __name__ == "__main__":
    app.run(main)
