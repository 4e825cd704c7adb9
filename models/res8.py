"""Res8 of MLPerf Tiny: the ResNet v1 with eight weighted layers in a row, for CIFAR-10."""

from pathlib import Path

import tensorflow as tf
import tf_keras
from tf_keras import layers

from models.weight_files import load_weights

WEIGHTS_PATH = Path(__file__).with_name("res8.npz")

_WEIGHT_DECAY = 1e-4


def build() -> tf_keras.Model:
    """The untrained net: float32 [n, 32, 32, 3] in 0..255 to class probabilities [n, 10].

    78,666 parameters, 77,706 once its batch norms are folded. Layer by layer the network that
    mlcommons/tiny publishes (benchmark/training/image_classification, Apache-2.0), its weights in
    the same order; `models.pretrained.load_res8` reads that one as it was trained there.
    """
    image = layers.Input((32, 32, 3), name="image")
    hidden = _relu(_norm(_convolution(image, 16, 3, "stem"), "stem"), "stem")
    hidden = _stage(hidden, 16, 1, "stage_first")
    hidden = _stage(hidden, 32, 2, "stage_second")
    hidden = _stage(hidden, 64, 2, "stage_third")
    hidden = layers.AveragePooling2D(8, name="pool")(hidden)
    hidden = layers.Flatten(name="flatten")(hidden)
    probabilities = layers.Dense(
        10, activation="softmax", kernel_initializer="he_normal", name="classifier"
    )(hidden)
    return tf_keras.Model(image, probabilities, name="res8")


def load() -> tf_keras.Model:
    """The net of `build()` with the weights that `python -m models.train_res8` wrote."""
    model = build()
    load_weights(model, WEIGHTS_PATH)
    return model


def _stage(inputs: tf.Tensor, filters: int, strides: int, name: str) -> tf.Tensor:
    """Two convolutions and a shortcut, which is a convolution as well where the shape changes."""
    hidden = _convolution(inputs, filters, 3, f"{name}_conv_first", strides)
    hidden = _relu(_norm(hidden, f"{name}_conv_first"), f"{name}_conv_first")
    hidden = _convolution(hidden, filters, 3, f"{name}_conv_second")
    hidden = _norm(hidden, f"{name}_conv_second")
    shortcut = inputs
    if strides != 1:
        shortcut = _convolution(inputs, filters, 1, f"{name}_shortcut", strides)
    return _relu(layers.Add(name=f"{name}_add")([shortcut, hidden]), name)


def _convolution(
    inputs: tf.Tensor, filters: int, kernel_size: int, name: str, strides: int = 1
) -> tf.Tensor:
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        kernel_initializer="he_normal",
        kernel_regularizer=tf_keras.regularizers.L2(_WEIGHT_DECAY),
        name=name,
    )(inputs)


def _norm(inputs: tf.Tensor, name: str) -> tf.Tensor:
    return layers.BatchNormalization(name=f"{name}_norm")(inputs)


def _relu(inputs: tf.Tensor, name: str) -> tf.Tensor:
    return layers.Activation("relu", name=f"{name}_relu")(inputs)
