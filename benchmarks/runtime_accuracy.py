"""Accuracy of a ``.tflite`` file on a runtime, fed with float samples as a device would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_lowbit.export import runtimes


def input_codes(blob: bytes, x: np.ndarray) -> np.ndarray:
    """Float samples as the int8 codes of the file's only input."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_content=blob).get_input_details()[0]
    scale, zero_point = details["quantization"]
    return np.clip(np.floor(x / np.float32(scale) + 0.5) + zero_point, -128, 127).astype(np.int8)


def accuracy(path: Path, runtime: str, x: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose largest output is the label, on "litert", "litert_ref" or "tflm".

    Args:
      path: a file with one int8 input and one int8 output.
      runtime: where to run it.
      x: float32 (samples, ...).
      y: labels (samples,).
    """
    blob = path.read_bytes()
    outputs = runtimes.run(blob, runtime, [input_codes(blob, x)])[0]
    return float((outputs.reshape(len(x), -1).argmax(axis=1) == y).mean())
