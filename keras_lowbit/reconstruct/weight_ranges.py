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
    """Set the scale of every kernel to that of least error of its layer's output.

    Args:
      student: calibrated; only weight scales change.
      teacher: the float model of the same graph.
      inputs: calibration samples, float32 (samples, ...), by input node; 256 of them count.
    """
    pairs = input_covariances(student.graph, student.placement, teacher, inputs)
    for name, covariance in pairs:
        quantizer, kernel = student.weight_quantizers[name], student.kernels[name].numpy()
        start = quantizer.scale().numpy(), quantizer.variables["zero_point"].numpy()
        quantizer.set_scale(output_scale(kernel, *start, quantizer.spec, covariance))


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


def output_scale(
    kernel: np.ndarray,
    start: np.ndarray,
    zero_point: np.ndarray,
    spec: TensorSpec,
    covariance: Moments,
) -> np.ndarray:
    """The scales that change a layer's output least.

    Args:
      kernel: float, as the layer has it.
      start: scales to begin with, float32 of shape ``spec.scale_shape(kernel.shape)``, all > 0; they are
        kept where no other is better.
      zero_point: of every output, shaped likewise; they stay.
      spec: the grid of the kernel, with a scale for every output.
      covariance: of the layer's inputs; see :func:`keras_lowbit.reconstruct.moments.input_covariance`.

    Returns:
      float32, shaped as ``start``.
    """
    # One matrix a group, (groups, inputs, outputs), and a scale for each of its columns.
    weights = covariance.to_matrix(kernel.astype(np.float64))
    scale, zero = (covariance.to_matrix(x.astype(np.float64)) for x in (start, zero_point))
    last = np.minimum(spec.qmax - zero, zero - spec.qmin)
    widest = np.abs(weights).max(axis=1, keepdims=True) / last
    least = np.full(scale.shape, np.inf)
    for candidate in (scale, *(np.maximum(f * widest, LEAST_FRACTION * scale) for f in FRACTIONS)):
        codes = np.clip(np.rint(weights / candidate + zero), spec.qmin, spec.qmax)
        off = weights - (codes - zero) * candidate
        error = (off * (covariance.quantized @ off)).sum(axis=1, keepdims=True)
        scale = np.where(error < least, candidate, scale)
        least = np.minimum(error, least)
    return covariance.from_matrix(scale, start.shape).astype(np.float32)
