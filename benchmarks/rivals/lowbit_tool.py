"""Ourselves, through the public interface; what is scored is the exported file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras_lowbit
from benchmarks.rivals.answers import Quantized, Request
from benchmarks.rivals.files import on_litert
from benchmarks.rivals.plan import our_config

PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy")


def quantize(model: Any, request: Request) -> Quantized:
    """As a user does; the one option is the recipe."""
    config = our_config(request.weight_bits, request.activation_bits, **request.options)
    qmodel = keras_lowbit.quantize(
        model, request.calibration, config=config, seed=request.seed, verbose=0
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        qmodel.export(path)
        blob = path.read_bytes()
    return on_litert(blob, dict(request.options))
