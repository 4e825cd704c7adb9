"""A Keras model as plain data: nodes with arguments and NumPy weights, no layers, no framework.

Both Keras flavours are read into it, every pass of step 1 is a function from graph to graph, and
:func:`build` makes the tf_keras model again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from keras_lowbit._keras import keras
from keras_lowbit.layer_table import has_kernel, make_layer


@dataclasses.dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
      name: unique; the name of the layer in the caller's model where there is one.
      kind: a key of ``layer_table.LAYERS``.
      inputs: names of the nodes it reads, in order.
      shape: shape of its output without the batch.
      config: constructor arguments.
      weights: float32 arrays by role: "kernel", "bias" (batch norms: "gamma", "beta", "mean",
        "variance").
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> Node:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Graph:
    """Nodes in topological order, with the names of the inputs and outputs.

    ``output_names`` is what the caller's model calls its outputs, whatever the nodes are that compute them;
    ``named_outputs`` says that it gives them as a dict. ``input_keys`` are those of a dict that it takes.

    Example:
      >>> graph = read(model)
      >>> [node.name for node in graph.consumers("conv2d")]
      ['activation']
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        inputs: Iterable[str],
        outputs: Iterable[str],
        output_names: Iterable[str] = (),
        named_outputs: bool = False,
        input_keys: Iterable[str] = (),
    ) -> None:
        self.nodes = _in_topological_order(tuple(nodes))
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.output_names = tuple(output_names) or self.outputs
        self.named_outputs = named_outputs
        self.input_keys = tuple(input_keys)
        self._by_name = {node.name: node for node in self.nodes}
        self._consumers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self._consumers[name].append(node)

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the output of ``name``."""
        return tuple(self._consumers[name])

    def only_consumer(self, name: str) -> Node | None:
        """The one node that reads ``name``; None if several do or it is a model output."""
        consumers = self._consumers[name]
        return consumers[0] if len(consumers) == 1 and name not in self.outputs else None

    def weighted(self) -> tuple[Node, ...]:
        """The nodes with a kernel, in topological order."""
        return tuple(node for node in self.nodes if has_kernel(node.kind))

    def updated(self, *nodes: Node) -> Graph:
        """The graph with nodes of the same names replaced and nodes of new names added."""
        new = {node.name: node for node in nodes}
        kept = [new.pop(node.name, node) for node in self.nodes]
        return self._of([*kept, *new.values()], self.outputs)

    def without(self, name: str) -> Graph:
        """The graph without a one-input node; its consumers read its input instead."""
        source = self[name].inputs[0]
        return self.redirected(name, source, drop=name)

    def without_idle(self) -> Graph:
        """The graph without the nodes, but inputs, that no output depends on."""
        needed, waiting = set(self.inputs), list(self.outputs)
        while waiting:
            name = waiting.pop()
            waiting += [source for source in self[name].inputs if source not in needed]
            needed.add(name)
        return self._of([node for node in self.nodes if node.name in needed], self.outputs)

    def redirected(
        self,
        old: str,
        new: str,
        drop: str | None = None,
        keep: str | None = None,
        outputs: bool = True,
    ) -> Graph:
        """The graph whose consumers of ``old`` (but ``keep``), and ``outputs``, read ``new``."""
        nodes = [
            node.replace(inputs=tuple(new if i == old else i for i in node.inputs))
            if node.name != keep
            else node
            for node in self.nodes
            if node.name != drop
        ]
        ends = [new if outputs and output == old else output for output in self.outputs]
        return self._of(nodes, ends)

    def _of(self, nodes: Iterable[Node], outputs: Iterable[str]) -> Graph:
        names = (self.output_names, self.named_outputs, self.input_keys)
        return Graph(nodes, self.inputs, outputs, *names)

    def to_document(self) -> dict[str, Any]:
        """Everything but the values of the weights, of JSON types where ``config`` is."""
        nodes = [{**vars(node), "weights": sorted(node.weights)} for node in self.nodes]
        return {
            "nodes": nodes, "inputs": self.inputs, "outputs": self.outputs,
            "output_names": self.output_names, "named_outputs": self.named_outputs,
            "input_keys": self.input_keys,
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Graph:
        """The graph of :meth:`to_document`, with weights by ``<node>/<role>``."""
        nodes = [
            Node(
                entry["name"], entry["kind"], tuple(entry["inputs"]), tuple(entry["shape"]),
                entry["config"], {r: weights[f"{entry['name']}/{r}"] for r in entry["weights"]},
            )
            for entry in document["nodes"]
        ]  # fmt: skip
        names = ("output_names", "named_outputs", "input_keys")  # older documents have fewer
        kept = {name: document[name] for name in names if name in document}
        return cls(nodes, document["inputs"], document["outputs"], **kept)


def _in_topological_order(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """A stable topological sort: the given order wherever it already is one."""
    by_name = {node.name: node for node in nodes}
    if len(by_name) != len(nodes):
        names = sorted({n.name for n in nodes if sum(m.name == n.name for m in nodes) > 1})
        raise ValueError(f"Node names must be unique; rename the layers. Received twice: {names}")
    done: dict[str, Node] = {}
    for root in nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [by_name[name] for name in node.inputs if name not in done]
            if waiting and node.name not in done:
                stack.append(waiting[0])
            else:
                done[stack.pop().name] = node
    return tuple(done.values())


def build(graph: Graph, wrap: Callable[[Node, Any], Any] | None = None) -> Any:
    """The tf_keras model of a graph, with its weights.

    Args:
      graph: any graph whose kinds are in the layer table.
      wrap: maps a node and its fresh layer to the layer that takes its place, e.g. the layer in a
        tfmot wrapper; input nodes come with None and may return a layer to apply behind the input.

    Returns:
      A functional model; layer (or wrapped layer) names are node names. Several outputs come as a list,
      or as a dict where ``named_outputs`` says so; inputs are in a dict where there are keys of theirs.
    """
    tensors: dict[str, Any] = {}
    inputs = {}
    for node in graph.nodes:
        if node.kind == "Input":
            inputs[node.name] = keras.Input(node.shape, name=node.name, dtype="float32")
            after = wrap(node, None) if wrap else None
            tensors[node.name] = after(inputs[node.name]) if after else inputs[node.name]
            continue
        layer = make_layer(node.kind, node.name, dict(node.config))
        arguments = [tensors[name] for name in node.inputs]
        if node.weights:  # before wrapping: a tfmot wrapper puts tensors in place of variables
            layer.build(arguments[0].shape)
            weights = {role_of(variable.name): variable for variable in layer.weights}
            for role, value in node.weights.items():
                weights[role].assign(value)
        caller = wrap(node, layer) if wrap else layer
        tensors[node.name] = caller(arguments if len(arguments) > 1 else arguments[0])
    ends = [tensors[name] for name in graph.outputs]
    outputs: Any = ends if len(ends) > 1 else ends[0]
    if graph.named_outputs:
        outputs = dict(zip(graph.output_names, ends, strict=True))
    starts: Any = [inputs[name] for name in graph.inputs]
    if graph.input_keys and list(graph.input_keys) == sorted(graph.input_keys):  # as tf_keras does
        starts = dict(zip(graph.input_keys, starts, strict=True))
    model = keras.Model(starts, outputs)
    order = sorted if graph.named_outputs else list  # tf_keras flattens dicts by key
    model.output_names = order(graph.output_names)  # of losses and labels, in `fit`
    return model


def role_of(variable_name: str) -> str:
    """The role of a variable of tf_keras: "kernel", "bias", "gamma", "beta", "mean", "variance"."""
    last = variable_name.split("/")[-1].split(":")[0]
    roles = {"depthwise_kernel": "kernel", "moving_mean": "mean", "moving_variance": "variance"}
    return roles.get(last, last)
