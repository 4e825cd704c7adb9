"""Step 3: unit by unit, train stand-ins for rounding until the unit's output is the float one.

One loop for every algorithm and every unit size (Zhuo et al. 2022, section 3; layer by layer as in
Nagel et al. 2020, block by block as in Li et al. 2021). Earlier units are already quantized, so
quantized inputs enter; the target is the float model's output.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from keras_lowbit.callbacks import CallbackList
from keras_lowbit.checkpoint import Checkpoint
from keras_lowbit.config import PTQConfig
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.reconstruct import variables
from keras_lowbit.reconstruct.activations import ActivationCache, UnitFunction
from keras_lowbit.reconstruct.moments import input_moments
from keras_lowbit.reconstruct.training import attach, movable_groups, train
from keras_lowbit.reconstruct.units import Unit, find_units
from keras_lowbit.reconstruct.variables import ClosedForm, Grid, OptimizationVariable

USELESS = 0.5  # relative error of outputs that have little left of the float model's


def owners(config: PTQConfig) -> dict[str, OptimizationVariable | None]:
    """Which variable of ``config.optimize`` owns "weight" (the first that can) and "activation"
    (the last that can).

    Raises:
      ValueError: a variable is left with nothing to optimise, or cannot work on such units.
    """
    chosen = [variables.get(identifier) for identifier in config.optimize]
    solving = [v.name for v in chosen if isinstance(v, ClosedForm)]
    if solving and config.units != "layer":
        raise ValueError(
            f"{solving} solves the least-squares problem of one layer, and the output of several "
            "layers is not linear in their weights. Use units='layer'. "
            f"Received: units={config.units!r}, optimize={config.optimize!r}"
        )
    if config.learning_rate is not None:
        if not chosen:
            raise ValueError(
                "`learning_rate` is that of the first variable of `optimize`, and there is none. Leave it as "
                f"None. Received: learning_rate={config.learning_rate!r}, optimize=()"
            )
        if chosen[0].name in solving:
            raise ValueError(
                f"{chosen[0].name!r} has no learning rate. Leave `learning_rate` as None. "
                f"Received: learning_rate={config.learning_rate!r}"
            )
        arguments = {**vars(chosen[0]), "learning_rate": config.learning_rate}
        chosen[0] = type(chosen[0])(**arguments)
    owned = {
        target: next((v for v in candidates if target in v.targets), None)
        for target, candidates in (("weight", chosen), ("activation", chosen[::-1]))
    }
    idle = [
        v.name
        for v in chosen
        if v not in owned.values() or any(owned[target] is not v for target in v.essential)
    ]
    if idle:
        raise ValueError(
            "Two optimization variables claim the same tensors, and a tensor can have only one. "
            f"Remove {idle} from `optimize`. Received: optimize={config.optimize!r}"
        )
    return owned


class Reconstructor:
    """Optimises a student unit by unit.

    Args:
      config: ``optimize``, ``units``, ``steps``, ``batch_size`` and ``learning_rate`` matter.
      callbacks: watch; see :mod:`keras_lowbit.callbacks`.
      seed: of the order of samples; one generator per seed and unit.
      checkpoint: resumed from and written to after every unit; None for neither.

    Example:
      >>> Reconstructor(config, CallbackList([])).run(student, teacher, {"image": x})
    """

    def __init__(
        self,
        config: PTQConfig,
        callbacks: CallbackList,
        seed: int = 0,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.config = config
        self.callbacks = callbacks
        self.seed = seed
        self.checkpoint = checkpoint
        self.owners = owners(config)

    def run(
        self, student: Student, teacher: Any, inputs: dict[str, np.ndarray]
    ) -> list[dict[str, Any]]:
        """Optimise every unit of the student in place.

        Args:
          student: calibrated.
          teacher: the float model of the same graph.
          inputs: calibration samples, float32 (samples, ...), by input node.

        Returns:
          One record per unit: name, and the mean squared error of its outputs before and after,
          relative to their mean square.
        """
        units = find_units(student.graph, student.placement, self.config.units)
        cache = ActivationCache(inputs, units)
        targets = ActivationCache(inputs, units)
        owned: set[str] = set()
        records = []
        self.callbacks.on_reconstruct_begin({"units": [unit.name for unit in units]})
        for index, unit in enumerate(units):
            function = UnitFunction(unit, student.model, student)
            wanted = UnitFunction(unit, teacher, None).map(targets.inputs_of(unit))
            arrived = cache.inputs_of(unit)
            groups = movable_groups(student, unit) - owned
            owned |= groups
            record = self._restore(student, index)
            if record is None:
                floats = targets.inputs_of(unit)
                record, outputs = self._optimise(
                    index, unit, student, teacher, function, groups, arrived, floats, wanted
                )
                self._save(student, index, unit, groups, record)
            else:
                outputs = function.map(arrived)
            records.append(record)
            cache.advance(index, outputs)
            targets.advance(index, wanted)
        self.callbacks.on_reconstruct_end({})
        return records

    def _optimise(
        self,
        index: int,
        unit: Unit,
        student: Student,
        teacher: Any,
        function: UnitFunction,
        groups: set[str],
        arrived: list[tf.Tensor],
        floats: list[tf.Tensor],
        wanted: list[tf.Tensor],
    ) -> tuple[dict[str, Any], list[tf.Tensor]]:
        """The unit's record and its outputs."""
        power = [float(tf.reduce_mean(tf.square(target))) + 1e-12 for target in wanted]
        outputs = function.map(arrived)
        before = float(relative_error(outputs, wanted, power))
        record = {"name": unit.name, "error_before": before, "error_after": before}
        weight, activation = self.owners["weight"], self.owners["activation"]
        solver = weight if isinstance(weight, ClosedForm) and unit.layers else None
        attached = attach(student, unit.layers, groups, None if solver else weight, activation)
        steps = self.config.steps if unit.layers and attached else 0
        if not solver and not steps:
            return record, outputs
        del outputs  # large, and not needed during the training
        self.callbacks.on_unit_begin(index, {"name": unit.name, "steps": max(steps, 1)})
        if solver:
            _solve(solver, unit, student, teacher, arrived, floats)
        train(
            function, attached, [], arrived, wanted,
            # Relative to the start, so that penalties weigh the same in every unit.
            lambda outputs, batch: relative_error(outputs, batch, power) / (before + 1e-12),
            steps=steps, batch_size=self.config.batch_size,
            bias_learning_rate=0.0, generator=np.random.default_rng([self.seed, index]),
            on_step_end=self.callbacks.on_step_end,
        )  # fmt: skip
        outputs = function.map(arrived)
        record["error_after"] = float(relative_error(outputs, wanted, power))
        self.callbacks.on_unit_end(index, dict(record))
        return record, outputs

    def _save(
        self, student: Student, index: int, unit: Unit, groups: set[str], record: dict[str, Any]
    ) -> None:
        if self.checkpoint is None:
            return
        names = {f"{name}/{what}" for name in unit.layers for what in ("kernel", "kernel_scale")}
        names |= {f"{g}/output_{what}" for g in groups for what in ("scale", "zero_point")}
        values = {name: value for name, value in student.values().items() if name in names}
        self.checkpoint.save(f"unit_{index:03d}", values, record)

    def _restore(self, student: Student, index: int) -> dict[str, Any] | None:
        saved = self.checkpoint.load(f"unit_{index:03d}") if self.checkpoint else None
        if saved is None:
            return None
        values, record = saved
        student.assign(values)
        return record


