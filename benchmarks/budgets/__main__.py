"""Command line of what a budget buys.

python -m benchmarks.budgets plan
python -m benchmarks.budgets run --tasks res8,ds_cnn
python -m benchmarks.budgets report
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from absl import app, flags

from benchmarks.commands import dispatch, say, show_plan
from benchmarks.rows import of_today
from benchmarks.study.worker import ONE_THREAD

# Workers inherit it, and TensorFlow must not be there before.
os.environ.update(ONE_THREAD)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.budgets import plan, render
from benchmarks.budgets.measure import measure
from benchmarks.study import backends
from benchmarks.study.runner import run

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(plan.TASKS), "Networks, in this order.")
flags.DEFINE_integer("jobs", 2, "Workers.", lower_bound=1)
flags.DEFINE_string("results", "benchmarks/results/budgets.jsonl", "File of rows.")
flags.DEFINE_string("report", "docs/budgets.md", "Page to write; its figure goes beside it.")


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    return dispatch(arguments, {"run": _run, "plan": _plan, "report": _report})


def _cells() -> list[plan.Cell]:
    return plan.cells(FLAGS.tasks)


def _run() -> int:
    backend = functools.partial(backends.loky, jobs=FLAGS.jobs)
    failed = run(_cells(), measure, backend, Path(FLAGS.results), say, of_today(plan.known_rows))
    return 1 if failed else 0


def _plan() -> int:
    """Every row that is to be measured, and whether it is."""
    return show_plan(_cells(), of_today(plan.known_rows)(Path(FLAGS.results)))


def _report() -> int:
    path = Path(FLAGS.report)
    planned = {cell.key for cell in plan.cells(plan.TASKS)}
    rows = [row for row in plan.known_rows(Path(FLAGS.results)) if row["key"] in planned]
    figure = path.parent / "figures" / "budgets.svg"
    render.draw(rows, figure)
    path.write_text(render.page(rows, figure.relative_to(path.parent)))
    say(f"{path} and {figure} are written")
    return 0


if __name__ == "__main__":
    app.run(main)
