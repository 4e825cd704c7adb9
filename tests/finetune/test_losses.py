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


def test_an_output_that_others_read_too_is_no_logit() -> None:
    values = tf_keras.Input((4,))
    last = tf_keras.layers.Dense(3, name="last")(values)
    graph = read(
        networks.randomize(tf_keras.Model(values, [tf_keras.layers.Softmax()(last), last]))
    )
    by_hand = ((OUTPUT - TARGET) ** 2).mean() / 2.0
    assert measured(graph, OUTPUT, TARGET) == pytest.approx(by_hand, rel=1e-5)


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
