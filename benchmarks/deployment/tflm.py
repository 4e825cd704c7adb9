"""What a file gives on TFLM: the codes of its output, or why there are none."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from keras_lowbit.export import runtimes


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
