"""Which tensor gets a quantizer, which tensors share one, and how many bits each has.

The rules are those of the int8 kernels (pooling, reshaping, padding and concatenation cannot change
the grid) and of the paper's cost: ``activation_bits`` governs what feeds a convolution or dense
layer. A low-bit tensor that only a pool computes is put on its grid by a ``Quantize`` node.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

from keras_lowbit.config import PTQConfig, TensorSpec
from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import FIXED_RANGE, LAYERS, has_kernel
from keras_lowbit.reader import UnsupportedModelError

FUSES_RELU = ("Conv1D", "Conv2D", "DepthwiseConv2D", "Dense", "Add")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Quantizers of a graph.

    Attributes:
      weights: by layer name, the grid of its kernel.
      groups: by node name, the name of the group whose quantizer its output goes through. Nodes
        that keep their input's grid by themselves, or whose ReLU is fused, are absent.
      activations: by group name, the grid.
      heads: nodes whose output starts a new tensor (not a pool, reshape ...), in order.
      inputs: by layer name, the group of the tensor it reads.
    """

    weights: dict[str, TensorSpec]
    groups: dict[str, str]
    activations: dict[str, TensorSpec]
    heads: tuple[str, ...]
    inputs: dict[str, str]

    def too_wide(self) -> tuple[str, ...]:
        """Groups whose codes no int8 container holds: such a model can only be simulated."""
        return tuple(name for name, spec in self.activations.items() if spec.bits > 8)


def fused_relu(graph: Graph, node: Node) -> Node | None:
    """The ReLU that runs inside ``node``'s kernel; None if there is none."""
    consumer = graph.only_consumer(node.name)
    fuses = node.kind in FUSES_RELU and consumer is not None and consumer.kind == "ReLU"
    return consumer if fuses else None


def insert_requantization(graph: Graph, config: PTQConfig) -> Graph:
    """The graph with ``Quantize`` nodes where a low-bit tensor needs one of its own.

    That is between an average pool and a convolution or dense layer whose input has fewer bits than
    the pool's: the kernel averages on the wider grid, and only the result is rounded to few bits.
    """
    for node in reversed(graph.nodes):
        wanted = _bits_wanted(graph, node.name, config)
        if LAYERS[node.kind].averages and wanted:
            changed = _behind(graph, node, f"{node.name}_{wanted}bit")
            placement = place(changed, config)  # the pool may be on the grid of an input or output
            own = placement.activations[placement.groups[node.name]].bits
            graph = changed if wanted < max(own, config.linear_activation_bits) else graph
    return graph


def place(graph: Graph, config: PTQConfig) -> Placement:
    """Place the quantizers.

    Args:
      graph: folded, with the nodes of :func:`insert_requantization`.
      config: the widths.

    Returns:
      The placement; every tensor that a convolution or dense layer reads is quantized.

    Raises:
      ValueError: an exception for a layer that is not there, or a concatenation that cannot share
        one grid.
    """
    weighted = [node.name for node in graph.weighted()]
    for pattern, _ in config.layer_bits:
        if not any(re.fullmatch(pattern, name) for name in weighted):
            raise ValueError(
                "A pattern of `layer_bits` matches no layer with weights; it must match a whole name "
                f"of {weighted}. Received: {pattern!r}"
            )
    weights = {}
    for node in graph.weighted():
        bits = _layer_bits(graph, node, config)[0]
        axis, grid = LAYERS[node.kind].kernel_axis, config.grid_of_weights(bits)
        weights[node.name] = TensorSpec(bits, True, axis, grid=grid)
    source = _sources(graph)
    heads = tuple(
        n.name for n in graph.nodes if source[n.name] == n.name and not fused_relu(graph, n)
    )
    group = {head: head for head in heads}
    for node in graph.nodes:
        if node.kind == "Concatenate":
            joined = {group[source[name]] for name in node.inputs}
            target = min(joined, key=heads.index)
            group = {head: target if g in joined else g for head, g in group.items()}
    activations = {}
    for name in dict.fromkeys(group.values()):
        members = [head for head in heads if group[head] == name]
        activations[name] = _activation_spec(graph, members, source, config)
    groups = {head: group[head] for head in heads}
    groups |= {n.name: group[source[n.name]] for n in graph.nodes if LAYERS[n.kind].averages}
    inputs = {node.name: group[source[node.inputs[0]]] for node in graph.weighted()}
    return Placement(weights, groups, activations, heads, inputs)


def needs_second_clamp(graph: Graph, placement: Placement, group: str) -> bool:
    """True for a low-bit grid that a kernel's saturation clamps at one end only.

    A ReLU clamps at the zero point; without it, a second operator must, which puts the grid, and
    that of every tensor in the group, at the low end of int8 instead of the high end.
    """
    spec = placement.activations[group]
    members = [graph[name] for name in placement.heads if placement.groups[name] == group]
    return spec.bits < 8 and not spec.unsigned and any(node.kind != "ReLU" for node in members)


