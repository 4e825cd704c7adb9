"""How far the outputs of the quantized network are from those of the float network.

A classifier is to give the same probabilities, not the same logits: the Kullback-Leibler divergence
spends nothing on a constant added to all logits, and little on classes that are out of the question
(Hinton et al. 2015, "Distilling the knowledge in a neural network", at temperature 1).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_lowbit.graph import Graph
from keras_lowbit.reconstruct.reconstructor import relative_error
from keras_lowbit.reconstruct.training import Loss

Divergence = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def squared_error(power: list[float]) -> Loss:
    """The paper's loss: mean squared errors, relative to the mean squares ``power``."""
    return lambda outputs, wanted: relative_error(outputs, wanted, power)


def divergence(graph: Graph, names: tuple[str, ...], power: list[float]) -> Loss:
    """The divergence of probabilities, in nats a sample; elsewhere the relative squared error.

    Args:
      graph: says what follows each output: a softmax, a sigmoid or neither.
      names: the nodes that compute the outputs.
      power: the mean square of each output, for those that nothing follows.
    """
    terms = [_of_one(graph, name, mean) for name, mean in zip(names, power, strict=True)]

    def loss(outputs: list[tf.Tensor], wanted: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([
            term(output, target)
            for term, output, target in zip(terms, outputs, wanted, strict=True)
        ])  # fmt: skip

    return loss


def _of_one(graph: Graph, name: str, power: float) -> Divergence:
    follower = graph.only_consumer(name)
    if follower and follower.kind in _BETWEEN:
        return _BETWEEN[follower.kind]
    return lambda output, target: relative_error([output], [target], [power])


def _between_classes(output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Logits of classes along the last axis."""
    excess = tf.nn.log_softmax(target) - tf.nn.log_softmax(output)
    return tf.reduce_mean(tf.reduce_sum(tf.nn.softmax(target) * excess, axis=-1))


def _between_events(output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Logits of independent events, summed over the last axis."""
    probability = tf.sigmoid(target)
    cross, own = (
        tf.nn.sigmoid_cross_entropy_with_logits(labels=probability, logits=logits)
        for logits in (output, target)
    )
    return tf.reduce_mean(tf.reduce_sum(cross - own, axis=-1))


_BETWEEN: dict[str, Divergence] = {"Softmax": _between_classes, "Sigmoid": _between_events}
