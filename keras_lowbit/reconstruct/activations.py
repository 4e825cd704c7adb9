"""Activations on their way through the units: only what a later unit still needs is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit._keras import keras
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.reconstruct.units import Unit

BATCH = 128


class UnitFunction:
    """One unit of the student or the teacher as a function of its input tensors.

    The student's inputs come unquantized and pass their quantizers inside; its outputs are those
    of the layers, before their quantizers. So every quantizer acts in the units that consume it.

    Args:
      unit: which part.
      model: the functional model.
      student: the student, or None for the teacher, whose layers bear the nodes' names.

    Attributes:
      quantizers: those that the inputs pass; none in the teacher.
    """

    def __init__(self, unit: Unit, model: Any, student: Student | None) -> None:
        tensor = student.tensor if student else (lambda name: model.get_layer(name).output)
        self._model = None  # nothing between inputs and outputs
        if unit.inputs != unit.outputs:
            self._model = keras.Model(
                [tensor(name) for name in unit.inputs], [tensor(name) for name in unit.outputs]
            )
        self.quantizers = []
        self._bypassed = []
        if student:
            group = student.placement.groups
            inside = {group[name] for name in (*unit.inputs, *unit.inner)}
            self.quantizers = [student.activation_quantizers[group[n]] for n in unit.inputs]
            # A concatenation may share a grid across its units; values then stay quantized.
            self._bypassed = [
                student.activation_quantizers[g]
                for g in {group[n] for n in unit.outputs if n in group} - inside
            ]

    def __call__(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The unit's output tensors, in the order of ``unit.outputs``."""
        return self.from_quantized(self.quantized(inputs))

    def quantized(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The input tensors behind their quantizers."""
        if not self.quantizers:
            return inputs
        return [q(x, False, q.variables) for q, x in zip(self.quantizers, inputs, strict=True)]

    def from_quantized(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The output tensors from inputs that went through :meth:`quantized`."""
        if self._model is None:
            return inputs
        for quantizer in self._bypassed:
            quantizer.rule = unchanged
        try:
            outputs = self._model(inputs if len(inputs) > 1 else inputs[0], training=False)
        finally:
            for quantizer in self._bypassed:
                quantizer.rule = None
        return outputs if isinstance(outputs, list) else [outputs]

    def map(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The outputs for a whole calibration set, computed in batches."""
        return _joined(self.batches(inputs))

    def map_quantized(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """What :meth:`quantized` makes of a whole calibration set."""
        return _joined(map(self.quantized, _batches(inputs)))

    def batches(self, inputs: list[tf.Tensor]) -> Iterator[list[tf.Tensor]]:
        """The outputs for a calibration set, one batch after the other."""
        # Not compiled: tracing takes longer than the few batches.
        return map(self, _batches(inputs))


def _batches(inputs: list[tf.Tensor]) -> Iterator[list[tf.Tensor]]:
    for start in range(0, len(inputs[0]), BATCH):
        yield [x[start : start + BATCH] for x in inputs]


def _joined(batches: Iterable[list[tf.Tensor]]) -> list[tf.Tensor]:
    return [tf.concat(column, axis=0) for column in zip(*batches, strict=True)]


def evenly(arrays: Iterable[np.ndarray], count: int) -> list[np.ndarray]:
    """So many samples of each array, the same of all, from the first to the last at even distances.

    The first ones alone may all be of one class.

    Args:
      arrays: (samples, ...), as many samples each.
      count: at most.

    Returns:
      (count or fewer, ...) each.
    """
    arrays = list(arrays)
    samples = len(arrays[0])
    chosen = np.linspace(0, samples - 1, min(count, samples)).astype(int)
    return [x[chosen] for x in arrays]


def unchanged(x: tf.Tensor) -> tf.Tensor:
    """The rule of a quantizer that lets values pass as they are."""
    return x


class ActivationCache:
    """The live tensors of one model over the calibration set, by node name.

    Args:
      inputs: float32 arrays (samples, ...) by input node.
      units: in the order in which they will be advanced.
    """

    def __init__(self, inputs: dict[str, np.ndarray], units: tuple[Unit, ...]) -> None:
        self._live = {name: tf.constant(value) for name, value in inputs.items()}
        self._units = units

    def inputs_of(self, unit: Unit) -> list[tf.Tensor]:
        """Input tensors of a unit, float32 (samples, ...)."""
        return [self._live[name] for name in unit.inputs]

    def advance(self, index: int, outputs: list[tf.Tensor]) -> None:
        """Take in the outputs of unit ``index`` and drop what no later unit reads."""
        self._live |= dict(zip(self._units[index].outputs, outputs, strict=True))
        needed = {name for unit in self._units[index + 1 :] for name in unit.inputs}
        self._live = {name: value for name, value in self._live.items() if name in needed}
