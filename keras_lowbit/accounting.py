"""What a model costs: parameters, operations, bytes of weights and of live activations.

Two conventions of multiply-accumulates stand side by side. ``macs`` counts those of convolutions
and dense layers only. ``paper_macs`` counts as Table 1 of Zhuo et al. 2022 does: a convolution's
bias adds one per output element, average pooling costs ``window + 1`` and a batch norm that was
not folded 2 per output element, a dense layer's bias nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras_lowbit._keras import load_float_model
from keras_lowbit.checks import check_flag
from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import LAYERS, has_kernel
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm as fold
from keras_lowbit.quantizers.placement import Placement
from keras_lowbit.reader import read

FLOAT_BITS = 32  # biases have as many once quantized, as int32
_PARAMETERS = ("kernel", "bias", "gamma", "beta")
_VIEWS = ("Flatten", "Reshape")
_IN_PLACE = ("ReLU", "BatchNormalization")


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one inference.

    Attributes:
      parameters: kernels and biases, and scale and offset of batch norms that were not folded.
      macs: multiply-accumulates of convolutions and dense layers.
      paper_macs: the same in the paper's convention, see :mod:`keras_lowbit.accounting`.
      bops: bit operations, the sum over layers of macs * weight bits * input activation bits.
      weight_bytes: kernels at their bits, biases as int32 (everything float32 in a float model);
        scales are not counted.
      peak_activation_elements: the most elements alive at any time. A tensor lives until its last
        use; reshaping, batch norms and ReLUs work in place; every other operator holds its inputs
        and its output at once.
      peak_memory_bytes: ``weight_bytes`` and the most bytes of live activations, each at its own
        bits as if packed.
    """

    parameters: int
    macs: int
    paper_macs: int
    bops: int
    weight_bytes: int
    peak_activation_elements: int
    peak_memory_bytes: int

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameters, ""),
            ("MACs", self.macs, f"({self.paper_macs:,} as the paper counts)"),
            ("BOPs", self.bops, ""),
            ("weights", self.weight_bytes, "bytes"),
            ("peak activation", self.peak_activation_elements, "elements"),
            ("peak memory", self.peak_memory_bytes, "bytes, weights and activations"),
        ]
        return "\n".join(f"{name:<16}{value:>16,} {unit}".rstrip() for name, value, unit in rows)


def cost(model: Any, fold_batch_norm: bool = True) -> Cost:
    """The cost of a float model.

    Table 1 of Zhuo et al. 2022 follows for its first three networks from the default, as batch
    norms do not exist any more at inference; for its last one, the activity recognition net, from
    ``fold_batch_norm=False``.

    Args:
      model: a Functional or Sequential model of tf_keras or Keras 3, or the path of one.
      fold_batch_norm: count the model that is deployed, its batch norms folded.

    Returns:
      The cost at 32 bits a weight and activation.

    Raises:
      ValueError: the model cannot be loaded, or holds a layer that is not supported; ``fold_batch_norm``
        is neither True nor False.

    Example:
      >>> print(keras_lowbit.cost(model))
    """
    check_flag("fold_batch_norm", fold_batch_norm)
    graph = read(load_float_model(model))
    return cost_of(fold(graph)[0] if fold_batch_norm else graph)


def cost_of(graph: Graph, placement: Placement | None = None) -> Cost:
    """The cost of a graph.

    Args:
      graph: batch norms folded or not.
      placement: bits of the same graph; None for the float model, 32 bits.
    """
    weight_bits = bops = 0
    for node in graph.nodes:
        weight_bits += FLOAT_BITS * _parameters(node)
        if has_kernel(node.kind):
            kernel_bits = placement.weights[node.name].bits if placement else FLOAT_BITS
            weight_bits += (kernel_bits - FLOAT_BITS) * node.weights["kernel"].size
            bops += _macs(node) * kernel_bits * _bits(graph, placement, node.inputs[0])
    sizes = {node.name: math.prod(node.shape) for node in graph.nodes}
    widths = {name: size * _bits(graph, placement, name) for name, size in sizes.items()}
    weight_bytes = math.ceil(weight_bits / 8)
    return Cost(
        parameters=sum(_parameters(node) for node in graph.nodes),
        macs=sum(_macs(node) for node in graph.nodes),
        paper_macs=sum(_paper_macs(graph, node) for node in graph.nodes),
        bops=bops,
        weight_bytes=weight_bytes,
        peak_activation_elements=_peak(graph, sizes),
        peak_memory_bytes=weight_bytes + math.ceil(_peak(graph, widths) / 8),
    )


def _parameters(node: Node) -> int:
    return sum(node.weights[role].size for role in _PARAMETERS if role in node.weights)


def _bits(graph: Graph, placement: Placement | None, name: str) -> int:
    """Bits of an element of the tensor ``name``: those of the quantizer it last went through."""
    if placement is None:
        return FLOAT_BITS
    while name not in placement.groups:
        node = graph[name]
        # A layer whose ReLU is fused writes the ReLU's tensor; the others keep their input's grid.
        name = node.inputs[0] if LAYERS[node.kind].keeps_grid else graph.consumers(name)[0].name
    return placement.activations[placement.groups[name]].bits


def _macs(node: Node) -> int:
    if not has_kernel(node.kind):
        return 0
    return math.prod(node.shape[:-1]) * node.weights["kernel"].size


def _paper_macs(graph: Graph, node: Node) -> int:
    elements = math.prod(node.shape)
    if has_kernel(node.kind):
        biases = elements if "bias" in node.weights and node.kind != "Dense" else 0
        return _macs(node) + biases
    if node.kind == "BatchNormalization":
        return 2 * elements
    if node.kind.startswith("GlobalAverage"):
        return (math.prod(graph[node.inputs[0]].shape[:-1]) + 1) * elements
    if node.kind.startswith("Average"):
        return (math.prod(node.config["pool_size"]) + 1) * elements
    return 0


def _peak(graph: Graph, sizes: dict[str, int]) -> int:
    """Largest sum of the ``sizes`` of live tensors."""
    buffers = _buffers(graph)
    last_use: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        last_use |= {buffers[name]: index for name in (*node.inputs, node.name)}
    last_use |= {buffers[name]: len(graph.nodes) for name in graph.outputs}
    live = {name: sizes[name] for name in graph.inputs}
    peak = 0
    for index, node in enumerate(graph.nodes):
        live.setdefault(buffers[node.name], sizes[node.name])
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if last_use[name] > index}
    return peak


def _buffers(graph: Graph) -> dict[str, str]:
    """By node, the node whose memory its output lies in (its own, or its input's if in place)."""
    buffers: dict[str, str] = {}
    for node in graph.nodes:
        in_place = node.kind in _VIEWS or (
            node.kind in _IN_PLACE
            and graph.only_consumer(node.inputs[0]) is not None
            and graph[node.inputs[0]].kind not in _VIEWS  # others may look at the same memory
        )
        buffers[node.name] = buffers[node.inputs[0]] if in_place else node.name
    return buffers
