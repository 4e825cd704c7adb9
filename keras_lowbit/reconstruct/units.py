"""What is reconstructed at a time: layers, blocks or the network, found from the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from keras_lowbit.config import MERGED
from keras_lowbit.graph import Graph
from keras_lowbit.layer_table import FIXED_RANGE, has_kernel
from keras_lowbit.quantizers.placement import Placement


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of the graph between quantized tensors.

    Attributes:
      name: its layers, or its output where it has none.
      inputs: heads it reads; their quantizers work inside this unit.
      inner: heads computed and read inside; their quantizers work inside this unit.
      outputs: heads that others need or that are results, compared with the float model, before
        their own quantizers unless they are inner too.
      layers: names of the layers with weights.
    """

    name: str
    inputs: tuple[str, ...]
    inner: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Step:
    """What leads from some heads to one head."""

    head: str
    inputs: tuple[str, ...]
    layers: tuple[str, ...]
    is_last: bool  # a softmax or sigmoid that nothing reads


def find_units(graph: Graph, placement: Placement, units: str) -> tuple[Unit, ...]:
    """Partition a graph.

    Args:
      graph: folded, with ``Quantize`` nodes.
      placement: its quantizers; a unit begins and ends at heads.
      units: "layer": one unit a head. "block": a unit ends where a single tensor carries
        everything that follows (so a residual block is one), and a depthwise convolution goes with
        the layer behind it. "merged:2": two blocks with layers at a time, or as many as it says.
        "network": everything that leads to the outputs.

    Returns:
      Units in topological order. Units without layers have nothing to optimise.
    """
    steps = sorted(_steps(graph, placement), key=lambda step: step.is_last)
    merged = int(units.removeprefix(MERGED)) if units.startswith(MERGED) else 1
    size = "block" if merged > 1 else units
    parts: list[list[_Step]] = [[]]
    for index, step in enumerate(steps):
        parts[-1].append(step)
        if _ends_here(graph, steps, index, parts[-1], size):
            parts.append([])
    heads = set(placement.heads)
    return tuple(_unit(graph, heads, steps, part) for part in _joined(parts, merged) if part)


def whole_network(graph: Graph, placement: Placement) -> Unit:
    """The network as one unit that ends at its outputs, or before the softmax or sigmoid they come from.

    Unlike other units it may end between heads, as at the average before a softmax.

    Args:
      graph: folded, with ``Quantize`` nodes.
      placement: its quantizers.

    Returns:
      The unit; without layers where the network has none.
    """
    ends = [_before_probabilities(graph, name) for name in graph.outputs]
    outputs = tuple(name for name in dict.fromkeys(ends) if name not in graph.inputs)
    inside: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            waiting += graph[name].inputs
    inputs = tuple(name for name in graph.inputs if name in inside)
    inner = tuple(
        head for head in placement.heads if head in inside and head not in inputs
        and any(reader.name in inside for reader in graph.consumers(head))
    )  # fmt: skip
    layers = tuple(node.name for node in graph.weighted() if node.name in inside)
    return Unit(" + ".join(layers), inputs, inner, outputs, layers)


def _before_probabilities(graph: Graph, name: str) -> str:
    node = graph[name]
    while node.kind in ("Flatten", "Reshape"):
        node = graph[node.inputs[0]]
    return node.inputs[0] if node.kind in FIXED_RANGE else name


def _joined(parts: Iterable[list[_Step]], count: int) -> list[list[_Step]]:
    """So many parts with layers in one, and those without that lie between them."""
    if count == 1:
        return list(parts)
    joined: list[list[_Step]] = [[]]
    inside = 0
    for part in parts:
        inside += any(step.layers for step in part)
        if inside > count or all(step.is_last for step in part):
            joined.append([])
            inside = 1
        joined[-1] += part
    return joined


def _steps(graph: Graph, placement: Placement) -> list[_Step]:
    steps = []
    heads = set(placement.heads)
    for head in placement.heads:
        if graph[head].kind == "Input":
            continue
        inputs: list[str] = []
        layers: list[str] = []
        waiting = [head]
        while waiting:
            node = graph[waiting.pop()]
            if has_kernel(node.kind):
                layers.append(node.name)
            for name in node.inputs:
                (inputs if name in heads else waiting).append(name)
        is_last = graph[head].kind in FIXED_RANGE and not graph.consumers(head)
        steps.append(_Step(head, tuple(dict.fromkeys(inputs)), tuple(layers), is_last))
    return steps


def _ends_here(graph: Graph, steps: list[_Step], index: int, part: list[_Step], units: str) -> bool:
    if units == "layer":
        return True
    step, rest = steps[index], steps[index + 1 :]
    if all(later.is_last for later in rest):
        return not step.is_last  # logits are compared, not probabilities
    if units == "network":  # what follows the last layer has nothing to learn
        return not any(later.layers for later in rest)
    layers = [name for member in part for name in member.layers]
    only_depthwise = all(graph[name].kind == "DepthwiseConv2D" for name in layers)
    if only_depthwise and any(later.layers for later in rest):
        return False
    done = {member.head for member in steps[: index + 1]} | set(graph.inputs)
    needed = {name for later in rest for name in later.inputs if name in done}
    return needed <= {step.head}


def _heads_behind(graph: Graph, heads: set[str], name: str) -> set[str]:
    """The heads whose values ``name`` passes on."""
    if name in heads:
        return {name}
    return {h for source in graph[name].inputs for h in _heads_behind(graph, heads, source)}


def _unit(graph: Graph, heads: set[str], steps: list[_Step], part: list[_Step]) -> Unit:
    computed = [step.head for step in part]
    inputs = dict.fromkeys(n for step in part for n in step.inputs if n not in computed)
    others = {name for step in steps if step not in part for name in step.inputs}
    read_inside = {name for step in part for name in step.inputs}
    results = {name for output in graph.outputs for name in _heads_behind(graph, heads, output)}
    outputs = tuple(h for h in computed if h in others | results or h not in read_inside)
    layers = tuple(name for step in part for name in step.layers)
    inner = tuple(h for h in computed if h in read_inside)
    return Unit(" + ".join(layers) or outputs[-1], tuple(inputs), inner, outputs, layers)
