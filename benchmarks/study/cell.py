"""One cell measured: quantize once, and look at the accuracy after every step."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tf_keras

import keras_lowbit
from benchmarks.rows import RESULTS, Row, short_hash, source_hash, versions
from benchmarks.study.plan import Cell
from benchmarks.study.tasks import Samples, Task, one_task

BATCH = 256
SOURCE = source_hash()  # now, as the package is imported: files may change under a long run


class StepWatch(keras_lowbit.callbacks.Callback):
    """Measures and times the model after every step of the pipeline.

    Args:
      measure: maps the model to its accuracy.
      idle: steps that change nothing under this configuration and are not measured again.
    """

    def __init__(self, measure: Callable[[Any], float], idle: set[str]) -> None:
        self.accuracy: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._measure = measure
        self._idle = idle
        self._mark = time.monotonic()

    def on_reconstruct_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.step_ended("ranges")

    def on_reconstruct_end(self, logs: dict[str, Any] | None = None) -> None:
        self.step_ended("reconstruction")

    def step_ended(self, step: str) -> None:
        """Note time and accuracy; the time it takes to measure counts for no step."""
        self.seconds[step] = round(time.monotonic() - self._mark, 2)
        before = list(self.accuracy.values())[-1:]
        self.accuracy[step] = before[0] if step in self._idle else self._measure(self.model)
        self._mark = time.monotonic()


def accuracy(model: Any, samples: Samples) -> float:
    """Share of test samples whose largest output is the label."""
    outputs = model.predict(samples.x_test, batch_size=BATCH, verbose=0)
    return float((outputs.argmax(axis=1) == samples.y_test).mean())


@functools.lru_cache(maxsize=16)
def float_accuracy(task: Task, seed: int) -> float:
    """That of the float model on the very samples that a row with this seed is evaluated on."""
    return accuracy(task.load(), task.data(seed))


def measure(cell: Cell, task: Task | None = None) -> Row:
    """The row of a cell.

    Args:
      cell: what to measure.
      task: by default the one that the cell names.
    """
    started = time.monotonic()
    load = os.getloadavg()[0]
    _forget_peak()
    task = task or one_task(cell.task)
    config = cell.config
    samples = task.data(cell.seed)
    floats = float_accuracy(task, cell.seed)
    idle = set()
    if not config.optimize:
        idle.add("reconstruction")
    if not (config.tune_steps and config.tune):
        idle.add("tuned")
    model = task.load()
    watch = StepWatch(lambda quantized: accuracy(quantized, samples), idle)
    qmodel = keras_lowbit.quantize(
        model, samples.calibration, config=config, callbacks=[watch], seed=cell.seed, verbose=0
    )
    watch.step_ended("tuned")
    row = {
        "key": cell.key, "grid": cell.grid, "task": cell.task, "variable": cell.variable,
        "setting": cell.setting, "seed": cell.seed,
        "accuracy": {"float": floats, **watch.accuracy},
        "test_samples": len(samples.x_test), "calibration_samples": qmodel.calibration_samples,
        "units": qmodel.history, "cost": dataclasses.asdict(qmodel.cost()),
        "float_cost": dataclasses.asdict(keras_lowbit.cost(model, not task.counts_norms)),
        "seconds": {**watch.seconds, "all": round(time.monotonic() - started, 2)},
        "peak_mib": _peak_mib(), "machine": {"cpus": os.cpu_count(), "load": round(load, 1)},
        "config": cell.full_config(), "results": RESULTS, "config_hash": short_hash(cell.full_config()),
        "versions": versions(), "source": SOURCE,
    }  # fmt: skip
    # A worker measures hundreds of cells, and TensorFlow keeps every graph.
    tf_keras.backend.clear_session()
    gc.collect()
    return row


def _forget_peak() -> None:
    """Begin the peak memory anew: a worker has measured other cells before. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> int | None:
    """The most memory that was resident since then."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024) if found else None
