"""Activation ranges of least error at the network's output, instead of at the tensor itself.

The squared error of a tensor counts every value alike, but what follows may not: the first MFCC of a
keyword, say, is several times larger than all others and tells little, so that the MSE range
spends nearly all codes on it. Here each range is walked, one tensor at a time and with everything
else in float, to where the network's output suffers least. (Nahshan et al. 2021, "Loss aware
post-training quantization", search all ranges jointly for the same reason.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.quantizers.insert import Student
from keras_lowbit.quantizers.ranges import affine
from keras_lowbit.reconstruct.activations import UnitFunction, evenly, unchanged
from keras_lowbit.reconstruct.reconstructor import relative_error
from keras_lowbit.reconstruct.units import whole_network

SAMPLES = 128
# First a ladder, since the error may be flat where a range is far too wide; then steps.
LADDER = tuple(0.5**k for k in range(1, 7))
RATIOS = (0.8, 1.25, 0.93, 1.075)
LEAST_GAIN = 1e-3  # of the error, for a step to count

Ends = tuple[float, float]


def match_output(student: Student, inputs: dict[str, np.ndarray]) -> None:
    """Walk the range of every activation tensor of less than 8 bits to the least output error.

    At 8 bits and above, ranges hardly matter and stay as they are.

    Args:
      student: calibrated; only scales and zero points of activations change.
      inputs: calibration samples, float32 (samples, ...), by input node; 128 of them count.
    """
    network = whole_network(student.graph, student.placement)
    if not network.layers:
        return
    function = UnitFunction(network, student.model, student)
    few = [tf.constant(x) for x in evenly([inputs[n] for n in network.inputs], SAMPLES)]
    quantizers = student.activation_quantizers
    with contextlib.ExitStack() as floats:
        for quantizer in (*student.weight_quantizers.values(), *quantizers.values()):
            floats.enter_context(quantizer.following(unchanged))
        wanted = function.map(few)
        power = [float(tf.reduce_mean(tf.square(target))) + 1e-12 for target in wanted]

        def output_error() -> float:
            return float(relative_error(function.map(few), wanted, power))

        for quantizer in quantizers.values():
            if quantizer.spec.bits < 8:
                quantizer.rule = None
                _walk(quantizer, output_error)
                quantizer.rule = unchanged


def _walk(quantizer: Any, output_error: Callable[[], float]) -> None:
    """Stretch and shrink the range, both ends together and each by itself, while it helps."""
    spec = quantizer.spec
    scale, zero_point = float(quantizer.scale()), float(quantizer.variables["zero_point"])
    best = ((spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale)
    least = output_error()

    def moved(ends: Ends, ratio: float, moves: tuple[bool, bool]) -> Ends:
        low, high = (end * ratio if move else end for end, move in zip(ends, moves, strict=True))
        return low, high

    def is_better(ends: Ends) -> bool:
        nonlocal best, least
        _set(quantizer, ends)
        error = output_error()
        if error < least * (1.0 - LEAST_GAIN):
            best, least = ends, error
            return True
        return False

    signed = best[0] < 0.0 < best[1]
    for moves in ((True, True), (True, False), (False, True)) if signed else ((True, True),):
        start = best
        for ratio in LADDER:
            is_better(moved(start, ratio, moves))
        for ratio in RATIOS:
            while is_better(moved(best, ratio, moves)):
                pass
    _set(quantizer, best)


def _set(quantizer: Any, ends: Ends) -> None:
    scale, zero_point = affine(*ends, quantizer.spec)
    quantizer.set_scale(scale)
    quantizer.variables["zero_point"].assign(float(zero_point))
