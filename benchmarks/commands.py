"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping

from absl import app

from benchmarks.rows import Row
from benchmarks.study.runner import Planned


def dispatch(arguments: list[str], commands: Mapping[str, Callable[[], int]]) -> int:
    """Run the one command that was given, by its name; the exit status.

    What was asked for wrongly, a ``ValueError``, is one line on stderr and the status 1.
    """
    if len(arguments) != 2 or arguments[1] not in commands:
        raise app.UsageError(
            f"Expected a command of {list(commands)}. Received: {' '.join(arguments[1:])!r}"
        )
    try:
        return commands[arguments[1]]()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def show_plan(cells: Iterable[Planned], rows: Iterable[Row]) -> int:
    """Every cell that is to be measured, and whether it has one of the rows; the exit status."""
    known = {row["key"] for row in rows}
    for cell in cells:
        say(f"{'measured' if cell.key in known else 'to do':<9} {cell}")
    return 0


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
