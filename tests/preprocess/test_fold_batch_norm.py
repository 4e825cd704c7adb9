"""Folding batch norms changes the graph and not the function."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
import tf_keras
from networks import chain

from keras_lowbit.graph import Graph, build
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm
from keras_lowbit.reader import UnsupportedModelError, read

IMAGE = (7, 6, 3)


def norm(keras_layers: Any) -> Any:
    return keras_layers.BatchNormalization(name="norm")


FOLDED = {  # what becomes of the batch norm called "norm"
    "conv": (
        chain(IMAGE, lambda k: k.Conv2D(4, 3, name="c"), norm, lambda k: k.ReLU()),
        "folded into c",
    ),
    "conv without bias": (
        chain(IMAGE, lambda k: k.Conv2D(4, 3, padding="same", use_bias=False, name="c"), norm),
        "folded into c",
    ),
    "depthwise": (
        chain(IMAGE, lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="c"), norm),
        "folded into c",
    ),
    "separable": (
        chain(IMAGE, lambda k: k.SeparableConv2D(5, 3, name="c"), norm),
        "folded into c_pointwise",
    ),
    "conv1d": (
        chain((9, 3), lambda k: k.Conv1D(4, 3, padding="causal", name="c"), norm),
        "folded into c",
    ),
    "dense": (chain((5,), lambda k: k.Dense(4, name="c"), norm), "folded into c"),
    "two in a row": (
        chain(IMAGE, lambda k: k.Conv2D(4, 3, name="c"), lambda k: k.BatchNormalization(), norm),
        "folded into c",
    ),
    "bare": (
        chain(
            (5,), lambda k: k.Dense(4, name="c"),
            lambda k: k.BatchNormalization(center=False, scale=False, epsilon=0.1, name="norm"),
        ),
        "folded into c",
    ),
    "relu, then unpadded conv": (
        chain(
            IMAGE, lambda k: k.Conv2D(4, 3, activation="relu"), norm,
            lambda k: k.Conv2D(2, (2, 3), strides=2, name="next"),
        ),
        "folded into next",
    ),
    "relu, then padded 1x1": (
        chain(
            IMAGE, lambda k: k.Conv2D(4, 3, activation="relu"), norm,
            lambda k: k.Conv2D(2, 1, padding="same", use_bias=False, name="next"),
        ),
        "folded into next",
    ),
    "relu, then unpadded depthwise": (
        chain(
            IMAGE, lambda k: k.Conv2D(4, 3, activation="relu"), norm,
            lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="next"),
        ),
        "folded into next",
    ),
    "relu, then unpadded conv1d": (
        chain(
            (9, 3), lambda k: k.Conv1D(4, 3, activation="relu"), norm,
            lambda k: k.Conv1D(2, 3, strides=2, name="next"),
        ),
        "folded into next",
    ),
    "relu, then dense": (
        chain((5,), lambda k: k.Dense(4, activation="relu"), norm, lambda k: k.Dense(3, name="d")),
        "folded into d",
    ),
    "relu, then padded conv": (
        chain(
            IMAGE, lambda k: k.Conv2D(4, 3, activation="relu"), norm,
            lambda k: k.Conv2D(2, 3, padding="same"),
        ),
        "became a 1x1 depthwise convolution",
    ),
    "first layer": (
        chain(IMAGE, norm, lambda k: k.Conv2D(4, 3, padding="same")),
        "became a 1x1 depthwise convolution",
    ),
    "sequence, then padded conv": (
        chain((9, 3), norm, lambda k: k.Conv1D(4, 3, padding="same")),
        "became a 1x1 depthwise convolution",
    ),
    "vector, last layer": (
        chain((5,), lambda k: k.Dense(4, activation="relu"), norm),
        "became a 1x1 depthwise convolution",
    ),
    "last layer": (
        chain(IMAGE, lambda k: k.MaxPooling2D(2), norm),
        "became a 1x1 depthwise convolution",
    ),
}  # fmt: skip


def nasty(model: Any, seed: int = 0) -> Any:
    """Tiny and huge variances, negative and zero gammas, means far off."""
    networks.randomize(model, seed)
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            size = layer.moving_mean.shape[0]
            layer.moving_variance.assign(10.0 ** generator.uniform(-5, 3, size))
            layer.moving_mean.assign(generator.normal(0, 3, size))
            if layer.gamma is not None:
                gamma = generator.normal(0, 1, size) * np.sqrt(layer.moving_variance.numpy())
                gamma[0] = 0.0
                layer.gamma.assign(gamma)
    return model


def assert_same_function(folded: Graph, model: Any) -> None:
    inputs = networks.samples(model, 16)
    for actual, expected in zip(
        networks.outputs(build(folded), inputs), networks.outputs(model, inputs), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FOLDED)
def test_the_function_is_kept(name: str) -> None:
    network, fate = FOLDED[name]
    model = nasty(network(tf_keras))
    graph = read(model)
    folded, fates = fold_batch_norm(graph)
    assert fates["norm"] == fate
    assert not any(n.kind == "BatchNormalization" for n in folded.nodes)
    assert all(value.dtype == np.float32 for n in folded.nodes for value in n.weights.values())
    assert_same_function(folded, model)
    assert any(n.kind == "BatchNormalization" for n in graph.nodes)  # the original is untouched


def test_a_whole_network() -> None:
    model = nasty(networks.residual(tf_keras))
    folded, fates = fold_batch_norm(read(model))
    assert len(fates) == 3
    assert_same_function(folded, model)


def test_a_convolution_that_others_read_is_not_scaled() -> None:
    image = tf_keras.Input(IMAGE)
    conv = tf_keras.layers.Conv2D(4, 3, name="conv")(image)
    normed = tf_keras.layers.BatchNormalization(name="norm")(conv)
    model = nasty(tf_keras.Model(image, tf_keras.layers.Add()([conv, normed])))
    folded, fates = fold_batch_norm(read(model))
    assert fates == {"norm": "became a 1x1 depthwise convolution"}
    assert_same_function(folded, model)


def test_a_model_output_is_not_scaled() -> None:
    image = tf_keras.Input((5,))
    dense = tf_keras.layers.Dense(4)(image)
    normed = tf_keras.layers.BatchNormalization(name="norm")(dense)
    model = nasty(tf_keras.Model(image, [dense, tf_keras.layers.Dense(2, name="next")(normed)]))
    folded, fates = fold_batch_norm(read(model))
    assert fates == {"norm": "folded into next"}
    assert_same_function(folded, model)


def test_what_cannot_be_folded_is_refused_by_name() -> None:
    model = chain((24,), lambda k: k.Reshape((2, 3, 2, 2)), norm, lambda k: k.Flatten())(tf_keras)
    with pytest.raises(
        UnsupportedModelError, match=r"'norm' cannot be folded.*Received: .*\(2, 3, 2, 2\)"
    ):
        fold_batch_norm(read(model))
