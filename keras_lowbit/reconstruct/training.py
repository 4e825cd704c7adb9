"""The one gradient loop: stand-ins for rounding are attached, trained, hardened and gone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit._keras import keras
from keras_lowbit.layer_table import FIXED_RANGE
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.reconstruct.activations import UnitFunction
from keras_lowbit.reconstruct.units import Unit
from keras_lowbit.reconstruct.variables import Grid, OptimizationVariable
from keras_lowbit.reconstruct.variables.base import State

MOST_EASED_BITS = 3
FIRST_SHARE = 0.5  # of the rounding of activations, where it is eased
EASED = 0.6  # of the steps, after which it is whole

Loss = Callable[[list[tf.Tensor], list[tf.Tensor]], tf.Tensor]
Tensors = list[tf.Tensor]
Redraw = Callable[[Tensors, Tensors, tf.Tensor], tuple[Tensors, Tensors]]
StepEnd = Callable[[int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Attached:
    """An optimization variable at work on one quantizer."""

    variable: OptimizationVariable
    quantizer: Any
    tensor: Any  # the kernel variable; None for activations
    grid: Grid
    state: State

    def rule(self, x: tf.Tensor) -> tf.Tensor:
        """What the quantizer does meanwhile."""
        return self.variable.quantize(x, self.grid, self.state)

    def harden(self) -> None:
        """Write the final values into the model; nothing else remains of the variable."""
        tensor = None if self.tensor is None else self.tensor.value()
        hard, grid = self.variable.harden(tensor, self.grid, self.state)
        self.quantizer.set_scale(grid.scale)
        if self.tensor is None:
            self.quantizer.variables["zero_point"].assign(grid.zero_point)
        else:
            self.tensor.assign(hard)


@dataclasses.dataclass(frozen=True)
class TunedBias:
    """A bias trained in units of its layer's output: ``bias = start + unit * shift``."""

    bias: Any
    start: tf.Tensor
    unit: tf.Tensor
    shift: tf.Variable

    @classmethod
    def of(cls, bias: Any, unit: float) -> TunedBias:
        """Start from the bias as it is."""
        return cls(bias, bias.value(), tf.constant(unit), tf.Variable(tf.zeros_like(bias)))


def movable_groups(student: Student, unit: Unit) -> set[str]:
    """Activation quantizers that may move in this unit: all their tensors lie in it, and the
    runtimes do not fix their range."""
    inside = {*unit.inputs, *unit.inner}
    groups = student.placement.groups
    fixed = {node.name for node in student.graph.nodes if node.kind in FIXED_RANGE}
    elsewhere = {groups[h] for h in student.placement.heads if h not in inside or h in fixed}
    return {groups[name] for name in inside} - elsewhere


def attach(
    student: Student,
    layers: Iterable[str],
    groups: Iterable[str],
    weight: OptimizationVariable | None,
    activation: OptimizationVariable | None,
) -> list[Attached]:
    """Fresh variables for the kernels of ``layers`` and the activation quantizers ``groups``."""
    attached = []
    for name in layers if weight else ():
        quantizer, kernel = student.weight_quantizers[name], student.kernels[name]
        grid = Grid.of(quantizer)
        state = weight.init(kernel.value(), grid)  # type: ignore[union-attr]
        attached.append(Attached(weight, quantizer, kernel, grid, state))  # type: ignore[arg-type]
    for name in sorted(groups) if activation else ():
        moving = student.activation_quantizers[name]
        grid = Grid.of(moving)
        state = activation.init(None, grid)  # type: ignore[union-attr]
        attached.append(Attached(activation, moving, None, grid, state))  # type: ignore[arg-type]
    return attached


