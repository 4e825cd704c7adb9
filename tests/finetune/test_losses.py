"""The losses of step 4 by hand, and which network gets which."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import chain

from keras_lowbit.finetune.losses import divergence, squared_error
from keras_lowbit.graph import Graph
from keras_lowbit.reader import read

GENERATOR = np.random.default_rng(0)
OUTPUT, TARGET = GENERATOR.normal(size=(2, 5, 3))


def head(activation: str | None) -> Graph:
    network = chain((4,), lambda k: k.Dense(3, activation=activation, name="last"))
    return read(networks.randomize(network(tf_keras)))


def measured(graph: Graph, output: np.ndarray, target: np.ndarray) -> float:
    tensors = [[tf.constant(x, tf.float32)] for x in (output, target)]
    return float(divergence(graph, ("last",), [2.0])(*tensors))


def test_behind_a_softmax_it_is_the_divergence_of_classes() -> None:
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (TARGET, OUTPUT))
    by_hand = (p * np.log(p / q)).sum(axis=1).mean()
    assert measured(head("softmax"), OUTPUT, TARGET) == pytest.approx(by_hand, rel=1e-5)


def test_a_constant_added_to_all_logits_costs_nothing() -> None:
    assert measured(head("softmax"), TARGET + 3.0, TARGET) == pytest.approx(0.0, abs=1e-6)


def test_behind_a_sigmoid_it_is_the_divergence_of_events() -> None:
    p, q = (1.0 / (1.0 + np.exp(-x)) for x in (TARGET, OUTPUT))
    by_hand = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1).mean()
    assert measured(head("sigmoid"), OUTPUT, TARGET) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_elsewhere_it_is_the_squared_error(activation: str | None) -> None:
    by_hand = ((OUTPUT - TARGET) ** 2).mean() / 2.0
    assert measured(head(activation), OUTPUT, TARGET) == pytest.approx(by_hand, rel=1e-5)


BEHIND = {
    "reshape": (lambda k: k.Reshape((3,)), (1, 1)),
    "flatten": (lambda k: k.Flatten(), (1, 1)),
    "global average": (lambda k: k.GlobalAveragePooling2D(), (4, 2)),
    "both": (lambda k: k.GlobalAveragePooling2D(keepdims=True), (4, 2), lambda k: k.Flatten()),
}


@pytest.mark.parametrize("way", list(BEHIND))
def test_the_softmax_may_be_behind_a_change_of_shape_or_an_average(way: str) -> None:
    first, size, *more = BEHIND[way]
    network = chain(
        (*size, 4), lambda k: k.Conv2D(3, 1, name="last"), first, *more, lambda k: k.Softmax()
    )
    output, target = GENERATOR.normal(size=(2, 5, *size, 3))
    graph = read(networks.randomize(network(tf_keras)))
    by_hand = measured(head("softmax"), output.mean(axis=(1, 2)), target.mean(axis=(1, 2)))
    assert measured(graph, output, target) == pytest.approx(by_hand, rel=1e-5)


def test_an_output_that_others_read_too_is_no_logit() -> None:
    image = tf_keras.Input((2, 2, 4), name="image")
    last = tf_keras.layers.Conv2D(3, 1, name="last")(image)
    flat = tf_keras.layers.Flatten()(last)
    model = tf_keras.Model(image, [tf_keras.layers.Softmax()(flat), flat])
    output, target = GENERATOR.normal(size=(2, 5, 2, 2, 3))
    by_hand = ((output - target) ** 2).mean() / 2.0
    graph = read(networks.randomize(model))
    assert measured(graph, output, target) == pytest.approx(by_hand, rel=1e-5)


def test_the_squared_error_is_that_of_the_paper_whatever_follows() -> None:
    tensors = [[tf.constant(x, tf.float32)] for x in (OUTPUT, TARGET)]
    by_hand = ((OUTPUT - TARGET) ** 2).mean() / 2.0
    assert float(squared_error([2.0])(*tensors)) == pytest.approx(by_hand, rel=1e-5)


def test_several_outputs_add_up() -> None:
    graph = read(networks.randomize(networks.two_outputs(tf_keras)))
    names = ("left", "right")
    shapes = [(5, *graph[name].shape) for name in names]
    outputs, targets = (
        [tf.constant(GENERATOR.normal(size=shape), tf.float32) for shape in shapes] for _ in "ab"
    )
    both = divergence(graph, names, [1.0, 1.0])(outputs, targets)
    alone = [
        divergence(graph, (name,), [1.0])([output], [target])
        for name, output, target in zip(names, outputs, targets, strict=True)
    ]
    assert float(both) == pytest.approx(float(sum(alone)), rel=1e-5)
