"""What a row says of the steps is what the model did after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import keras_lowbit
from benchmarks.study.cell import StepWatch, _forget_peak, _peak_mib, accuracy, measure
from benchmarks.study.plan import Cell
from benchmarks.study.tasks import Samples, Task
from keras_lowbit import PTQConfig
from models import digits
from models.data import load_digits

pytest.importorskip("sklearn")

CONFIG = PTQConfig(
    weight_bits=2, activation_bits=3, optimize=("adaround",), steps=20, tune="bias",
    tune_steps=20, calibration_samples=64,
)  # fmt: skip


def samples(seed: int) -> Samples:
    data = load_digits()
    return Samples(data.x_train[:64], data.x_test, data.y_test)


TASK = Task("digits", "Digits", digits.load, samples)


def directly(model: Any) -> float:
    """Accuracy without ``predict``, which keeps its first trace."""
    data = samples(0)
    return float((np.argmax(model(data.x_test), axis=1) == data.y_test).mean())


def test_accuracies_are_those_of_the_model_after_each_step() -> None:
    data = samples(0)

    class Direct(keras_lowbit.callbacks.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_reconstruct_begin(self, logs: Any = None) -> None:
            self.seen.append(directly(self.model))

        def on_reconstruct_end(self, logs: Any = None) -> None:
            self.seen.append(directly(self.model))

    direct, watch = Direct(), StepWatch(lambda model: accuracy(model, data), set())
    qmodel = keras_lowbit.quantize(
        digits.load(), data.calibration, config=CONFIG, callbacks=[watch, direct], verbose=0
    )
    watch.step_ended("tuned")
    assert [*direct.seen, directly(qmodel.model)] == list(watch.accuracy.values())
    assert watch.accuracy["ranges"] < watch.accuracy["reconstruction"]
    assert list(watch.accuracy) == list(watch.seconds) == ["ranges", "reconstruction", "tuned"]


def test_row_is_complete_and_steps_that_do_nothing_change_nothing() -> None:
    config = PTQConfig(3, 8, optimize=(), tune=())
    cell = Cell("test", "digits", "ranges", "3/8", config)
    row = measure(cell, TASK)
    assert row["key"] == cell.key
    assert row["accuracy"]["float"] == directly(digits.load())
    steps = [row["accuracy"][step] for step in ("ranges", "reconstruction", "tuned")]
    assert steps[0] == steps[1] == steps[2]
    assert (row["test_samples"], row["calibration_samples"]) == (450, 64)
    assert row["cost"]["weight_bytes"] < row["float_cost"]["weight_bytes"]
    assert row["config"]["weight_bits"] == 3
    assert row["units"][-1]["name"] == "end to end"
    assert row["peak_mib"] > 100
    assert {"versions", "source", "seconds", "peak_mib", "machine", "config_hash"} <= set(row)


def test_the_peak_is_that_of_the_cell() -> None:
    large = np.ones(2**25)  # 256 MiB
    before = _peak_mib()
    if before is None:
        pytest.skip("needs /proc, which only Linux has")
    del large
    _forget_peak()
    after = _peak_mib()
    assert after is not None and after < before - 200
