"""Step 4: tune the whole network against the outputs of the float model, end to end.

``PTQConfig.tune`` lists what may move. The paper's form trains the biases only, to the least squared
error of the outputs (Hubara et al. 2020, section 3.3): ``("bias",)``. Any wider form moves kernels,
weight scales or activation ranges straight through the rounding, and brings a classifier's
probabilities to those of the float model: a short distillation on the same unlabelled samples. Of images
it learns the float model's mean answer over views of each, see :mod:`keras_lowbit.finetune.views`.
Activations of 2 and 3 bits are rounded little by little there, see :func:`keras_lowbit.reconstruct.training.train`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from keras_lowbit.callbacks import CallbackList
from keras_lowbit.config import PTQConfig
from keras_lowbit.finetune.augmentation import COLOURS, Augmentation, Inputs, augmentation_for
from keras_lowbit.finetune.losses import divergence, squared_error
from keras_lowbit.finetune.views import (
    VIEWS,
    are_recognised,
    mean_over_views,
    tells_classes,
    towards_means,
)
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.quantizers.placement import fused_relu
from keras_lowbit.reconstruct.activations import UnitFunction
from keras_lowbit.reconstruct.reconstructor import relative_error
from keras_lowbit.reconstruct.training import (
    Loss,
    Redraw,
    TunedBias,
    attach,
    movable_groups,
    train,
)
from keras_lowbit.reconstruct.units import whole_network
from keras_lowbit.reconstruct.variables import LSQ, AdaQuant

FEWEST = 32  # samples whose losses tell how much of their mean is chance
SLOWER = 0.1  # rate of biases, scales and ranges, of that of the kernels


def hold_out(
    inputs: dict[str, np.ndarray], config: PTQConfig, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Split the calibration samples by chance: seven eighths to learn from, an eighth to judge by.

    It has to be done before the reconstruction. Samples that it has seen look better before the
    end-to-end stage than they should, and the stage would be undone for that. (Ranges, a few numbers,
    have been found with all of them.) A sample and its mirror image are on one side, if the stage mirrors images.

    Args:
      inputs: calibration samples, (samples, ...), by input node.
      config: says whether there is an end-to-end stage; without, all samples are for learning.
      seed: decides the split.

    Returns:
      The samples to learn from and those to judge by; the same where there is but one.
    """
    count = len(next(iter(inputs.values())))
    if not tunes(config) or count == 1:
        return inputs, inputs
    order = np.random.default_rng([seed, count]).permutation(count)
    wanted, judges = max(count // 8, 1), set[int]()
    partners = _mirror_images(inputs) if _mirrors(config) else {}
    for index in order[::-1]:
        if len(judges) < wanted:
            judges |= {index, *partners.get(index, ())}
    is_judge = np.isin(order, [*judges])
    learnt, rest = np.sort(order[~is_judge]), order[is_judge]
    if not len(learnt):  # all samples are one
        learnt = rest
    return {n: x[learnt] for n, x in inputs.items()}, {n: x[rest] for n, x in inputs.items()}


def _mirror_images(inputs: dict[str, np.ndarray]) -> dict[int, list[int]]:
    """The samples that are mirror images of others, by these."""
    images = [x for x in inputs.values() if x.ndim == 4 and x.shape[-1] == COLOURS]
    if not images:
        return {}
    places: dict[bytes, list[int]] = {}
    for index in range(len(images[0])):
        places.setdefault(b"".join(x[index].tobytes() for x in images), []).append(index)
    mirrored = (b"".join(x[i, :, ::-1].tobytes() for x in images) for i in range(len(images[0])))
    return {index: places[image] for index, image in enumerate(mirrored) if image in places}


def _mirrors(config: PTQConfig) -> bool:
    """Whether the stage learns from mirror images too, if there are images."""
    return _distils(config) and not {"auto", "images"}.isdisjoint(config.augment.split("+"))


def tunes(config: PTQConfig) -> bool:
    """Whether the stage moves anything."""
    return bool(config.tune_steps and config.tune)


def _distils(config: PTQConfig) -> bool:
    """Whether it is more than the paper's form."""
    return config.tune != ("bias",)


def finetune(
    student: Student,
    teacher: Any,
    inputs: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    config: PTQConfig,
    callbacks: CallbackList,
    unit: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Tune the student in place.

    What makes the loss worse on samples held out is undone: with few bits and few samples, tuning may
    fit the samples alone. These are few, so a divergence has to be worse by more than its standard error, if there are
    32 of them.

    Args:
      student: reconstructed.
      teacher: the float model of the same graph.
      inputs: calibration samples, float32 (samples, ...), by input node.
      held_out: likewise, samples that no step of training sees; see :func:`hold_out`.
      config: ``batch_size``, ``augment`` and the fields whose names begin with ``tune`` matter.
      callbacks: see one more unit, after the reconstruction.
      unit: its index for the callbacks.
      seed: of the order of samples.

    Returns:
      The record of this stage: mean squared error of the network's outputs (before a softmax or
      sigmoid) before and after, relative to their mean square; "undone" where it was; "views", how many,
      where the targets are means over views, and "error_to_mean" likewise, after it.
    """
    network = whole_network(student.graph, student.placement)
    if not network.layers:  # a network of pools and the like
        return {"name": "end to end", "error_before": 0.0, "error_after": 0.0}
    function = UnitFunction(network, student.model, student)
    float_network = UnitFunction(network, teacher, None)
    arrived = [tf.constant(inputs[name]) for name in network.inputs]
    wanted = float_network.map(arrived)
    power = [float(tf.reduce_mean(tf.square(target))) + 1e-12 for target in wanted]
    before = float(relative_error(function.map(arrived), wanted, power))
    record: dict[str, Any] = {"name": "end to end", "error_before": before, "error_after": before}
    if not tunes(config):
        return record
    values = student.values()
    generator = np.random.default_rng([seed, len(student.graph.nodes)])
    loss = squared_error(power)
    if _distils(config):
        loss = divergence(student.graph, network.outputs, power)
    unseen = [tf.constant(held_out[name]) for name in network.inputs]
    targets, goal = wanted, float_network.map(unseen)
    augmentation = augmentation_for(config.augment, student.graph) if _distils(config) else None
    redraw = _answered(augmentation, float_network) if augmentation else None
    views = augmentation.views_of_images() if augmentation else None
    if views and tells_classes(student.graph, network.outputs):
        means, classes = mean_over_views(float_network, arrived, views, generator)
        if are_recognised(wanted[0], classes):
            targets, (goal, _) = means, mean_over_views(float_network, unseen, views, generator)
            redraw = towards_means(views, views != augmentation, float_network)
            record["views"] = VIEWS
        else:
            logging.info(
                "keras_lowbit: some class is not recognised in views; each keeps its answer."
            )
    before_unseen = _by_sample(loss, function.map(unseen), goal)
    callbacks.on_unit_begin(unit, {"name": record["name"], "steps": config.tune_steps})
    groups = movable_groups(student, network)
    rate = config.tune_learning_rate
    weights, ranges = _variables(config)
    tuned = student.biases if "bias" in config.tune else ()
    train(
        function, attach(student, network.layers, groups, weights, ranges),
        [TunedBias.of(student.biases[name], output_span(student, name)) for name in tuned],
        arrived, targets, loss, steps=config.tune_steps, batch_size=config.batch_size,
        bias_learning_rate=SLOWER * rate, generator=generator,
        redraw=redraw, eased=_distils(config), on_step_end=callbacks.on_step_end,
    )  # fmt: skip
    harm = _by_sample(loss, function.map(unseen), goal) - before_unseen
    if _is_kept(harm, config):
        record["error_after"] = float(relative_error(function.map(arrived), wanted, power))
        if "views" in record:
            record["error_to_mean"] = float(relative_error(function.map(arrived), targets, power))
    else:
        student.assign(values)
        record["undone"] = True
    callbacks.on_unit_end(unit, dict(record))
    return record


def _is_kept(harm: np.ndarray, config: PTQConfig) -> bool:
    """Whether the stage is worth keeping, by what it adds to the loss of every sample held out."""
    # A divergence is mostly that of a few samples. The paper's form, which compares squared errors, is not given
    # the benefit of the doubt, nor is what fewer samples judge.
    doubt = _distils(config) and len(harm) >= FEWEST
    chance = harm.std() / np.sqrt(len(harm)) if doubt else 0.0
    return bool(harm.mean() < chance)


def _by_sample(loss: Loss, outputs: list[tf.Tensor], wanted: list[tf.Tensor]) -> np.ndarray:
    """The loss of every sample by itself, float64 (samples,)."""
    single = [
        [[x[i : i + 1] for x in tensors] for i in range(len(tensors[0]))]
        for tensors in (outputs, wanted)
    ]
    return np.array([float(loss(*pair)) for pair in zip(*single, strict=True)])


def _variables(config: PTQConfig) -> tuple[LSQ | None, LSQ | None]:
    """What moves kernels and their scales, and what moves activation ranges."""
    rate, scales = config.tune_learning_rate, LSQ(SLOWER * config.tune_learning_rate)
    weights: LSQ | None = scales if "weight_scale" in config.tune else None
    if "kernel" in config.tune:
        weights = AdaQuant(rate, scales.learning_rate if weights else 0.0)
    return weights, scales if "activation_range" in config.tune else None


def _answered(augmentation: Augmentation, float_network: UnitFunction) -> Redraw:
    """Other samples, and what the float network says of them."""

    def redraw(batch: Inputs, _: Inputs, seed: tf.Tensor) -> tuple[Inputs, Inputs]:
        others = augmentation(batch, seed)
        return others, float_network(others)

    return redraw


def output_span(student: Student, name: str) -> float:
    """The range of the tensor that the bias of a layer helps to compute, from end to end."""
    relu = fused_relu(student.graph, student.graph[name])
    group = student.placement.groups[relu.name if relu else name]
    quantizer = student.activation_quantizers[group]
    return float(quantizer.scale().numpy() * (quantizer.spec.qmax - quantizer.spec.qmin))
