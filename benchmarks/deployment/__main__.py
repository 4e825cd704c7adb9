"""Command line of the deployment table.

python -m benchmarks.deployment plan --tasks ds_cnn --widths 4,2
python -m benchmarks.deployment run --tasks ds_cnn --widths 4,2
python -m benchmarks.deployment report
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

from benchmarks.commands import dispatch, say, show_plan
from benchmarks.deployment import render
from benchmarks.deployment.measure import measure
from benchmarks.deployment.plan import TASKS, WIDTHS, Cell, cells, known_rows
from benchmarks.rows import of_today
from benchmarks.study.backends import sequential
from benchmarks.study.runner import run
from benchmarks.study.tasks import one_task

QUICK = {"steps": 10, "tune_steps": 10}
QUICK_LIMIT = 100
LIMIT = 4000  # all of every task but Res8
QUICK_NOTE = "**A quick run with few steps: it shows that all works, not what can be reached.**"

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(TASKS), "Tasks to measure, in this order.")
flags.DEFINE_list("widths", [str(bits) for bits in WIDTHS], "Bits of our weights.")
flags.DEFINE_string("results", "benchmarks/results/deployment.jsonl", "File of rows.")
flags.DEFINE_string("report", "docs/deployment.md", "Page to write.")
flags.DEFINE_integer(
    "limit", None, f"Most test samples run on TFLM, {LIMIT} by default.", lower_bound=1
)
flags.DEFINE_integer("seed", 0, "Of the calibration sample and the optimisation.")
flags.DEFINE_bool("quick", False, f"Few steps, and {QUICK_LIMIT} test samples unless --limit.")


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    return dispatch(arguments, {"run": _run, "plan": _plan, "report": _report})


def _cells() -> list[Cell]:
    tasks = [one_task(name).name for name in FLAGS.tasks]
    known = {str(bits): bits for bits in WIDTHS}
    if strangers := [text for text in FLAGS.widths if text not in known]:
        raise ValueError(f"--widths takes some of {list(known)}. Received: {strangers}")
    widths = [known[text] for text in FLAGS.widths]
    limit = FLAGS.limit or (QUICK_LIMIT if FLAGS.quick else LIMIT)
    return cells(tasks, widths, FLAGS.seed, limit, **(QUICK if FLAGS.quick else {}))


def _run() -> int:
    _plan()
    failed = run(_cells(), measure, sequential, Path(FLAGS.results), say, of_today(known_rows))
    return 1 if failed else 0


def _plan() -> int:
    """Every file that is to be measured, and whether it is."""
    return show_plan(_cells(), of_today(known_rows)(Path(FLAGS.results)))


def _report() -> int:
    path = Path(FLAGS.report)
    note = QUICK_NOTE if FLAGS.quick else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render.page(_cells(), known_rows(Path(FLAGS.results)), note))
    say(f"{path} is written")
    return 0


if __name__ == "__main__":
    app.run(main)