def lowest_code(graph: Graph, placement: Placement, group: str) -> int:
    """The int8 code in the exported file of the lowest value of a group's grid."""
    if needs_second_clamp(graph, placement, group):
        return -128
    return 127 - placement.activations[group].qmax


def _behind(graph: Graph, node: Node, name: str) -> Graph:
    while name in graph:
        name = f"{name}_1"
    graph = graph.updated(Node(name, "Quantize", (node.name,), node.shape))
    return graph.redirected(node.name, name, keep=name, outputs=False)


def _sources(graph: Graph) -> dict[str, str]:
    """By node, the node whose grid its output is on (itself if it starts one)."""
    source: dict[str, str] = {}
    for node in graph.nodes:
        info = LAYERS[node.kind]
        inherits = info.keeps_grid or info.averages
        source[node.name] = source[node.inputs[0]] if inherits else node.name
    return source


def readers_of(graph: Graph, name: str) -> list[Node]:
    """The nodes that read the tensor ``name``, directly or on the same grid."""
    readers = []
    for node in graph.consumers(name):
        info = LAYERS[node.kind]
        readers += readers_of(graph, node.name) if info.keeps_grid or info.averages else [node]
    return readers


def _bits_wanted(graph: Graph, name: str, config: PTQConfig) -> int | None:
    """Bits that the convolutions and dense layers behind ``name`` want; None if there are none."""
    readers = [node for node in readers_of(graph, name) if has_kernel(node.kind)]
    return max((_layer_bits(graph, node, config)[1] for node in readers), default=None)


def _layer_bits(graph: Graph, node: Node, config: PTQConfig) -> tuple[int, int]:
    before = _any_kernel(graph, node.inputs, lambda name: graph[name].inputs)
    behind = _any_kernel(
        graph,
        [n.name for n in graph.consumers(node.name)],
        lambda name: [n.name for n in graph.consumers(name)],
    )
    return config.bits_of_layer(node.name, first_or_last=not (before and behind))


def _any_kernel(graph: Graph, start: Iterable[str], follow: Callable[[str], Iterable[str]]) -> bool:
    """True if a layer with weights, but what a batch norm became, is reached from ``start``."""
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if has_kernel(graph[name].kind) and not _scales_channels(graph[name]):
            return True
        if name not in seen:
            seen.add(name)
            waiting += follow(name)
    return False


def _is_input(graph: Graph, node: Node) -> bool:
    """True for a network input, also as a rescaling leaves it."""
    keeps = LAYERS[node.kind].keeps_grid or _scales_channels(node)
    return node.kind == "Input" or (keeps and all(_is_input(graph, graph[n]) for n in node.inputs))


def _scales_channels(node: Node) -> bool:
    """True for what a batch norm or rescaling became that nothing took up."""
    sizes = [node.config.get(key, 1) for key in ("kernel_size", "strides", "depth_multiplier")]
    return node.kind == "DepthwiseConv2D" and {1}.issuperset(np.hstack(sizes))


def _activation_spec(
    graph: Graph, members: list[str], source: dict[str, str], config: PTQConfig
) -> TensorSpec:
    nodes = [graph[name] for name in members]
    unsigned = all(node.kind == "ReLU" or _only_unsigned(graph, node) for node in nodes)
    fixed = [node.kind in FIXED_RANGE for node in nodes]
    if any(fixed) and not all(fixed):
        raise UnsupportedModelError(
            "A softmax or sigmoid output, whose range TFLite fixes at 0..1, cannot be concatenated "
            f"with other tensors, since all must share one range. Received: {members}"
        )
    if any(fixed):
        return TensorSpec(8, symmetric=False, unsigned=True)
    logits = any(n.kind in FIXED_RANGE for name in members for n in readers_of(graph, name))
    if logits or any(source[name] in members for name in graph.outputs):
        return TensorSpec(max(8, config.linear_activation_bits), False, (), unsigned)
    wanted = [
        config.input_bits if _is_input(graph, node) else _bits_wanted(graph, node.name, config)
        for node in nodes
    ]
    bits = max((b for b in wanted if b), default=config.linear_activation_bits)
    return TensorSpec(bits, False, (), unsigned)


def _only_unsigned(graph: Graph, node: Node) -> bool:
    """True for a change of grid of a tensor that cannot be negative."""
    if node.kind == "Quantize" or LAYERS[node.kind].keeps_grid or LAYERS[node.kind].averages:
        return all(_only_unsigned(graph, graph[name]) for name in node.inputs)
    return node.kind in ("ReLU", "Softmax", "Sigmoid")
