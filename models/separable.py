"""The parts of which DS-CNN and MobileNetV1 are built."""

import tensorflow as tf
import tf_keras
from tf_keras import layers

_WEIGHT_DECAY = 1e-4


def convolution(
    inputs: tf.Tensor,
    filters: int,
    kernel_size: int | tuple[int, int],
    name: str,
    strides: int = 1,
    initializer: str = "glorot_uniform",
) -> tf.Tensor:
    """A convolution with padding, its batch norm and ReLU."""
    outputs = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        kernel_initializer=initializer,
        kernel_regularizer=tf_keras.regularizers.L2(_WEIGHT_DECAY),
        name=name,
    )(inputs)
    return _activated(outputs, name)


def separable_pair(
    inputs: tf.Tensor,
    filters: int,
    name: str,
    strides: int = 1,
    initializer: str = "glorot_uniform",
) -> tf.Tensor:
    """A 3 x 3 depthwise convolution, then a 1 x 1 one, each with batch norm and ReLU.

    As in MLPerf Tiny, only the 1 x 1 convolution is regularised and takes `initializer`.
    """
    depthwise = layers.DepthwiseConv2D(
        3, strides=strides, padding="same", name=f"{name}_depthwise"
    )(inputs)
    depthwise = _activated(depthwise, f"{name}_depthwise")
    return convolution(depthwise, filters, 1, f"{name}_pointwise", initializer=initializer)


def _activated(inputs: tf.Tensor, name: str) -> tf.Tensor:
    outputs = layers.BatchNormalization(name=f"{name}_norm")(inputs)
    return layers.Activation("relu", name=f"{name}_relu")(outputs)
