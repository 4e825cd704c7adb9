"""A small residual, depthwise-separable convnet for 8 x 8 handwritten digits."""

from pathlib import Path

import tensorflow as tf
import tf_keras
from tf_keras import layers

from models.weight_files import load_weights

WEIGHTS_PATH = Path(__file__).with_name("digits.weights.npz")


def build() -> tf_keras.Model:
    """The untrained net: float32 [n, 8, 8, 1] in 0..1 to class probabilities [n, 10].

    13,050 parameters, 352 of them moving statistics. One residual block at 8 x 8, a strided
    convolution to 4 x 4, one depthwise-separable pair.
    """
    image = layers.Input((8, 8, 1), name="image")
    stem = _relu(_convolution(image, 16, 3, "stem"), "stem")

    residual = _relu(_convolution(stem, 16, 3, "residual_first"), "residual_first")
    residual = _convolution(residual, 16, 3, "residual_second")
    joined = _relu(layers.Add(name="residual_add")([stem, residual]), "residual")

    reduced = _relu(_convolution(joined, 32, 3, "reduce", strides=2), "reduce")

    depthwise = layers.DepthwiseConv2D(
        3, padding="same", use_bias=False, name="separable_depthwise"
    )(reduced)
    depthwise = layers.BatchNormalization(name="separable_depthwise_norm")(depthwise)
    depthwise = _relu(depthwise, "separable_depthwise")
    pointwise = _relu(_convolution(depthwise, 64, 1, "separable_pointwise"), "separable_pointwise")

    pooled = layers.GlobalAveragePooling2D(name="pool")(pointwise)
    probabilities = layers.Dense(10, activation="softmax", name="classifier")(pooled)
    return tf_keras.Model(image, probabilities, name="digits")


def load() -> tf_keras.Model:
    """The net of `build()` with the weights that `python -m models.train_digits` wrote."""
    model = build()
    load_weights(model, WEIGHTS_PATH)
    return model


def _convolution(
    inputs: tf.Tensor, filters: int, kernel_size: int, name: str, strides: int = 1
) -> tf.Tensor:
    """Convolution and batch norm; the norm has the bias, so the convolution needs none."""
    outputs = layers.Conv2D(
        filters, kernel_size, strides=strides, padding="same", use_bias=False, name=name
    )(inputs)
    return layers.BatchNormalization(name=f"{name}_norm")(outputs)


def _relu(inputs: tf.Tensor, name: str) -> tf.Tensor:
    return layers.ReLU(name=f"{name}_relu")(inputs)
