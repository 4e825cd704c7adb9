"""What runs where a cell is measured: one thread, and no exception that would stop the others."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable
from typing import Any

# One thread a worker: as many workers as cores, and the same bits whatever the backend.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
}  # fmt: skip
KILLED_TWICE = "The worker died twice, the last time with nothing else to blame."

Work = Callable[[Any], dict[str, Any]]  # maps a cell to its row


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a cell: its row, or why there is none."""

    cell: Any
    row: dict[str, Any] | None = None
    error: str = ""


def attempt(work: Work, cell: Any) -> Outcome:
    """Run ``work(cell)``; an exception becomes an outcome."""
    # For workers that were not started by us; TensorFlow reads it before its first operation.
    os.environ.update(ONE_THREAD)
    try:
        return Outcome(cell, work(cell))
    except Exception as error:  # whatever it is, it is reported and the others go on
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        return Outcome(cell, error=reason)
