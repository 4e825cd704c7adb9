"""Random networks ready to export: real from step 1 on, but with a guess in place of calibration.

The guess of each tensor's magnitude is now and then wrong by orders of magnitude.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from random_graphs import Draw, Growth

from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.config import WEIGHT_GRIDS
from keras_lowbit.graph import Graph
from keras_lowbit.layer_table import FIXED_RANGE, LAYERS, has_kernel
from keras_lowbit.preprocess.preprocess import preprocess
from keras_lowbit.quantizers.insert import LARGEST_BIAS
from keras_lowbit.quantizers.placement import Placement, insert_requantization, place

widths = st.integers(2, 8)


@dataclasses.dataclass(frozen=True)
class Values:
    """What a student has to offer an exporter."""

    graph: Graph
    placement: Placement
    numbers: dict[str, np.ndarray]

    def values(self) -> dict[str, np.ndarray]:
        """By the names of ``Student.variables``."""
        return self.numbers


def magnitudes(graph: Graph, of_inputs: float) -> dict[str, float]:
    """A guess of the real values' size in every tensor, for inputs of this size."""
    found: dict[str, float] = {}
    for node in graph.nodes:
        sizes = [found[name] for name in node.inputs]
        if has_kernel(node.kind):
            kernel, bias = node.weights["kernel"], node.weights.get("bias", np.zeros(1))
            taps = kernel.size / math.prod(kernel.shape[a] for a in LAYERS[node.kind].kernel_axis)
            size = math.hypot(sizes[0] * math.sqrt(taps * np.mean(np.square(kernel))),
                              float(np.abs(bias).mean()))  # fmt: skip
        else:
            size = of_inputs if node.kind == "Input" else math.hypot(*sizes)
        found[node.name] = max(size, 1e-9)
    return found


def random_values(
    graph: Graph, placement: Placement, random: np.random.Generator, wild: float
) -> dict[str, np.ndarray]:
    """Every number that an export needs; a share ``wild`` of the scales is far from what fits."""

    def factor(size: Any = None) -> Any:
        stray = 10.0 ** random.uniform(-6, 3, size) * (random.random(size) < wild)
        return np.where(stray > 0, stray, random.uniform(0.5, 2, size))

    sizes, values = magnitudes(graph, 10.0 ** random.uniform(-1, 2)), {}
    for group, spec in placement.activations.items():
        scale, zero = sizes[group] * 3 / spec.qmax * factor(), 0
        if not spec.unsigned:
            zero = int(random.integers(0, spec.qmax + 1))
        if graph[group].kind in FIXED_RANGE:
            scale, zero = 1 / 256, 0
        values[f"{group}/output_scale"] = np.float32(scale)
        values[f"{group}/output_zero_point"] = np.float32(zero)
    for node in graph.weighted():
        spec = placement.weights[node.name]
        kernel = node.weights["kernel"]
        kept = tuple(i for i in range(kernel.ndim) if i not in spec.axis)
        largest = np.abs(kernel).max(axis=kept, keepdims=True)
        scale = np.where(largest > 0, largest, 1e-3) / spec.qmax * factor(largest.shape)
        if random.random() < 0.2:  # as where all channels share one
            scale = np.full_like(scale, scale.max())
        bias = node.weights.get("bias", np.zeros(scale.size, np.float32)).reshape(scale.shape)
        # As Student.make_room_for_biases does.
        source = values[f"{placement.inputs[node.name]}/output_scale"]
        room = np.abs(bias) * 2.0 ** (8 - spec.bits) / LARGEST_BIAS / source
        values[f"{node.name}/kernel_scale"] = np.float32(np.maximum(scale, room))
        zero_points = random.choice(spec.zero_points, scale.shape)
        values[f"{node.name}/kernel_zero_point"] = np.float32(zero_points)
        values |= {f"{node.name}/{role}": array for role, array in node.weights.items()}
    return values


@st.composite
def quantized_models(draw: Draw) -> QuantizedModel:
    """A random network with random widths and values, ready to export."""
    growth = Growth(draw)
    graph = growth.graph()
    bits = {name: draw(widths) for name in ("weight_bits", "activation_bits")}
    if draw(st.booleans()):
        bits |= {name: draw(widths) for name in ("linear_activation_bits", "input_bits")}
    some = [node.name for node in graph.weighted() if draw(st.integers(1, 4)) == 4]
    exceptions = {name: (draw(widths), draw(widths)) for name in some}
    config = PTQConfig(
        **bits, layer_bits=exceptions, first_last_bits=draw(st.sampled_from([None, 8])),
        weight_grid=draw(st.sampled_from(WEIGHT_GRIDS)), equalize=draw(st.booleans()),
        split_channels=draw(st.sampled_from([0.0, 0.0, 0.2])),
        optimize=(), tune_steps=0,
    )  # fmt: skip
    prepared, notes = preprocess(graph, config)
    prepared = insert_requantization(prepared, config)
    placement = place(prepared, config)
    wild = draw(st.sampled_from([0.0, 0.0, 0.3]))
    values = random_values(prepared, placement, growth.random, wild)
    student: Any = Values(prepared, placement, values)
    return QuantizedModel(student, None, config, [], notes, {}, 0)
