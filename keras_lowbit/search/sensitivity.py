"""How much the network suffers when one layer alone has few bits, measured without labels.

The kernel of one layer of the float model is rounded to each width in turn, everything else staying
float, and the squared error of the network's outputs, before a softmax or sigmoid, is taken relative
to their mean square. Effects of several layers are taken to add up.

Scales and zero points are those of least error at the layer's output, and the bias makes up for the mean of that error:
what any reconstruction repairs is not to count. What it repairs beyond that does, so that the measure ranks
choices, and does not foretell what remains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.config import PTQConfig, TensorSpec
from keras_lowbit.finetune.losses import squared_error
from keras_lowbit.graph import Graph, build, role_of
from keras_lowbit.layer_table import LAYERS
from keras_lowbit.quantizers.numerics import dequantize, quantize
from keras_lowbit.quantizers.placement import place
from keras_lowbit.quantizers.ranges import first_method, kernel_range
from keras_lowbit.reconstruct.activations import UnitFunction, evenly
from keras_lowbit.reconstruct.units import whole_network
from keras_lowbit.reconstruct.weight_ranges import input_covariances, output_grid

SAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Width:
    """One layer at one width.

    Attributes:
      bits: of its kernel.
      kernel: rounded to nearest, float32.
      scale: of the kernel, float32.
      zero_point: of the kernel, float32.
      harm: the relative squared error of the network's outputs.
    """

    bits: int
    kernel: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    harm: float


Widths = dict[str, dict[int, Width]]


def measure(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    candidates: Mapping[str, tuple[int, ...]],
    config: PTQConfig,
    on_layer_end: Callable[[int], None] = lambda index: None,
) -> Widths:
    """Round every layer to every candidate by itself.

    Args:
      graph: folded, with ``Quantize`` nodes.
      inputs: calibration samples, float32 (samples, ...), by input node; 256 of them count.
      candidates: widths by layer; of a single width the harm is 0, as there is nothing to choose.
      config: ``weight_grid`` and ``weight_range`` (of the scales to begin with) matter.
      on_layer_end: called with the index of each layer.

    Returns:
      The widths of every layer.
    """
    model = build(graph)
    placement = place(graph, config)
    network = whole_network(graph, placement)
    function = UnitFunction(network, model, None)
    few = [tf.constant(x) for x in evenly([inputs[name] for name in network.inputs], SAMPLES)]
    wanted = function.map(few)
    power = [float(tf.reduce_mean(tf.square(target))) + 1e-12 for target in wanted]
    loss = squared_error(power)
    found: Widths = {name: {} for name in candidates}
    for index, (name, moments) in enumerate(input_covariances(graph, placement, model, inputs)):
        kernel, bias = (_variable(model, name, role) for role in ("kernel", "bias"))
        floats, own_bias = kernel.numpy(), bias.numpy() if bias is not None else None
        axis = LAYERS[graph[name].kind].kernel_axis
        choices = candidates[name]
        for bits in choices:
            spec = TensorSpec(bits, True, axis, grid=config.grid_of_weights(bits))
            start, _ = kernel_range(floats, spec, first_method(config.weight_range))
            scale, zero_point = output_grid(floats, start, spec, moments)
            codes = quantize(floats, scale, zero_point, spec.qmin, spec.qmax)
            rounded = dequantize(codes, scale, zero_point).numpy()
            harm = 0.0
            if len(choices) > 1:
                kernel.assign(rounded)
                if bias is not None:
                    bias.assign(own_bias + moments.mean_output(floats - rounded))
                harm = float(loss(function.map(few), wanted))
                if not np.isfinite(harm):
                    raise ValueError(
                        "The network gives NaN or infinite outputs on the calibration data with the "
                        f"kernel of {name!r} at {bits} bits. Check the model's weights and the scaling "
                        f"of the data. Received: an error of {harm}"
                    )
            found[name][bits] = Width(bits, rounded, scale, zero_point, harm)
        kernel.assign(floats)
        if bias is not None:
            bias.assign(own_bias)
        on_layer_end(index)
    return found


def _variable(model: Any, name: str, role: str) -> Any:
    """A variable of a layer, None if there is no such."""
    return next((v for v in model.get_layer(name).weights if role_of(v.name) == role), None)
