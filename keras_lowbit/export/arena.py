"""How much RAM TFLM needs for a model: what its allocator records, and the smallest arena that works."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable

from keras_lowbit.export.runtimes import read_flatbuffer

STEP = 16  # bytes, the alignment of TFLM's arena
_GENEROUS = 2**24  # bytes
_LARGEST = 2**31 - STEP

# An arena that is a little too small can crash the interpreter, so every one is tried in a process of
# its own. The allocator only prints what it recorded, on the C-level stderr.
_CHILD = """
import sys
from tflite_micro import runtime
interpreter = runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1]))
interpreter.invoke()
interpreter.print_allocations()
"""


@dataclasses.dataclass(frozen=True)
class Arena:
    """Bytes of TFLM's arena on this host.

    `head` (activations and scratch) and `tail` (what persists) are those of the recording allocator,
    `total` is their sum. `smallest` is the smallest arena in which the model was started and run; more
    than `total` where preparing the model takes more than running it.
    """

    total: int
    head: int
    tail: int
    smallest: int


def measure_arena(blob: bytes) -> Arena:
    """The arena of a model with the installed TFLM: 64-bit pointers, reference kernels.

    Raises: ValueError if TFLM refuses the model, or does not print what its allocator recorded.
    """
    read_flatbuffer(blob)
    size = _GENEROUS
    done = _run(blob, size)
    while done.returncode and "missing: " in done.stderr and size < _LARGEST:
        size = min(4 * size, _LARGEST)
        done = _run(blob, size)
    if done.returncode:
        raise ValueError(
            f"TFLM cannot run the model. Received: {done.stderr.strip()[-400:]!r} in {size} bytes."
        )
    found = re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", done.stderr)
    recorded = {part: int(count) for part, count in found}
    if len(recorded) != 3:
        raise ValueError(
            "The installed tflite_micro does not print its arena's total, head and tail; install the "
            f"version that setup.cfg names. Received: {done.stderr[-400:]!r}."
        )
    smallest = _smallest(recorded["total"], lambda size: _run(blob, size).returncode == 0)
    return Arena(recorded["total"], recorded["head"], recorded["tail"], smallest)


def _smallest(used: int, works: Callable[[int], bool]) -> int:
    """The smallest multiple of STEP from `used` bytes on that works; less cannot."""
    low = -(-used // STEP)
    if works(low * STEP):
        return low * STEP
    span = 16
    while not works((low + span) * STEP):
        low, span = low + span, 2 * span
    high = low + span
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle * STEP) else (middle, high)
    return high * STEP


def _run(blob: bytes, size: int) -> subprocess.CompletedProcess[str]:
    """One inference in an arena of ``size`` bytes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(size)], input=blob, capture_output=True, check=False
    )
    errors = done.stderr.decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, "", errors)
