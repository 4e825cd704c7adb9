"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from absl import app


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
