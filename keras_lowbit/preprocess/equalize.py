"""Cross-layer equalization (Nagel et al. 2019, section 4.1), optional.

For two layers with only a ReLU between them, ``relu(r * x) = r * relu(x)`` for r > 0, so output
channel i of the first may be divided by ``s_i`` and input channel i of the second multiplied by it.
``s_i = sqrt(r1_i * r2_i) / r2_i`` (eq. 11) makes the largest weights of both equal.
"""

from __future__ import annotations

import numpy as np

from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import LAYERS, has_kernel

MAX_SWEEPS = 20
# A channel this much smaller than the largest stays as it is: raising it would only raise its bias.
NEARLY_DEAD = 1e-4


def equalize(graph: Graph, tolerance: float = 1e-3) -> tuple[Graph, tuple[tuple[str, str], ...]]:
    """Equalize every chain of layers, sweep by sweep, until the factors are 1.

    Skipped are forks, adds, concatenations and ReLU6, whose cap does not scale.

    Args:
      graph: without batch norms.
      tolerance: stop once every factor is within this of 1.

    Returns:
      The equalized graph, same function, and the pairs of layers that were equalized.
    """
    pairs = _pairs(graph)
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for first, second in pairs:
            graph, change = _equalize_pair(graph, graph[first], graph[second])
            largest = max(largest, change)
        if largest < tolerance:
            break
    return graph, pairs


def _pairs(graph: Graph) -> tuple[tuple[str, str], ...]:
    pairs = []
    for node in graph.weighted():
        consumer = graph.only_consumer(node.name)
        if consumer is not None and consumer.kind == "ReLU":
            if consumer.config.get("max_value") is not None:
                continue
            consumer = graph.only_consumer(consumer.name)
        if consumer is not None and has_kernel(consumer.kind):
            pairs.append((node.name, consumer.name))
    return tuple(pairs)


def _equalize_pair(graph: Graph, first: Node, second: Node) -> tuple[Graph, float]:
    kernel1 = first.weights["kernel"].astype(np.float64)
    kernel2 = second.weights["kernel"].astype(np.float64)
    range1 = _largest(kernel1, LAYERS[first.kind].kernel_axis)
    range2 = _largest(kernel2, (kernel2.ndim - 2,))
    usable = (range1 > NEARLY_DEAD * range1.max()) & (range2 > NEARLY_DEAD * range2.max())
    factor = np.where(usable, np.sqrt(range1 / np.where(usable, range2, 1.0)), 1.0)
    shape = [n if a in LAYERS[first.kind].kernel_axis else 1 for a, n in enumerate(kernel1.shape)]
    weights1 = {"kernel": (kernel1 / factor.reshape(shape)).astype(np.float32)}
    if "bias" in first.weights:
        weights1["bias"] = (first.weights["bias"] / factor).astype(np.float32)
    weights2 = {**second.weights, "kernel": (kernel2 * factor[:, None]).astype(np.float32)}
    change = float(np.abs(factor - 1.0).max())
    return graph.updated(first.replace(weights=weights1), second.replace(weights=weights2)), change


def _largest(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Largest absolute weight per channel, flattened over ``axes``."""
    others = tuple(a for a in range(kernel.ndim) if a not in axes)
    return np.abs(kernel).max(axis=others).reshape(-1)