def train(
    function: UnitFunction,
    attached: list[Attached],
    biases: list[TunedBias],
    arrived: list[tf.Tensor],
    wanted: list[tf.Tensor],
    loss_of: Loss,
    *,
    steps: int,
    batch_size: int,
    bias_learning_rate: float,
    generator: np.random.Generator,
    redraw: Redraw | None = None,
    eased: bool = False,
    on_step_end: StepEnd | None = None,
) -> None:
    """Train everything attached with Adam, cosine-decayed, and harden it.

    Args:
      function: the part of the student to run.
      attached: at work during the training, hardened at its end.
      biases: trained too.
      arrived: inputs of ``function`` over the calibration set.
      wanted: what it should give.
      loss_of: maps outputs and targets of a batch to a scalar.
      steps: gradient steps.
      batch_size: samples a step, drawn without replacement.
      bias_learning_rate: of :class:`TunedBias` shifts.
      generator: decides the batches.
      redraw: maps inputs and targets of a batch and a seed to other inputs and what those should give.
      eased: of what rounding does to activations of 2 and 3 bits that are attached, only a share is done:
        half at first, all after 0.6 of the steps.
      on_step_end: called with the step and its logs.
    """
    optimizers = []
    alike: dict[tuple[float, int], list[tf.Variable]] = {}
    for member in attached:
        for name, value in member.state.items():
            rate = member.variable.learning_rate_of(name)
            alike.setdefault((rate, member.variable.decays * steps), []).append(value)
    for (rate, decay_steps), trained in alike.items():
        optimizers.append((_adam(rate, decay_steps, trained), trained))
    if biases:
        shifts = [member.shift for member in biases]
        optimizers.append((_adam(bias_learning_rate, steps, shifts), shifts))
    watched = [v for _, trained in optimizers for v in trained]
    forward: Callable[[list[tf.Tensor]], list[tf.Tensor]] = function
    moving = [m.quantizer for m in attached]
    if not redraw and not any(q is m for q in function.quantizers for m in moving):
        # The inputs' values stay: quantize them once, not in every step.
        arrived, forward = function.map_quantized(arrived), function.from_quantized

    @tf.function(autograph=False)  # nothing to convert, and quicker to trace
    def step(
        indices: tf.Tensor, progress: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = [tf.gather(x, indices) for x in arrived]
        targets = [tf.gather(t, indices) for t in wanted]
        if redraw:
            inputs, targets = redraw(inputs, targets, seed)
        with tf.GradientTape() as tape:
            loss = loss_of(forward(inputs), targets)
            penalties = [m.variable.penalty(m.state, progress) for m in attached]
            penalty = tf.add_n(penalties) if penalties else tf.constant(0.0)
            total = loss + penalty
        sources = [v for v in watched if all(v is not b.shift for b in biases)]
        gradients = tape.gradient(total, [*sources, *(b.bias for b in biases)])
        by_variable = {v.ref(): g for v, g in zip(sources, gradients, strict=False)}
        for member, gradient in zip(biases, gradients[len(sources) :], strict=True):
            by_variable[member.shift.ref()] = gradient * member.unit
        for optimizer, trained in optimizers:
            optimizer.apply_gradients([(by_variable[v.ref()], v) for v in trained])
        for member in biases:
            member.bias.assign(member.start + member.unit * member.shift)
        return loss, penalty

    size = min(batch_size, len(wanted[0]))
    with contextlib.ExitStack() as stack:
        share = tf.Variable(1.0, trainable=False)
        for attachment in attached:
            rule = attachment.rule
            if eased and attachment.tensor is None and attachment.grid.spec.bits <= MOST_EASED_BITS:
                rule = _blended(rule, share)
            stack.enter_context(attachment.quantizer.following(rule))
        for number in range(steps):
            indices = generator.choice(len(wanted[0]), size, replace=False)
            progress = tf.constant(number / max(steps - 1, 1), tf.float32)
            share.assign(tf.minimum(1.0, FIRST_SHARE + (1.0 - FIRST_SHARE) * progress / EASED))
            seed = tf.constant(generator.integers(2**30, size=2) if redraw else [0, 0], tf.int32)
            loss, penalty = step(tf.constant(indices, tf.int32), progress, seed)
            if on_step_end:
                on_step_end(number, {"loss": float(loss), "penalty": float(penalty)})
    for attachment in attached:
        attachment.harden()


def _blended(rule: Callable[[tf.Tensor], tf.Tensor], share: tf.Variable) -> Any:
    """Only a share of what a rule does (alpha-blending, Liu and Mattina 2019, there of weights)."""
    return lambda x: x + share * (rule(x) - x)


def _adam(learning_rate: float, steps: int, trained: list[tf.Variable]) -> Any:
    decayed = keras.optimizers.schedules.CosineDecay(learning_rate, max(steps, 1))
    optimizer = keras.optimizers.Adam(decayed if steps else learning_rate, jit_compile=False)
    optimizer.build(trained)
    return optimizer
