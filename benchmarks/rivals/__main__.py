"""Command line of the side-by-side.

python -m benchmarks.rivals plan --tasks har_cnn --settings W4A8,W3A8
python -m benchmarks.rivals run --tasks har_cnn --tools keras_lowbit,MCT
python -m benchmarks.rivals report
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

from benchmarks.commands import dispatch, say, show_plan
from benchmarks.rivals import render
from benchmarks.rivals.environments import prepare
from benchmarks.rivals.measure import measure
from benchmarks.rivals.plan import (
    CONTESTANTS,
    SETTINGS,
    TASKS,
    THREADS,
    Cell,
    cells,
    known_rows,
)
from benchmarks.rows import of_today
from benchmarks.study.backends import sequential
from benchmarks.study.runner import run
from benchmarks.study.tasks import one_task

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(TASKS), "Tasks to measure, in this order.")
flags.DEFINE_list("settings", list(SETTINGS), "Bits of weights and activations.")
flags.DEFINE_list("tools", [], "Tools, or contestants as the plan names them; all by default.")
flags.DEFINE_integer("seed", 0, "Of the calibration sample and of what the tools draw.")
flags.DEFINE_integer("threads", THREADS, "That each tool may use.", lower_bound=1)
flags.DEFINE_string("results", "benchmarks/results/rivals.jsonl", "File of rows.")
flags.DEFINE_string("report", "docs/rivals.md", "Page to write.")


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    return dispatch(arguments, {"run": _run, "plan": _plan, "report": _report})


def _cells() -> list[Cell]:
    tasks = [one_task(name).name for name in FLAGS.tasks]
    if strangers := [text for text in FLAGS.settings if text not in SETTINGS]:
        raise ValueError(f"--settings takes some of {list(SETTINGS)}. Received: {strangers}")
    names = {name for c in CONTESTANTS for name in (c.tool, str(c))}
    if strangers := [text for text in FLAGS.tools if text not in names]:
        raise ValueError(f"--tools takes some of {sorted(names)}. Received: {strangers}")
    return cells(tasks, FLAGS.settings, FLAGS.tools, FLAGS.seed, FLAGS.threads)


def _run() -> int:
    _plan()
    planned = _cells()
    for cell in planned:
        prepare(cell.contestant, say)
    failed = run(planned, measure, sequential, Path(FLAGS.results), say, of_today(known_rows))
    return 1 if failed else 0


def _plan() -> int:
    """Every cell that is to be measured, and whether it is."""
    return show_plan(_cells(), of_today(known_rows)(Path(FLAGS.results)))


def _report() -> int:
    path = Path(FLAGS.report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render.page(_cells(), known_rows(Path(FLAGS.results))))
    say(f"{path} is written")
    return 0


if __name__ == "__main__":
    app.run(main)
