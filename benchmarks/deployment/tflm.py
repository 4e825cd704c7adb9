"""What a file needs and gives on TFLM: its arena, and the codes of its output."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_lowbit.export import runtimes

ARENA_OFFERED = 2**26
# TFLM reports on the standard error of the process.
_REPORT = f"""
import sys
from tflite_micro import runtime
interpreter = runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size={ARENA_OFFERED})
interpreter.invoke()
interpreter.print_allocations()
"""
_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")


def arena_bytes(blob: bytes) -> int:
    """All of the arena that TFLM takes for a model, with pointers of 64 bits.

    Raises:
      ValueError: it does not run the model.
    """
    command = [sys.executable, "-c", _REPORT]
    done = subprocess.run(command, input=blob, capture_output=True, check=False)
    report = done.stderr.decode(errors="replace")
    found = _TOTAL.search(report)
    if done.returncode or found is None:
        raise ValueError(f"TFLM does not run the model. Received: {report[-400:]!r}")
    return int(found[1])


def refusal(blob: bytes, codes: np.ndarray) -> str:
    """Why TFLM does not run this file, in its words; "" if it does."""
    if "tflm" not in runtimes.available():
        raise ValueError("TFLM is missing: pip install '.[micro]'. Received: no tflite_micro")
    try:
        runtimes.run(blob, "tflm", [codes[:1]])
    except ValueError as error:
        return str(error)
    return ""


def outputs(blob: bytes, codes: np.ndarray, folder: Path, runtime: str = "tflm") -> np.ndarray:
    """The only output of a file, int8 (samples, ...); what was run before is read from ``folder``.

    Args:
      blob: the file.
      codes: int8 (samples, ...), its only input.
      folder: where outputs are kept.
      runtime: "tflm" or "litert".
    """
    digest = hashlib.sha256(blob + codes.tobytes() + runtime.encode()).hexdigest()[:16]
    path = folder / f"{digest}.npy"
    if path.exists():
        return np.load(path)
    [result] = runtimes.run(blob, runtime, [codes])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
        np.save(file, result)
    Path(file.name).replace(path)
    return result
