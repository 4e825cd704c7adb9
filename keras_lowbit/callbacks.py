"""Callbacks of the reconstruction: they watch and never compute; results do not depend on them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from keras_lowbit._keras import keras

Logs = dict[str, float]


class Callback:
    """Base class: override the hooks you need. ``logs`` are Python floats.

    ``unit`` is the index of the unit, ``logs`` of ``on_reconstruct_begin`` holds ``units``;
    ``on_unit_begin`` holds ``steps``; ``on_step_end`` holds ``loss`` (relative to the start) and
    ``penalty``; ``on_unit_end`` holds ``error_before`` and ``error_after`` (mean squared error of
    the unit's output over the mean square of the float output). The end-to-end stage is one more
    unit, after ``on_reconstruct_end``; units restored from a checkpoint call no hook.
    """

    model: Any = None

    def set_model(self, model: Any) -> None:
        """Called first, as in Keras: ``self.model`` is the model being quantized, to be evaluated
        or looked at in any hook, e.g. in ``on_reconstruct_begin`` with its initial ranges."""
        self.model = model

    def on_reconstruct_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Before the first unit; ``logs["units"]`` are the units' names."""

    def on_unit_begin(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        """Before a unit; ``logs["name"]`` is its name."""

    def on_step_end(self, step: int, logs: Logs | None = None) -> None:
        """After each gradient step of a unit."""

    def on_unit_end(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        """After a unit has hardened."""

    def on_reconstruct_end(self, logs: dict[str, Any] | None = None) -> None:
        """After the last unit."""


def as_callbacks(given: Any) -> list[Callback]:
    """The callbacks that were given, none for None.

    Raises:
      ValueError: no list of callbacks.
    """
    if given is None:
        return []
    callbacks: list[Any] = list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(callback, Callback) for callback in callbacks):
        raise ValueError(
            "`callbacks` must be a list of keras_lowbit.callbacks.Callback, e.g. [History()]. "
            f"Received: callbacks={given!r}"
        )
    return callbacks


class CallbackList(Callback):
    """Fans out to several callbacks, in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = list(callbacks)

    def set_model(self, model: Any) -> None:
        for callback in self.callbacks:
            callback.set_model(model)

    def on_reconstruct_begin(self, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_reconstruct_begin(logs)

    def on_unit_begin(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_unit_begin(unit, logs)

    def on_step_end(self, step: int, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_step_end(step, logs)

    def on_unit_end(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_unit_end(unit, logs)

    def on_reconstruct_end(self, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_reconstruct_end(logs)


class ProgressBar(Callback):
    """Keras' own progress bar: one for each unit (verbose 1), or one line a unit (verbose 2)."""

    EVERY = 10

    def __init__(self, verbose: int = 1) -> None:
        self.verbose = verbose
        self._num_units = 0
        self._bar: Any = None

    def on_reconstruct_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._num_units = len((logs or {})["units"])

    def on_unit_begin(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        place = f"Unit {unit + 1}/{self._num_units}: " if unit < self._num_units else ""
        sys.stdout.write(f"{place}{logs['name']}\n")
        self._bar = keras.utils.Progbar(
            logs["steps"], verbose=self.verbose, stateful_metrics=["error_before", "error_after"]
        )

    def on_step_end(self, step: int, logs: Logs | None = None) -> None:
        if self.verbose == 1 and (step + 1) % self.EVERY == 0 and step + 1 < self._bar.target:
            self._bar.update(step + 1, list((logs or {}).items()))

    def on_unit_end(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        errors = [(k, v) for k, v in (logs or {}).items() if k.startswith("error_")]
        self._bar.update(self._bar.target, errors, finalize=True)


class History(Callback):
    """Remembers ``logs`` of every unit in ``units``."""

    def __init__(self) -> None:
        self.units: list[dict[str, Any]] = []

    def on_unit_end(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        self.units.append({"unit": unit, **(logs or {})})


class StopOnNaN(Callback):
    """Stops with an error that names the unit when the loss is not a number."""

    def __init__(self) -> None:
        self._name = ""

    def on_unit_begin(self, unit: int, logs: dict[str, Any] | None = None) -> None:
        self._name = (logs or {})["name"]

    def on_step_end(self, step: int, logs: Logs | None = None) -> None:
        loss = (logs or {})["loss"]
        if loss != loss:
            raise ValueError(
                f"The reconstruction of unit {self._name!r} diverged: the loss is NaN at step "
                f"{step}. Check the scaling of the data, or lower `learning_rate`, or `tune_learning_rate` for "
                f"the end-to-end stage. Received: a loss of {loss}"
            )
