"""Weight scales of least error at the layer's output, instead of at the kernel itself.

The squared error of a kernel counts every weight alike, but its input may not: on an input that hardly
varies a weight may be far off, on a loud one it may not. An error ``e`` of the weights that lead to one
output changes it by ``e^T C e`` in the mean square, where ``C`` is the covariance of the layer's inputs;
the change of its mean is left to the bias, if there is one. The scale of each output is the one that makes this least
when weights are rounded to nearest. (Hubara et al. 2020, "Improving post training neural quantization",
equation 1, restricted to the scale.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keras_lowbit.config import TensorSpec
from keras_lowbit.graph import Graph
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.quantizers.placement import Placement
from keras_lowbit.reconstruct.activations import ActivationCache, UnitFunction, evenly
from keras_lowbit.reconstruct.moments import Moments, input_covariance
from keras_lowbit.reconstruct.units import find_units

SAMPLES = 256
FRACTIONS = np.linspace(1.25, 0.2, 64)  # of the scale that covers every weight
LEAST_FRACTION = 0.25  # of the first scale; a dead channel has no weights to cover


def match_layer_outputs(student: Student, teacher: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Set the scale, and the zero point, of every kernel to that of least error of its layer's output.

    Args:
      student: calibrated; only weight scales and zero points change.
      teacher: the float model of the same graph.
      inputs: calibration samples, float32 (samples, ...), by input node; 256 of them count.
    """
    pairs = input_covariances(student.graph, student.placement, teacher, inputs)
    for name, covariance in pairs:
        quantizer, kernel = student.weight_quantizers[name], student.kernels[name].numpy()
        own_zero = quantizer.variables["zero_point"]
        start = quantizer.scale().numpy(), own_zero.numpy()
        scale, zero_point = output_range(kernel, *start, quantizer.spec, covariance)
        quantizer.set_scale(scale)
        own_zero.assign(zero_point)


def input_covariances(
    graph: Graph,
    placement: Placement,
    model: Any,
    inputs: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, Moments]]:
    """Every layer with a kernel, and the covariance of what enters it in the float model.

    Args:
      graph: the structure of ``model``.
      placement: of the same graph; says what is computed at a time.
      model: functional, its layers named as the nodes.
      inputs: calibration samples, float32 (samples, ...), by input node; 256 of them count.
    """
    units = find_units(graph, placement, "layer")
    few = dict(zip(inputs, evenly(inputs.values(), SAMPLES), strict=True))
    cache = ActivationCache(few, units)
    for index, unit in enumerate(units):
        for name in unit.layers:
            front = dataclasses.replace(unit, inner=(), outputs=graph[name].inputs)
            function, arrived = UnitFunction(front, model, None), cache.inputs_of(unit)
            yield name, input_covariance(graph[name], (x for (x,) in function.batches(arrived)))
        cache.advance(index, UnitFunction(unit, model, None).map(cache.inputs_of(unit)))


def output_range(
    kernel: np.ndarray,
    start: np.ndarray,
    zero_point: np.ndarray,
    spec: TensorSpec,
    covariance: Moments,
) -> tuple[np.ndarray, np.ndarray]:
    """The scales and zero points that change a layer's output least.

    Args:
      kernel: float, as the layer has it.
      start: scales to begin with, float32 of shape ``spec.scale_shape(kernel.shape)``, all > 0; they are
        kept where no other is better.
      zero_point: likewise.
      spec: the grid of the kernel, with a scale for every output.
      covariance: of the layer's inputs; see :func:`keras_lowbit.reconstruct.moments.input_covariance`.

    Returns:
      Both float32, shaped as ``start``.
    """
    # One matrix a group, (groups, inputs, outputs), and a scale for each of its columns.
    weights = covariance.to_matrix(kernel.astype(np.float64))
    first, zero = (covariance.to_matrix(x.astype(np.float64)) for x in (start, zero_point))
    widest = np.abs(weights).max(axis=1, keepdims=True)
    trials: list[tuple[np.ndarray, ...]] = [(first, zero)]
    for other in spec.zero_points:
        last = min(spec.qmax - other, other - spec.qmin)
        scales = (np.maximum(f * widest / last, LEAST_FRACTION * first) for f in FRACTIONS)
        trials += [(scale, np.full(zero.shape, other)) for scale in scales]
    best, least = trials[0], np.full(first.shape, np.inf)
    for trial in trials:
        scale, zero = trial
        codes = np.clip(np.rint(weights / scale + zero), spec.qmin, spec.qmax)
        off = weights - (codes - zero) * scale
        error = (off * (covariance.quantized @ off)).sum(axis=1, keepdims=True)
        best = tuple(np.where(error < least, *pair) for pair in zip(trial, best, strict=True))
        least = np.minimum(error, least)
    scale, zero = (covariance.from_matrix(x, start.shape).astype(np.float32) for x in best)
    return scale, zero
