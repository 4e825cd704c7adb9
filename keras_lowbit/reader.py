"""Read a Keras model of either flavour into a :class:`~keras_lowbit.graph.Graph`.

Reading normalises: nested models are flattened, activations become nodes of their own, separable
convolutions become their two parts, sums of many become sums of two, scalings become batch norms,
and layers that do nothing at inference disappear. Whatever cannot be quantized is refused here, by name, before any work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_lowbit._keras import keys_of, sources_of_call
from keras_lowbit.graph import Graph, Node, role_of
from keras_lowbit.keras_layers import BARE_BATCH_NORM, SCALINGS, activation_name, scaling_weights
from keras_lowbit.layer_table import LAYERS

_DROPPED = {
    *(f"{name}Dropout" for name in ("", "Alpha", "Gaussian")), "SpatialDropout1D", "SpatialDropout2D",
    *(f"Random{name}" for name in ("Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness")),
    "GaussianNoise", "ActivityRegularization", "Identity",
}  # fmt: skip
_ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU", "softmax": "Softmax", "sigmoid": "Sigmoid"}
_ROLES = {"kernel", "pointwise_kernel", "bias", "gamma", "beta", "mean", "variance"}
_SCOPE = r"[A-Za-z0-9_.\\/>-]*"  # of TensorFlow, which every layer that is built opens
_ROOT_SCOPE = rf"[A-Za-z0-9.]{_SCOPE}"
_NAME_REFUSED = (
    "names must be of letters from a to z, digits, '_', '.' and '-', with a letter or digit first; give "
    "it, or the model that it is in, another where it is made, or with Keras 3 by layer.name = 'output_layer'"
)
_CALLED_AGAIN = "it is called more than once; give each call a layer or nested model of its own"
_JOINS = ("Add", "Concatenate")  # of one input, they do nothing
_MOST_JOINED = 10  # inputs that the CONCATENATION of TFLM takes


class UnsupportedModelError(ValueError):
    """The model holds something that cannot be quantized and exported; the message names it."""


def read(model: Any) -> Graph:
    """Read a built Functional or Sequential model.

    Args:
      model: tf_keras or Keras 3, static shapes except the batch; it is not changed.

    Returns:
      A graph with the same outputs (to float rounding). Batch norms are still nodes.

    Raises:
      UnsupportedModelError: not functional, not built, with weights that are NaN or infinite, or with
        layers that are not supported; all of them are listed by name with the reason.
    """
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise UnsupportedModelError(
            "A built Functional or Sequential Keras model is expected (subclassed models have no "
            "graph to read; an unbuilt Sequential needs an Input layer first; a SavedModel written by "
            "model.export holds functions alone, so save the model as .keras). "
            f"Received: {type(model).__name__}"
        )
    reader = _Reader()
    tensors = {}
    for tensor in model.inputs:
        name = tensor._keras_history[0].name
        if not re.fullmatch(_SCOPE, name):  # the layer behind it is named quantized_<name>
            reader.refused[name] = _NAME_REFUSED
        tensors[id(tensor)] = reader.add(name, "Input", (), tensor.shape)
    reader.own_names = {layer.name for layer in model.layers}
    outputs = [reader.visit(tensor, tensors, "") for tensor in model.outputs]
    if reader.refused:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in reader.refused.items())
        raise UnsupportedModelError(
            f"{len(reader.refused)} layer(s) of the model cannot be quantized and exported:\n{listed}"
            f"\nReplace them by supported layers ({', '.join(_supported())}), or quantize the part "
            "of the model that excludes them."
        )
    _check_finite(reader.nodes.values())
    inputs = [tensors[id(tensor)] for tensor in model.inputs]
    # A Sequential of Keras 3 may have no such attribute.
    names = keys_of(getattr(model, "output", None), model.outputs)
    keys = keys_of(getattr(model, "input", None), model.inputs)
    if keys not in (sorted(keys), inputs):
        raise UnsupportedModelError(
            "Keys of inputs that are neither sorted nor the names of their layers mean one thing to Keras 3 and "
            f"another to tf_keras: sort them, or name the Input layers like them. Received: {keys}"
        )
    of_layers = [tensor._keras_history[0].name for tensor in model.outputs]
    unique = of_layers if len(set(of_layers)) == len(of_layers) else []
    graph = Graph(reader.nodes.values(), inputs, outputs, names or unique, bool(names), keys)
    return graph.without_idle()


def _check_finite(nodes: Iterable[Node]) -> None:
    weights = {f"{node.name}/{role}": w for node in nodes for role, w in node.weights.items()}
    counts = {name: int((~np.isfinite(weight)).sum()) for name, weight in weights.items()}
    wrong = {name: count for name, count in counts.items() if count}
    if wrong:
        raise UnsupportedModelError(
            "The float model has weights that are NaN or infinite (as float32). Train it again, or load a "
            f"checkpoint from before they became so. Received: such values by layer and weight {wrong}"
        )


def _supported() -> list[str]:
    own = {"Input", "Quantize", "Sigmoid"}
    return sorted((set(LAYERS) - own) | {"SeparableConv2D", "Activation", "Dropout", *SCALINGS})


class _Reader:
    """Nodes read so far; ``refused`` maps layer names to reasons."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.refused: dict[str, str] = {}
        self._done: dict[tuple[int, int, str], list[str]] = {}
        self._prefixes: set[str] = set()
        self._nested: set[int] = set()
        self.own_names: set[str] = set()  # of the model's layers; what is added here takes others
        self._reading = ""

    def add(
        self,
        name: str,
        kind: str,
        inputs: tuple[str, ...],
        shape: Any,
        config: dict[str, Any] | None = None,
        weights: dict[str, np.ndarray] | None = None,
    ) -> str:
        """Add a node under a free name and return that name."""
        free, count = name, 1
        while free in self.nodes or free in self.own_names - {self._reading}:
            free, count = f"{name}_{count}", count + 1
        shape = tuple(shape)[1:]
        if any(size is None for size in shape):
            self.refused.setdefault(
                name, f"its output shape {shape} is not static; give Input(shape=...) every size"
            )
            shape = tuple(size or 1 for size in shape)
        self.nodes[free] = Node(free, kind, inputs, shape, config or {}, weights or {})
        return free

    def visit(self, tensor: Any, tensors: dict[int, str], prefix: str) -> str:
        """The name of the node that computes ``tensor``, reading what is before it first."""
        stack = [tensor]
        while stack:
            layer, node_index, tensor_index = tuple(stack[-1]._keras_history)[:3]
            sources = sources_of_call(layer, node_index)
            waiting = [source for source in sources if id(source) not in tensors]
            if id(stack[-1]) in tensors:
                stack.pop()
            elif waiting:
                stack.append(waiting[0])
            else:
                done = stack.pop()
                names = tuple(tensors[id(source)] for source in sources)
                key = (id(layer), node_index, prefix)
                if key not in self._done:
                    self._done[key] = self._read_call(layer, node_index, names, prefix, done.shape)
                tensors[id(done)] = self._done[key][min(tensor_index, len(self._done[key]) - 1)]
        return tensors[id(tensor)]

    def _read_call(
        self, layer: Any, node_index: int, names: tuple[str, ...], prefix: str, shape: Any
    ) -> list[str]:
        if getattr(layer, "inputs", None) and hasattr(layer, "layers"):  # a nested model
            if layer.weights and id(layer) in self._nested:
                self.refused[prefix + layer.name] = _CALLED_AGAIN
                return [self.add(layer.name, "Flatten", names[:1], t.shape) for t in layer.outputs]
            self._nested.add(id(layer))
            inner = {id(t): name for t, name in zip(layer.inputs, names, strict=True)}
            inner_prefix = f"{prefix}{layer.name}_"
            while inner_prefix in self._prefixes:  # another call: not the tensors of the first
                inner_prefix += "again_"
            self._prefixes.add(inner_prefix)
            return [self.visit(tensor, inner, inner_prefix) for tensor in layer.outputs]
        name = prefix + layer.name
        self._reading = "" if prefix else name
        kind = type(layer).__name__
        if kind in _DROPPED or (kind in _JOINS and len(names) == 1):
            return [names[0]]
        shapes = [self.nodes[source].shape for source in names]
        reason = self._refusal(layer, kind, node_index, prefix, shapes)
        if reason:
            self.refused[name] = reason
            return [self.add(name, "Flatten", names[:1], shape)]  # a stand-in, never built
        return [self._read_layer(layer, kind, name, names, shape)]

    def _refusal(
        self, layer: Any, kind: str, node_index: int, prefix: str, shapes: list[tuple[int, ...]]
    ) -> str | None:
        """Why this call of a layer, on inputs of these ``shapes``, cannot be quantized."""
        if not re.fullmatch(_ROOT_SCOPE, prefix + layer.name):
            return _NAME_REFUSED
        module = type(layer).__module__
        if module.split(".")[0] not in ("keras", "tf_keras"):
            return f"{kind} is a class of your own"
        if ".layers." not in module or kind in ("TFOpLambda", "SlicingOpLambda"):
            return "it is a function, not a layer; use a layer of keras.layers"
        if kind in SCALINGS:
            per_channel = scaling_weights(layer, shapes[0][-1]) is not None
            return (
                None if per_channel else f"{kind} is supported with a value a channel, or one, only"
            )
        if kind not in LAYERS and kind not in ("Activation", "SeparableConv2D"):
            return f"{kind} is not supported"
        others = {role_of(getattr(w, "path", w.name)) for w in layer.weights} - _ROLES
        if others:
            return f"it has weights {sorted(others)}, as of LoRA or a quantization; give the float model with them merged"
        config = layer.get_config()
        if layer.weights and (node_index, prefix) != self._first_call(layer, node_index, prefix):
            return _CALLED_AGAIN
        if config.get("data_format", "channels_last") not in (None, "channels_last"):
            return "data_format must be channels_last, as in TFLite"
        if kind in ("Conv1D", "Conv2D") and config.get("groups", 1) != 1:
            return "grouped convolutions are not supported; DepthwiseConv2D is, a channel a group"
        if kind == "Dense" and len(shapes[0]) != 1:
            return "Dense is supported on flat inputs only; elsewhere a convolution of kernel_size 1 is the same"
        if kind == "ReLU":
            if config.get("max_value") not in (None, 6, 6.0):
                return "ReLU is supported with max_value None or 6"
            if (config.get("negative_slope") or 0) != 0 or (config.get("threshold") or 0) != 0:
                return "ReLU is supported with negative_slope 0 and threshold 0"
        axes = np.ravel(config.get("axis", -1)).tolist()  # a number, or a list of one
        is_last = axes in ([-1], [len(shapes[0]) if shapes else 0])
        if kind in ("Softmax", "BatchNormalization") and not is_last:
            return f"{kind} is supported on the last axis only"
        if kind == "Concatenate" and config["axis"] == 0:
            return "Concatenate cannot join samples; use another axis than 0"
        if kind == "Concatenate" and len(shapes) > _MOST_JOINED:
            return f"Concatenate takes at most {_MOST_JOINED} inputs, not {len(shapes)}; nest two"
        if kind == "Add" and len(set(shapes)) != 1:
            return "Add is supported between equal shapes only"
        activation = activation_name(layer) if kind not in ("ReLU", "Softmax") else "linear"
        if activation not in ("linear", *_ACTIVATIONS):
            known = ", ".join(("linear", *_ACTIVATIONS))
            return f"the activation {activation!r} is not supported; use one of {known}"
        return None

    def _first_call(self, layer: Any, node_index: int, prefix: str) -> tuple[int, str]:
        """Where a layer with weights was read first; later calls share its weights."""
        calls = [(index, place) for (key, index, place) in self._done if key == id(layer)]
        return calls[0] if calls else (node_index, prefix)

    def _read_layer(
        self, layer: Any, kind: str, name: str, names: tuple[str, ...], shape: Any
    ) -> str:
        if kind == "Activation":
            return self._add_activation(name, names[0], shape, activation_name(layer))
        if kind == "SeparableConv2D":
            return self._read_separable(layer, name, names[0], shape)
        if kind in SCALINGS:
            weights = scaling_weights(layer, shape[-1])
            return self.add(name, "BatchNormalization", names, shape, BARE_BATCH_NORM, weights)
        raw = layer.get_config()
        config = {key: raw[key] for key in LAYERS[kind].arguments if key in raw}
        if kind == "BatchNormalization":
            config["axis"] = -1
        if kind == "ReLU":  # the cap is None or 6; Keras may keep it as a NumPy array
            config = {"max_value": None if raw.get("max_value") is None else 6.0}
            return self.add(name, kind, names, shape, config)
        weights = {
            role_of(getattr(w, "path", w.name)): np.asarray(w, np.float32) for w in layer.weights
        }
        while kind == "Add" and len(names) > 2:
            first = self.add(f"{name}_partial", kind, names[:2], shape)
            names = (first, *names[2:])
        last = self.add(name, kind, names, shape, config, weights)
        return self._add_fused_activation(layer, kind, last, shape)

    def _add_fused_activation(self, layer: Any, kind: str, name: str, shape: Any) -> str:
        activation = "linear" if kind == "Softmax" else activation_name(layer)
        return self._add_activation(f"{name}_{activation}", name, shape, activation)

    def _add_activation(self, name: str, source: str, shape: Any, activation: str) -> str:
        if activation == "linear":
            return source
        kind = _ACTIVATIONS[activation]
        config = {"max_value": 6.0 if activation == "relu6" else None} if kind == "ReLU" else {}
        return self.add(name, kind, (source,), shape, config)

    def _read_separable(self, layer: Any, name: str, source: str, shape: Any) -> str:
        """SeparableConv2D as the depthwise and the pointwise convolution that it is."""
        raw = layer.get_config()
        weights = [np.asarray(w, np.float32) for w in layer.get_weights()]
        config = {key: raw[key] for key in ("kernel_size", "strides", "padding", "dilation_rate")}
        config |= {"depth_multiplier": raw["depth_multiplier"], "use_bias": False}
        between = (*tuple(shape)[:-1], weights[0].shape[2] * weights[0].shape[3])
        depthwise = self.add(
            f"{name}_depthwise", "DepthwiseConv2D", (source,), between, config,
            {"kernel": weights[0]},
        )  # fmt: skip
        pointwise = {"filters": raw["filters"], "kernel_size": (1, 1), "strides": (1, 1)}
        pointwise |= {"padding": "valid", "dilation_rate": (1, 1), "use_bias": raw["use_bias"]}
        roles = dict(zip(("kernel", "bias"), weights[1:], strict=False))
        last = self.add(f"{name}_pointwise", "Conv2D", (depthwise,), shape, pointwise, roles)
        return self._add_fused_activation(layer, "Conv2D", last, shape)