def _solve(
    variable: ClosedForm,
    unit: Unit,
    student: Student,
    teacher: Any,
    arrived: list[tf.Tensor],
    floats: list[tf.Tensor],
) -> None:
    """Solve for the kernel of a unit's layer and write it into the student."""
    for name in unit.layers:
        node = student.graph[name]
        before_layer = dataclasses.replace(unit, inner=(), outputs=node.inputs)
        quantized = UnitFunction(before_layer, student.model, student).batches(arrived)
        wanted = UnitFunction(before_layer, teacher, None).batches(floats)
        moments = input_moments(
            node, ((x_hat, x) for (x_hat,), (x,) in zip(quantized, wanted, strict=True))
        )
        quantizer, kernel = student.weight_quantizers[name], student.kernels[name]
        hard, scale = variable.solve(kernel.numpy(), Grid.of(quantizer), moments)
        kernel.assign(hard)
        quantizer.set_scale(scale)


def relative_error(
    outputs: list[tf.Tensor], wanted: list[tf.Tensor], power: list[float]
) -> tf.Tensor:
    """Mean squared errors over mean squares of the targets, summed over outputs."""
    return tf.add_n([
        tf.reduce_mean(tf.math.squared_difference(output, target)) / scale
        for output, target, scale in zip(outputs, wanted, power, strict=True)
    ])  # fmt: skip


def warn_if_useless(records: list[dict[str, Any]]) -> None:
    """Log a warning if the last record, that of the whole network, tells of a useless result."""
    # Or NaN. What has learnt the mean over views may be far from the float model's single answers.
    errors = [(record, record.get("error_to_mean", record["error_after"])) for record in records]
    large = [record for record, error in errors if not error < USELESS]
    if large and large[-1] is records[-1]:
        logging.warning(
            "keras_lowbit: the outputs are far from the float model's, with a relative error of %.2f; the "
            "first unit that is so far off is %r. Look at the ranges of the inputs: columns of very "
            "different ranges have to be normalised one by one. Or give it more bits.",
            errors[-1][1], large[0]["name"],
        )  # fmt: skip
