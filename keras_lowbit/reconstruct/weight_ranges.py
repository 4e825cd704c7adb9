"""Weight scales and zero points of least error at the layer's output, instead of at the kernel itself.

The squared error of a kernel counts every weight alike, but its input may not: on an input that hardly
varies a weight may be far off, on a loud one it may not. An error ``e`` of the weights that lead to one
output changes it by ``e^T C e`` in the mean square, where ``C`` is the covariance of the layer's inputs;
the change of its mean is left to the bias, if there is one. The scale of each output, and its zero point where
the grid leaves a choice, are those that make this least when weights are rounded to nearest. (Hubara et al. 2020,
"Improving post training neural quantization", equation 1, restricted to the scale and the zero point.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.config import TensorSpec
from keras_lowbit.graph import Graph
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.quantizers.placement import Placement
from keras_lowbit.quantizers.ranges import zero_points_of
from keras_lowbit.reconstruct.activations import ActivationCache, UnitFunction, evenly
from keras_lowbit.reconstruct.moments import Moments, input_covariance
from keras_lowbit.reconstruct.units import find_units

SAMPLES = 256
FRACTIONS = np.linspace(1.25, 0.2, 64)  # of the scale that covers every weight
LEAST_FRACTION = 0.25  # of the first scale; a dead channel has no weights to cover


def match_layer_outputs(
    student: Student, teacher: Any, inputs: Mapping[str, np.ndarray], only_misled: bool = False
) -> None:
    """Set the scales and zero points of every kernel to those of least error of its layer's output.

    Args:
      student: calibrated; only scales and zero points of kernels change.
      teacher: the float model of the same graph.
      inputs: calibration samples, float32 (samples, ...), by input node; 256 of them count.
      only_misled: leave them alone but where the error of the kernel itself misleads: on a grid that may lack
        zero, beside inputs that never vary. What leads from these is mostly near zero, far from any level.
    """
    graph, placement = student.graph, student.placement
    among = set(placement.weights)
    if only_misled:
        among = {name for name, spec in placement.weights.items() if spec.zero_points != (0.0,)} - {
            node.name for node in graph.nodes if node.kind == "DepthwiseConv2D"
        }
    found = input_covariances(graph, placement, teacher, inputs, among, only_misled)
    for name, covariance in found:
        quantizer = student.weight_quantizers[name]
        kernel, start = student.kernels[name].numpy(), quantizer.scale().numpy()
        scale, zero_point = output_grid(kernel, start, quantizer.spec, covariance)
        quantizer.set_scale(scale)
        quantizer.variables["zero_point"].assign(zero_point)


def input_covariances(
    graph: Graph,
    placement: Placement,
    model: Any,
    inputs: Mapping[str, np.ndarray],
    among: Set[str] | None = None,
    some_idle: bool = False,
) -> Iterator[tuple[str, Moments]]:
    """Every layer with a kernel, and the covariance of what enters it in the float model.

    Args:
      graph: the structure of ``model``.
      placement: of the same graph; says what is computed at a time.
      model: functional, its layers named as the nodes.
      inputs: calibration samples, float32 (samples, ...), by input node; 256 of them count.
      among: these layers only; all by default.
      some_idle: and of these only where some input channel never varies.
    """
    if among is not None and not among:
        return
    units = find_units(graph, placement, "layer")
    few = dict(zip(inputs, evenly(inputs.values(), SAMPLES), strict=True))
    cache = ActivationCache(few, units)
    for index, unit in enumerate(units):
        for name in unit.layers:
            front = dataclasses.replace(unit, inner=(), outputs=graph[name].inputs)
            function, arrived = UnitFunction(front, model, None), cache.inputs_of(unit)
            if among is not None and name not in among:
                continue
            if some_idle and not _some_are_idle(x for (x,) in function.batches(arrived)):
                continue
            yield name, input_covariance(graph[name], (x for (x,) in function.batches(arrived)))
        cache.advance(index, UnitFunction(unit, model, None).map(cache.inputs_of(unit)))


def _some_are_idle(batches: Iterable[tf.Tensor]) -> bool:
    """Whether some channel has the same value everywhere, as behind a ReLU that never opens."""
    ends = [
        (x.reshape(-1, x.shape[-1]).min(0), x.reshape(-1, x.shape[-1]).max(0))
        for x in map(np.asarray, batches)
    ]
    lows, highs = zip(*ends, strict=True)
    return bool((np.min(lows, axis=0) == np.max(highs, axis=0)).any())


def output_grid(
    kernel: np.ndarray, start: np.ndarray, spec: TensorSpec, covariance: Moments
) -> tuple[np.ndarray, np.ndarray]:
    """The scales and zero points that change a layer's output least.

    Args:
      kernel: float, as the layer has it.
      start: scales to begin with, float32 of shape ``spec.scale_shape(kernel.shape)``, all > 0; they are
        kept where no other is better.
      spec: the grid of the kernel, with a scale for every output, and the zero points to choose from.
      covariance: of the layer's inputs; see :func:`keras_lowbit.reconstruct.moments.input_covariance`.

    Returns:
      Both float32, shaped as ``start``.
    """
    # One matrix a group, (groups, inputs, outputs), and a scale for each of its columns.
    weights = covariance.to_matrix(kernel.astype(np.float64))
    first = covariance.to_matrix(start.astype(np.float64))
    zeros = zero_points_of(spec, weights.shape[1])
    found = [_least_error(weights, first, zero, spec, covariance) for zero in zeros]
    scales, errors = (np.array(x) for x in zip(*found, strict=True))
    best = np.argmin(errors, axis=0)
    scale = np.take_along_axis(scales, best[None], axis=0)[0]
    zero_point = np.array(zeros)[best]
    scale, zero_point = (covariance.from_matrix(x, start.shape) for x in (scale, zero_point))
    return scale.astype(np.float32), zero_point.astype(np.float32)


def _least_error(
    weights: np.ndarray, start: np.ndarray, zero: float, spec: TensorSpec, covariance: Moments
) -> tuple[np.ndarray, np.ndarray]:
    """Of every output, the scale of least error with this zero point, and the error."""
    scale, least = start, np.full(start.shape, np.inf)
    last = min(spec.qmax - zero, zero - spec.qmin)
    widest = np.abs(weights).max(axis=1, keepdims=True) / last
    for candidate in (start, *(np.maximum(f * widest, LEAST_FRACTION * start) for f in FRACTIONS)):
        codes = np.clip(np.rint(weights / candidate + zero), spec.qmin, spec.qmax)
        off = weights - (codes - zero) * candidate
        error = (off * (covariance.quantized @ off)).sum(axis=1, keepdims=True)
        scale = np.where(error < least, candidate, scale)
        least = np.minimum(error, least)
    return scale, least
