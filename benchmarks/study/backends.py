"""Where cells run: a backend maps work and cells to outcomes, in the order they are finished.

Every cell comes back once, even if workers die; at most as many are under way as there are workers,
so that few are lost and the order of work is kept.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

from benchmarks.study.worker import KILLED_TWICE, Outcome, Work, attempt

ORPHAN_SECONDS = 2.0  # between two looks whether the parent process is still there

Backend = Callable[[Work, Sequence[Any]], Iterator[Outcome]]


def sequential(work: Work, cells: Sequence[Any]) -> Iterator[Outcome]:
    """In this process."""
    for cell in cells:
        yield attempt(work, cell)


def loky(work: Work, cells: Sequence[Any], jobs: int) -> Iterator[Outcome]:
    """In ``jobs`` processes of this machine.

    A death breaks the whole pool and does not tell whose it was, nor which of those that were handed
    out had begun. So they are tried again alone, twice: then it is clear which one kills its worker.
    """
    # loky replaces workers whose memory has grown, and says so each time.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
    left = {cell.key: cell for cell in cells}
    while left:
        started: set[str] = set()
        for outcome in _until_a_death(work, list(left.values()), jobs, started):
            del left[outcome.cell.key]
            yield outcome
        suspects = [left[key] for key in left if key in started]
        if suspects:
            logging.warning("A worker died; trying alone: %s", ", ".join(map(str, suspects)))
        for cell in suspects:
            alone = functools.partial(_until_a_death, work, [cell], 1, set())
            outcomes = list(alone()) or list(alone())
            del left[cell.key]
            yield outcomes[0] if outcomes else Outcome(cell, error=KILLED_TWICE)


def _until_a_death(work: Work, cells: list[Any], jobs: int, started: set[str]) -> Iterator[Outcome]:
    """Outcomes until all cells are done or a worker dies; notes the keys of ``started`` cells."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    def calls() -> Iterator[Any]:
        for cell in cells:
            started.add(cell.key)
            yield delayed(_attempt_in_child)(work, cell)

    # With a single job, joblib would work in this process.
    pool = Parallel(
        n_jobs=max(jobs, 2), backend="loky", return_as="generator_unordered", pre_dispatch=jobs,
        batch_size=1,
    )  # fmt: skip
    try:
        yield from pool(calls())
    except TerminatedWorkerError:
        return


def _attempt_in_child(work: Work, cell: Any) -> Outcome:
    """As :func:`attempt`, in a process that does not outlive the one that started it."""
    end_with_parent()
    return attempt(work, cell)


@functools.cache
def end_with_parent() -> None:
    """A killed runner cannot stop its workers, and loky's would finish their cells for nobody."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
