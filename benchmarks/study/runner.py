"""Measure the cells that have no row yet."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from benchmarks.rows import Row
from benchmarks.study.backends import Backend
from benchmarks.study.plan import known_rows
from benchmarks.study.results_file import ResultsFile
from benchmarks.study.worker import Outcome, Work


class Planned(Protocol):
    """A measurement with a key that its row will have."""

    @property
    def key(self) -> str: ...


def run(
    cells: Iterable[Planned],
    work: Work,
    backend: Backend,
    results: Path,
    say: Callable[[str], None],
    read: Callable[[Path], list[Row]] = known_rows,
) -> dict[str, str]:
    """Measure what is missing and add the rows, one by one, as they come.

    Args:
      cells: in the order of work; those with a row in ``results`` are skipped.
      work: measures a cell.
      backend: where.
      results: the file of rows.
      say: told how it goes.
      read: reads the rows of a file, with their keys as of today.

    Returns:
      The errors of the cells that have no row, by the names of the cells.

    Raises:
      ValueError: another run writes the same file.
    """
    planned: dict[str, Planned] = {}
    for cell in cells:
        planned.setdefault(cell.key, cell)
    failed: dict[str, str] = {}
    with ResultsFile(results, say, read) as file:
        missing = [cell for key, cell in planned.items() if key not in file.keys]
        say(f"{results}: {len(planned)} cells planned, {len(planned) - len(missing)} have a row")
        started = time.monotonic()
        for done, outcome in enumerate(backend(work, missing), start=1):
            if outcome.row is None:
                failed[str(outcome.cell)] = outcome.error
            elif outcome.cell.key not in file.keys:
                file.add(outcome.row)
            per_cell = (time.monotonic() - started) / done
            left = datetime.timedelta(seconds=round(per_cell * (len(missing) - done)))
            say(f"[{done}/{len(missing)}, {left} left] {_told(outcome)}")
    if failed:
        say(f"{len(failed)} cells FAILED, see above: {'; '.join(failed)}")
    return failed


def _told(outcome: Outcome) -> str:
    if outcome.row is None:
        return f"{outcome.cell}: FAILED, {outcome.error}"
    return f"{outcome.cell}: {_summary(outcome.row)}"


def _summary(row: Row) -> str:
    accuracies = ", ".join(f"{step} {share:.2%}" for step, share in row["accuracy"].items())
    return f"{accuracies}; {row['seconds']['all']:.0f} s"
