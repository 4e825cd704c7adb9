"""Command line of the study.

python -m benchmarks.study run --grid table_two,figure_four --backend loky --jobs 2
python -m benchmarks.study plan
python -m benchmarks.study report
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from pathlib import Path

from absl import app, flags

from benchmarks.commands import dispatch, say
from benchmarks.study.worker import ONE_THREAD

# Workers inherit it, and TensorFlow must not be there before.
os.environ.update(ONE_THREAD)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.rows import of_today
from benchmarks.study import backends, clusters, grids, render
from benchmarks.study.cell import measure
from benchmarks.study.plan import Cell, known_rows
from benchmarks.study.runner import run
from benchmarks.study.tasks import one_task

FINDINGS = Path(__file__).with_name("findings.md")
QUICK_NOTE = "**A quick run with few steps: it shows that all works, not what can be reached.**"


FLAGS = flags.FLAGS
flags.DEFINE_list("grid", list(grids.GRIDS), "Grids to measure, in this order.")
flags.DEFINE_list("tasks", [], "Only these tasks.")
flags.DEFINE_string("results", "benchmarks/results/study.jsonl", "File of rows.")
flags.DEFINE_string("report", "docs/study.md", "Page to write, with its figures beside it.")
flags.DEFINE_enum("backend", "loky", ("loky", "dask", "ray", "sequential"), "Where cells run.")
flags.DEFINE_integer("jobs", 2, "Local workers.", lower_bound=1)
flags.DEFINE_string("dask_address", "", "Scheduler of a Dask cluster instead of local workers.")
flags.DEFINE_string("ray_address", "", "Head of a Ray cluster instead of local workers.")
flags.DEFINE_bool("quick", False, "A thin grid with few steps.")


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    return dispatch(arguments, {"run": _run, "plan": _plan, "report": _report})


def _cells() -> list[Cell]:
    cells = grids.quick() if FLAGS.quick else grids.cells_of(FLAGS.grid)
    wanted = [one_task(name).name for name in FLAGS.tasks]
    return [cell for cell in cells if not wanted or cell.task in wanted]


def _backend() -> backends.Backend:
    jobs = FLAGS.jobs
    if FLAGS.backend == "dask":
        return functools.partial(clusters.dask, jobs=jobs, address=FLAGS.dask_address)
    if FLAGS.backend == "ray":
        return functools.partial(clusters.ray, jobs=jobs, address=FLAGS.ray_address)
    if FLAGS.backend == "loky":
        return functools.partial(backends.loky, jobs=jobs)
    return backends.sequential


def _run() -> int:
    failed = run(_cells(), measure, _backend(), Path(FLAGS.results), say, of_today(known_rows))
    return 1 if failed else 0


def _plan() -> int:
    """How many cells of each grid have a row."""
    known = {row["key"] for row in of_today(known_rows)(Path(FLAGS.results))}
    cells = _cells()
    measured = Counter(cell.grid for cell in cells if cell.key in known)
    for grid, planned in Counter(cell.grid for cell in cells).items():
        say(f"{grid:<14} {measured[grid]:>4} of {planned:>4}")
    return 0


def _report() -> int:
    path = Path(FLAGS.report)
    # What was found is about the whole study.
    findings, note = ("", QUICK_NOTE) if FLAGS.quick else (FINDINGS.read_text(), "")
    render.write(_cells(), known_rows(Path(FLAGS.results)), path, findings, note)
    say(f"{path} is written")
    return 0


if __name__ == "__main__":
    app.run(main)
