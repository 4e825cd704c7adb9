"""Step 4: tune the whole network against the outputs of the float model, end to end.

The paper's form trains the biases only, to the least squared error of the outputs (Hubara et al.
2020, section 3.3): ``tune_bias``. The wider form, ``tune_network``, also moves kernels, weight scales
and activation ranges straight through the rounding, and brings a classifier's probabilities to those
of the float model: a short distillation on the same unlabelled samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.callbacks import CallbackList
from keras_lowbit.config import PTQConfig
from keras_lowbit.finetune.augmentation import Inputs, augmentation_for
from keras_lowbit.finetune.losses import divergence, squared_error
from keras_lowbit.graph import Graph
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
from keras_lowbit.reconstruct.units import find_units
from keras_lowbit.reconstruct.variables import LSQ, AdaQuant

BIAS_LEARNING_RATE = 1e-3  # in units of the layer's output range
KERNEL_LEARNING_RATE = 1e-2  # in units of the kernel's scale
KERNEL_SCALE_LEARNING_RATE = 1e-3  # relative
RANGE_LEARNING_RATE = 1e-3  # relative


def finetune(
    student: Student,
    teacher: Any,
    inputs: dict[str, np.ndarray],
    config: PTQConfig,
    callbacks: CallbackList,
    unit: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Tune the student in place on seven eighths of the samples.

    What does not lower the loss on the last eighth is undone: with few bits and few samples,
    tuning may fit the samples alone.

    Args:
      student: reconstructed.
      teacher: the float model of the same graph.
      inputs: calibration samples, float32 (samples, ...), by input node.
      config: ``tune_bias``, ``tune_network``, ``tune_steps`` and ``batch_size`` matter.
      callbacks: see one more unit, after the reconstruction.
      unit: its index for the callbacks.
      seed: of the order of samples.

    Returns:
      The record of this stage: mean squared error of the network's outputs (before a softmax or
      sigmoid) before and after, relative to their mean square.
    """
    units = find_units(student.graph, student.placement, "network")
    if not units:  # a network of pools and the like
        return {"name": "end to end", "error_before": 0.0, "error_after": 0.0}
    network = units[0]
    function = UnitFunction(network, student.model, student)
    float_network = UnitFunction(network, teacher, None)
    arrived = [tf.constant(inputs[name]) for name in network.inputs]
    wanted = float_network.map(arrived)
    power = [float(tf.reduce_mean(tf.square(target))) + 1e-12 for target in wanted]
    before = float(relative_error(function.map(arrived), wanted, power))
    record: dict[str, Any] = {"name": "end to end", "error_before": before, "error_after": before}
    if not config.tune_steps or not (config.tune_bias or config.tune_network):
        return record
    values = student.values()
    generator = np.random.default_rng([seed, len(student.graph.nodes)])
    order = generator.permutation(len(arrived[0]))
    seen, unseen = np.split(order, [-max(len(order) // 8, 1)]) if len(order) > 1 else (order, order)
    loss = squared_error(power)
    if config.tune_network:
        loss = divergence(student.graph, network.outputs, power)
    loss_unseen = _loss_on(unseen, function, arrived, wanted, loss)
    callbacks.on_unit_begin(unit, {"name": record["name"], "steps": config.tune_steps})
    biases = [_tuned_bias(student, name) for name in student.biases] if config.tune_bias else []
    groups = movable_groups(student, network)
    kernels = (
        AdaQuant(KERNEL_LEARNING_RATE, KERNEL_SCALE_LEARNING_RATE) if config.tune_network else None
    )
    ranges = LSQ(RANGE_LEARNING_RATE) if config.tune_network else None
    train(
        function, attach(student, network.layers, groups, kernels, ranges), biases,
        [tf.gather(x, seen) for x in arrived], [tf.gather(x, seen) for x in wanted],
        loss, steps=config.tune_steps, batch_size=config.batch_size,
        bias_learning_rate=BIAS_LEARNING_RATE, generator=generator,
        redraw=_redraw(student.graph, config, float_network),
        on_step_end=callbacks.on_step_end if callbacks.watches_steps else None,
    )  # fmt: skip
    if _loss_on(unseen, function, arrived, wanted, loss) < loss_unseen:
        record["error_after"] = float(relative_error(function.map(arrived), wanted, power))
    else:
        student.assign(values)
    callbacks.on_unit_end(unit, dict(record))
    return record


def _loss_on(
    rows: np.ndarray,
    function: UnitFunction,
    arrived: list[tf.Tensor],
    wanted: list[tf.Tensor],
    loss: Loss,
) -> float:
    outputs = function.map([tf.gather(x, rows) for x in arrived])
    return float(loss(outputs, [tf.gather(x, rows) for x in wanted]))


def _redraw(graph: Graph, config: PTQConfig, float_network: UnitFunction) -> Redraw | None:
    """What the wide form learns from; the paper's form takes the samples as they are."""
    augmentation = augmentation_for(config.augment, graph)
    if augmentation is None or not config.tune_network:
        return None

    def redraw(batch: Inputs, seed: tf.Tensor) -> tuple[Inputs, Inputs]:
        others = augmentation(batch, seed)
        return others, float_network(others)

    return redraw


def _tuned_bias(student: Student, name: str) -> TunedBias:
    """The bias of a layer in units of the range of the tensor it helps to compute."""
    relu = fused_relu(student.graph, student.graph[name])
    group = student.placement.groups[relu.name if relu else name]
    quantizer = student.activation_quantizers[group]
    span = quantizer.scale().numpy() * (quantizer.spec.qmax - quantizer.spec.qmin)
    return TunedBias.of(student.biases[name], float(span))
