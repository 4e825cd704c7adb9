"""Batch-norm folding: a batch norm at inference is one multiplication and one addition a channel.

With ``factor = gamma / sqrt(variance + epsilon)``, a batch norm computes
``factor * x + (beta - mean * factor)`` (Zhuo et al. 2022, step 1). It is folded backwards into the
layer before it, else forwards into the layer behind it, else it becomes a 1x1 depthwise
convolution. All arithmetic is float64, rounded to float32 once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import LAYERS, has_kernel
from keras_lowbit.reader import UnsupportedModelError


@dataclasses.dataclass(frozen=True)
class _Affine:
    """``factor * x + offset`` per channel, float64 (channels,)."""

    factor: np.ndarray
    offset: np.ndarray


def fold_batch_norm(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """Remove every batch norm without changing the function.

    Args:
      graph: as read; batch norms are nodes of kind "BatchNormalization".

    Returns:
      The folded graph (outputs equal to 1e-4) and, by batch norm, what became of it.

    Raises:
      UnsupportedModelError: a batch norm that no supported layer can express.
    """
    folded = {}
    for name in [node.name for node in graph.nodes if node.kind == "BatchNormalization"]:
        node = graph[name]  # of the graph as folded so far
        before = graph[node.inputs[0]]
        after = graph.only_consumer(node.name)
        if has_kernel(before.kind) and graph.only_consumer(before.name) is not None:
            graph = graph.without(node.name).updated(_scaled_outputs(before, _affine(node)))
            folded[node.name] = f"folded into {before.name}"
        elif after is not None and _may_scale_inputs(after, _affine(node)):
            graph = graph.updated(_scaled_inputs(after, _affine(node))).without(node.name)
            folded[node.name] = f"folded into {after.name}"
        elif len(node.shape) <= 3:
            graph = graph.updated(*_as_depthwise(graph, node))
            folded[node.name] = "became a 1x1 depthwise convolution"
        else:
            raise UnsupportedModelError(
                f"The batch norm or rescaling {node.name!r} cannot be folded: it follows {before.name!r} "
                f"({before.kind}), whose output others read too or which has no weights, and no "
                "Dense or unpadded convolution follows it. Move it directly behind a Dense or "
                f"convolution. Received: one of shape {node.shape}"
            )
    return graph, folded


def _affine(node: Node) -> _Affine:
    weights = {role: value.astype(np.float64) for role, value in node.weights.items()}
    factor = weights.get("gamma", 1.0) / np.sqrt(weights["variance"] + node.config["epsilon"])
    return _Affine(factor, weights.get("beta", 0.0) - weights["mean"] * factor)


def _with_bias(node: Node, kernel: np.ndarray, bias: np.ndarray) -> Node:
    weights = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return node.replace(weights=weights, config={**node.config, "use_bias": True})


def _scaled_outputs(node: Node, affine: _Affine) -> Node:
    """``node`` followed by the affine map, as one node of the same kind."""
    kernel = node.weights["kernel"].astype(np.float64)
    bias = node.weights.get("bias", np.zeros(1, np.float32)).astype(np.float64)
    channel_shape = tuple(
        n if axis in LAYERS[node.kind].kernel_axis else 1 for axis, n in enumerate(kernel.shape)
    )
    scaled = kernel * affine.factor.reshape(channel_shape)
    return _with_bias(node, scaled, bias * affine.factor + affine.offset)


def _may_scale_inputs(node: Node, affine: _Affine) -> bool:
    """True if this layer reads no padding, which is zero, or the map leaves zero where it is."""
    if node.kind not in ("Dense", "Conv1D", "Conv2D", "DepthwiseConv2D"):
        return False
    unpadded = node.kind == "Dense" or node.config["padding"] == "valid"
    return unpadded or set(np.ravel(node.config["kernel_size"])) == {1} or not affine.offset.any()


def _scaled_inputs(node: Node, affine: _Affine) -> Node:
    """The affine map followed by ``node``, as one node of the same kind."""
    kernel = node.weights["kernel"].astype(np.float64)
    bias = node.weights.get("bias", np.zeros(1, np.float32)).astype(np.float64)
    shape = (-1, 1)  # (..., channels in, channels out or multiplier)
    offset = kernel * affine.offset.reshape(shape)
    if node.kind == "DepthwiseConv2D":
        shift = offset.sum(axis=(0, 1)).reshape(-1)
    else:
        shift = offset.reshape(-1, kernel.shape[-1]).sum(axis=0)
    return _with_bias(node, kernel * affine.factor.reshape(shape), bias + shift)


def _as_depthwise(graph: Graph, node: Node) -> list[Node]:
    """A depthwise convolution; of vectors and sequences as images of one row."""
    affine = _affine(node)
    config: dict[str, Any] = {"kernel_size": (1, 1), "strides": (1, 1), "padding": "valid"}
    config |= {"dilation_rate": (1, 1), "depth_multiplier": 1}
    bare = node.replace(kind="DepthwiseConv2D", config=config)
    depthwise = _with_bias(bare, affine.factor.reshape(1, 1, -1, 1), np.ravel(affine.offset))
    if len(node.shape) == 3:
        return [depthwise]
    image = (*(1,) * (3 - len(node.shape)), *node.shape)
    names = []
    for role in ("image", "depthwise"):
        name = f"{node.name}_{role}"
        while name in graph:
            name = f"{name}_1"
        names.append(name)
    return [
        Node(names[0], "Reshape", node.inputs, image, {"target_shape": image}),
        depthwise.replace(name=names[1], inputs=names[:1], shape=image),
        Node(node.name, "Reshape", (names[1],), node.shape, {"target_shape": node.shape}),
    ]
