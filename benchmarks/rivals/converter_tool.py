"""TFLiteConverter in full-integer quantization."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.incumbent import convert_int8
from benchmarks.rivals.answers import Quantized, Request
from benchmarks.rivals.files import on_litert

PACKAGES = ("tensorflow", "tf_keras", "ai-edge-litert", "numpy")


def quantize(model: Any, request: Request) -> Quantized:
    """Asked for other bits than eight, its options are set to what would stand for them."""
    fewest = min(request.weight_bits, request.activation_bits)
    supported = None if fewest == 8 else getattr(tf.dtypes.experimental, f"int{fewest}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        convert_int8(model, request.calibration, path, supported)
        blob = path.read_bytes()
    return on_litert(blob, {})
