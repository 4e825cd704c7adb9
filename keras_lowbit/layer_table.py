"""What is known of each layer class: its arguments, weights and channel axis.

A layer class is either here (as itself or as something :mod:`keras_lowbit.reader` rewrites it to)
or refused by name.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from keras_lowbit._keras import keras


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """One kind of node.

    Attributes:
      arguments: constructor arguments that determine what the layer computes.
      kernel: name of the kernel in tf_keras, None for layers without weights.
      kernel_axis: axes of the kernel that count its output channels.
      keeps_grid: output values are input values (or zero), so no quantizer is needed behind it.
      averages: output must be rounded back to the grid of the input.
    """

    arguments: tuple[str, ...] = ()
    kernel: str | None = None
    kernel_axis: tuple[int, ...] = ()
    keeps_grid: bool = False
    averages: bool = False


_CONV = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
_POOL = ("pool_size", "strides", "padding")

LAYERS: dict[str, LayerInfo] = {
    "Input": LayerInfo(("shape",)),
    "Conv2D": LayerInfo(("filters", *_CONV), "kernel", (3,)),
    "Conv1D": LayerInfo(("filters", *_CONV), "kernel", (2,)),
    "DepthwiseConv2D": LayerInfo(("depth_multiplier", *_CONV), "depthwise_kernel", (2, 3)),
    "Dense": LayerInfo(("units", "use_bias"), "kernel", (1,)),
    "Add": LayerInfo(),
    "Concatenate": LayerInfo(("axis",), keeps_grid=True),
    "AveragePooling2D": LayerInfo(_POOL, averages=True),
    "AveragePooling1D": LayerInfo(_POOL, averages=True),
    "GlobalAveragePooling2D": LayerInfo(("keepdims",), averages=True),
    "GlobalAveragePooling1D": LayerInfo(("keepdims",), averages=True),
    "MaxPooling2D": LayerInfo(_POOL, keeps_grid=True),
    "MaxPooling1D": LayerInfo(_POOL, keeps_grid=True),
    "ZeroPadding2D": LayerInfo(("padding",), keeps_grid=True),
    "ZeroPadding1D": LayerInfo(("padding",), keeps_grid=True),
    "Flatten": LayerInfo(keeps_grid=True),
    "Reshape": LayerInfo(("target_shape",), keeps_grid=True),
    "ReLU": LayerInfo(("max_value",)),
    "Softmax": LayerInfo(),
    "Sigmoid": LayerInfo(),
    "Quantize": LayerInfo(),
    "BatchNormalization": LayerInfo(("axis", "epsilon", "center", "scale")),
}

# Layers whose output range TFLite fixes: scale 1/256, zero point -128, 8 bits.
FIXED_RANGE = ("Softmax", "Sigmoid")


def has_kernel(kind: str) -> bool:
    """True for the layers whose weights are quantized."""
    return LAYERS[kind].kernel is not None


def make_layer(kind: str, name: str, config: dict[str, Any]) -> Any:
    """A fresh, unbuilt tf_keras layer of this kind, float32 under every global policy.

    ``Sigmoid`` and ``Quantize`` (a change of grid, the identity in float) are activations.
    """
    if kind == "Sigmoid":
        return keras.layers.Activation("sigmoid", name=name, dtype="float32")
    if kind == "Quantize":
        return keras.layers.Activation("linear", name=name, dtype="float32")
    maker = getattr(keras.layers, kind)
    if "data_format" in inspect.signature(maker).parameters:  # whatever the global one is
        config = {**config, "data_format": "channels_last"}
    return maker(name=name, dtype="float32", **config)
