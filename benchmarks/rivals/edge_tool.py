"""ai-edge-quantizer in static quantization."""

from __future__ import annotations

from typing import Any

from benchmarks.deployment.rival import quantize_static
from benchmarks.rivals.answers import Quantized, Request
from benchmarks.rivals.files import on_litert

PACKAGES = ("ai-edge-quantizer", "tensorflow", "tf_keras", "ai-edge-litert", "numpy")
OPERATORS = ("CONV_2D", "FULLY_CONNECTED")
OPTIONAL_OPERATORS = ("DEPTHWISE_CONV_2D",)  # has no kernel of four bits


def quantize(model: Any, request: Request) -> Quantized:
    """All kernels at the bits asked for, depthwise ones where it can.

    Options: ``algorithm`` for the scales of the kernels.
    """
    blob = quantize_static(
        model, request.calibration, OPERATORS, request.weight_bits, request.activation_bits,
        request.options["algorithm"], OPTIONAL_OPERATORS,
    )  # fmt: skip
    quantized = on_litert(blob, dict(request.options))
    containers = quantized.settings["kernel_containers"]
    if request.weight_bits < 8 and "INT8" in containers:
        quantized.settings["kernels_of_eight_bits"] = containers["INT8"]
    return quantized
