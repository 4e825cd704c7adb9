"""One tool at one setting: accuracy and time, or why there is none."""

from __future__ import annotations

import functools
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.intervals import Agreement
from benchmarks.rivals.asking import ask, write_inputs
from benchmarks.rivals.environments import interpreter
from benchmarks.rivals.networks import Network, networks_of
from benchmarks.rivals.plan import OURS, Cell
from benchmarks.rows import RESULTS, Row, short_hash, source_hash
from benchmarks.study.tasks import Samples, Task, one_task
from keras_lowbit import __version__

FOLDER = Path("out/rivals/inputs")
SOURCE = source_hash()  # now, as the package is imported: files may change under a long run
# Two builds of TensorFlow may round differently, but the network must be the same.
LARGEST_DIFFERENCE = 1e-3


class _Prepared(NamedTuple):
    samples: Samples
    networks: list[Network]
    floats: np.ndarray
    folder: Path


def measure(cell: Cell, folder: Path = FOLDER, task: Task | None = None) -> Row:
    """The row of a cell.

    Args:
      cell: what to measure.
      folder: where the inputs of the tools are written.
      task: by default the one that the cell names.

    Raises:
      ValueError: the tool's process failed, or it did not get the same network.
    """
    started = time.monotonic()
    prepared = _prepare(task or one_task(cell.task), cell.seed, folder)
    samples = prepared.samples
    load = os.getloadavg()[0]
    answer = ask(cell, interpreter(cell.contestant), prepared.folder, prepared.networks)
    row = {
        "key": cell.key, "task": cell.task, "tool": cell.contestant.tool,
        "variant": cell.contestant.variant, "options": cell.contestant.options,
        "setting": cell.setting, "seed": cell.seed, "threads": cell.threads,
        "accuracy": {}, **answer.told,
        "test_samples": len(samples.x_test), "calibration_samples": len(samples.calibration),
        "load_average": round(load, 2), "processor": _processor(),
        "config": cell.full_config(), "config_hash": short_hash(cell.full_config()),
    }  # fmt: skip
    if cell.contestant.tool == OURS:
        row["versions"] = {OURS: __version__, **row["versions"]}
        row |= {"source": SOURCE, "results": RESULTS}
    if answer.outputs is not None and answer.floats is not None:
        difference = float(np.abs(answer.floats - prepared.floats[: len(answer.floats)]).max())
        if difference > LARGEST_DIFFERENCE:
            raise ValueError(
                f"{cell.contestant} got another network: its float outputs differ. Expected at most "
                f"{LARGEST_DIFFERENCE}. Received: {difference}"
            )
        right = [
            outputs.reshape(len(outputs), -1).argmax(axis=1) == samples.y_test
            for outputs in (prepared.floats, answer.outputs)
        ]
        row["agreement"] = Agreement.of(*right)._asdict()
        row["accuracy"] = {
            name: float(hits.mean())
            for name, hits in zip(("float", "quantized"), right, strict=True)
        }
        row["float_difference"] = difference
    row["seconds"] = {**row["seconds"], "all": round(time.monotonic() - started, 2)}
    return row


@functools.lru_cache(maxsize=1)
def _prepare(task: Task, seed: int, folder: Path) -> _Prepared:
    """What all tools get, once for all cells of a task."""
    samples, model = task.data(seed), task.load()
    networks = networks_of(model)
    inputs = folder / f"{task.name}_{seed}"
    write_inputs(inputs, networks, samples)
    floats = model.predict(samples.x_test, batch_size=256, verbose=0)
    return _Prepared(samples, networks, floats, inputs)


def _processor() -> str:
    """Its model, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
