"""Small networks for the tests, the same ones in both flavours of Keras.

A network is a function of a Keras module (tf_keras or Keras 3) that returns a model; the weights
come from :func:`randomize`, by position, so that both flavours get the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras as keras3
import numpy as np
import tf_keras

from keras_lowbit.graph import Graph, Node

FLAVOURS = {"tf_keras": tf_keras, "keras3": keras3}
Network = Callable[[Any], Any]


def chain(shape: tuple[int, ...], *calls: Callable[[Any], Any]) -> Network:
    """A network of one layer after the other; each call makes a layer from ``keras.layers``."""

    def build(keras: Any) -> Any:
        image = keras.Input(shape, name="image")
        tensor = image
        for call in calls:
            tensor = call(keras.layers)(tensor)
        return keras.Model(image, tensor)

    return build


def randomize(model: Any, seed: int = 0) -> Any:
    """Random weights of a trained net's size; variances positive. Returns the model."""
    generator = np.random.default_rng(seed)
    values = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        name = getattr(variable, "path", variable.name)
        if "kernel" in name:
            value = generator.normal(0.0, 1.0 / np.sqrt(np.prod(shape[:-1])), shape)
        elif "variance" in name or "gamma" in name:
            value = generator.uniform(0.5, 2.0, shape)
        else:
            value = generator.normal(0.0, 0.3, shape)
        values.append(value.astype(np.float32))
    model.set_weights(values)
    return model


def samples(model: Any, count: int = 8, seed: int = 1) -> list[np.ndarray]:
    """Standard normal inputs, one array per model input."""
    generator = np.random.default_rng(seed)
    return [
        generator.normal(size=(count, *tuple(tensor.shape)[1:])).astype(np.float32)
        for tensor in model.inputs
    ]


def outputs(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The model's outputs as a list of arrays."""
    result = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    if isinstance(result, dict):
        result = list(result.values())
    return [np.asarray(r) for r in (result if isinstance(result, (list, tuple)) else [result])]


def residual(keras: Any) -> Any:
    """A residual block, a depthwise-separable pair and a classifier, with batch norms."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    stem = layers.BatchNormalization(name="stem_norm")(stem)
    stem = layers.ReLU(name="stem_relu")(stem)
    inner = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(stem)
    inner = layers.Conv2D(8, 3, padding="same", name="second")(inner)
    inner = layers.BatchNormalization(name="second_norm")(inner)
    joined = layers.Add(name="add")([stem, inner])
    joined = layers.ReLU(name="add_relu")(joined)
    pair = layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(joined)
    pair = layers.BatchNormalization(name="depthwise_norm")(pair)
    pair = layers.ReLU(name="depthwise_relu")(pair)
    pair = layers.Conv2D(16, 1, activation="relu", name="pointwise")(pair)
    pooled = layers.GlobalAveragePooling2D(name="pool")(pair)
    return keras.Model(image, layers.Dense(4, activation="softmax", name="classifier")(pooled))


def two_outputs(keras: Any) -> Any:
    """A shared trunk and two heads."""
    layers = keras.layers
    image = keras.Input((6, 6, 2), name="image")
    trunk = layers.Conv2D(4, 3, activation="relu", name="trunk")(image)
    left = layers.Dense(3, name="left")(layers.Flatten(name="flat")(trunk))
    right = layers.Dense(2, name="right")(layers.GlobalAveragePooling2D(name="pool")(trunk))
    return keras.Model(image, [left, right])


def node(name: str, kind: str, *inputs: str, shape: tuple[int, ...] = (4,), **config: Any) -> Node:
    """A node without weights."""
    return Node(name, kind, inputs, shape, config)


def graph_of(*nodes: Node, outputs: tuple[str, ...] = ()) -> Graph:
    """A graph whose inputs are its Input nodes and whose output is by default the last node."""
    inputs = [n.name for n in nodes if n.kind == "Input"]
    return Graph(nodes, inputs, outputs or (nodes[-1].name,))
