"""Outlier channel splitting (Zhao et al. 2019), optional: wider layers, smaller largest weights.

``w * x`` is ``w1 * x + w2 * x`` wherever ``w1 + w2 = w``, so an input channel of a layer may be
computed twice and its weights shared out. The layer before it copies the output channel. By the
paper's quantization-aware splitting, with s the scale of the weight,

    ``w1 = (w - s / 2) / 2``,  ``w2 = (w + s / 2) / 2``,  ``round(w1 / s) + round(w2 / s) = round(w / s)``

(Hermite's identity, for halves rounded up as here), so a split costs no weight any precision. Plain
halves ``w / 2`` double the step of every weight in the channel. That matters with a scale per output
channel: a split lowers the scales of the output channels whose largest weight lies in that input
channel, and the others only stay as good as they were with the first form.

Deviation: the paper has one scale per layer and splits the input channel of the largest absolute
weight. Here it is the one whose split lowers the sum over output channels of (largest weight)^2
most, which is what their rounding errors are proportional to; for one output channel it is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from keras_lowbit.config import TensorSpec
from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import LAYERS
from keras_lowbit.quantizers.ranges import kernel_range

# What sums over its input channels, and the argument that counts its output channels.
_WIDTH = {"Conv1D": "filters", "Conv2D": "filters", "Dense": "units"}
# What computes every channel from that channel alone, so that copies of channels pass through it.
_KEEPS_CHANNELS = (
    "ReLU", "Sigmoid", "DepthwiseConv2D", "MaxPooling2D", "MaxPooling1D", "AveragePooling2D",
    "AveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling1D", "ZeroPadding2D",
    "ZeroPadding1D",
)  # fmt: skip


def split_channels(
    graph: Graph, ratio: float, specs: Mapping[str, TensorSpec], weight_range: str = "mse"
) -> tuple[Graph, dict[str, str]]:
    """Split ``ceil(ratio * channels)`` input channels of every layer where that is possible.

    It is where layers that keep channels apart, read by nobody else, lead back to a convolution or
    dense layer. Model inputs, forks, adds, concatenations, flattening, depth multipliers end it.

    Args:
      graph: without batch norms.
      ratio: share of input channels to add, 0 or more.
      specs: by layer name, the grid its kernel will have.
      weight_range: how its scales will begin, "mse" or "minmax".

    Returns:
      The widened graph, same function, and a note by the name of each layer that was split.
    """
    notes = {}
    for name in [node.name for node in graph.weighted() if node.kind in _WIDTH]:
        node, chain = graph[name], _chain(graph, name)
        kernel = node.weights["kernel"].astype(np.float64)
        channels = kernel.shape[-2]
        count = math.ceil(round(ratio * channels, 9))  # 0.07 * 100 is 7.000000000000001
        if not chain or not count:
            continue
        chosen = _chosen(kernel, count)
        # The scale is that of the plain halves, as in the authors' code; the shift hardly moves it.
        scale, _ = kernel_range(_split(kernel, chosen, 0.0), specs[name], weight_range)
        split = _split(kernel, chosen, scale.astype(np.float64)).astype(np.float32)
        sources = list(range(channels))
        for channel in chosen:
            sources.append(sources[channel])
        graph = graph.updated(
            node.replace(weights={**node.weights, "kernel": split}),
            *(_widened(graph[before], sources) for before in chain),
        )
        notes[name] = f"{count} of {channels} input channels split"
    return graph, notes


def _chain(graph: Graph, name: str) -> tuple[str, ...]:
    """The nodes to widen for the inputs of ``name``, back to a layer with filters; or empty."""
    chain: list[str] = []
    while True:
        name = graph[name].inputs[0]
        node = graph[name]
        chain.append(name)
        passes = node.kind in _KEEPS_CHANNELS and node.config.get("depth_multiplier", 1) == 1
        if graph.only_consumer(name) is None or not (passes or node.kind in _WIDTH):
            return ()
        if node.kind in _WIDTH:
            return tuple(chain)


def _chosen(kernel: np.ndarray, count: int) -> list[int]:
    """The input channels of ``kernel`` (..., in, out) to split, one after the other.

    The k-th split appends channel ``in + k``, which may be chosen later.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 2)))
    chosen = []
    for _ in range(count):
        before, second = largest.max(axis=0), np.sort(largest, axis=0)[-2:][0]
        others = np.where(largest == before, second, before)  # largest outside of each channel
        gain = (before**2 - np.maximum(others, largest / 2) ** 2).sum(axis=1)
        channel = int(np.lexsort((largest.max(axis=1), gain))[-1])  # ties: the paper's choice
        largest[channel] /= 2
        largest = np.concatenate([largest, largest[channel : channel + 1]])
        chosen.append(channel)
    return chosen


def _split(kernel: np.ndarray, chosen: list[int], scale: np.ndarray | float) -> np.ndarray:
    """``kernel`` (..., in, out) with every chosen channel shared out; scale 0 gives plain halves."""
    for channel in chosen:
        whole = kernel[..., channel : channel + 1, :]
        kernel = np.concatenate([kernel, (whole + scale / 2) / 2], axis=-2)
        kernel[..., channel : channel + 1, :] = (whole - scale / 2) / 2
    return kernel


def _widened(node: Node, sources: list[int]) -> Node:
    """``node`` with a copy of its output channel ``sources[i]`` as output channel i."""
    weights = dict(node.weights)
    for role, value in node.weights.items():
        axis = LAYERS[node.kind].kernel_axis[0] if role == "kernel" else 0
        weights[role] = np.take(value, sources, axis)
    width = {_WIDTH[node.kind]: len(sources)} if node.kind in _WIDTH else {}
    shape = (*node.shape[:-1], len(sources))
    return node.replace(shape=shape, config={**node.config, **width}, weights=weights)
