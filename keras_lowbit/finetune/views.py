"""What the float network says of a sample on average over views of it, which is truer than any one answer.

Views of an image are the image shifted and mirrored. The mean of the answers is the target of all of
them: the quantized network learns at once what the float network knows and not to mind the view
(Radosavovic et al. 2018, "Data distillation: towards omni-supervised learning"). It is a target for
classes alone, and not where a view may be of another class, as an arrow in a mirror is. So every class has
to be recognised in most views of its samples; else each view keeps its own answer.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_lowbit.finetune.augmentation import SEEDS_APART, Augmentation, Inputs, mixed
from keras_lowbit.graph import Graph
from keras_lowbit.reconstruct.activations import BATCH, UnitFunction
from keras_lowbit.reconstruct.training import Redraw

VIEWS = 16
RECOGNISED = 0.75  # of the views of a class, at least; of an arrow half are taken for the other one


def mean_over_views(
    float_network: UnitFunction,
    inputs: list[tf.Tensor],
    views: Augmentation,
    generator: np.random.Generator,
) -> tuple[list[tf.Tensor], np.ndarray]:
    """The mean logits of every sample, and the classes seen.

    Args:
      float_network: gives logits, float32 (samples, classes).
      inputs: float32 (samples, ...) per input of the network.
      views: makes them.
      generator: decides which.

    Returns:
      The targets, as the network's outputs, and the class in each view, int (samples, views).
    """
    seeds = generator.integers(2**30, size=(VIEWS, 2))
    means, classes = [], []
    for start in range(0, len(inputs[0]), BATCH):
        batch = [x[start : start + BATCH] for x in inputs]
        logits = [
            float_network(views(batch, tf.constant(seed + start, tf.int32)))[0] for seed in seeds
        ]
        means.append(tf.add_n(logits) / float(VIEWS))
        classes.append(np.stack([np.argmax(answer, axis=1) for answer in logits], axis=1))
    return [tf.concat(means, axis=0)], np.concatenate(classes)


def tells_classes(graph: Graph, names: tuple[str, ...]) -> bool:
    """Whether there is one output, and a softmax makes probabilities of one class per sample of it."""
    follower = graph.only_consumer(names[0])
    return len(names) == 1 and len(graph[names[0]].shape) == 1 and (
        follower is not None and follower.kind == "Softmax"
    )  # fmt: skip


def are_recognised(answers: tf.Tensor, classes: np.ndarray) -> bool:
    """Whether the views of every class are of that class, mostly.

    Args:
      answers: logits of the samples as they are, (samples, classes).
      classes: of their views, (samples, views).
    """
    own = np.argmax(answers, axis=1)
    same = (classes == own[:, None]).mean(axis=1)
    return all(same[own == one].mean() >= RECOGNISED for one in np.unique(own))


def towards_means(views: Augmentation, are_blended: bool, float_network: UnitFunction) -> Redraw:
    """Other samples and what they should give, where the targets of samples are means over views.

    A view should give the mean. A blend of views should give what the float network says of it, and as much more
    as the means of the blended samples are above what it says of their views.

    Args:
      views: makes them.
      are_blended: whether some are blended with another one.
      float_network: as for :func:`mean_over_views`.
    """

    def redraw(batch: Inputs, means: Inputs, seed: tf.Tensor) -> tuple[Inputs, Inputs]:
        shown = views(batch, seed)
        if not are_blended:
            return shown, means
        more = means[0] - float_network(shown)[0]
        *blends, blended_more = mixed([*shown, more], seed + SEEDS_APART * len(views.names))
        return blends, [float_network(blends)[0] + blended_more]

    return redraw
