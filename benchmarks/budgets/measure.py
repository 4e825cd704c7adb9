"""One network within one limit: what was promised, what the file takes, and the accuracy."""

from __future__ import annotations

import functools
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import tf_keras

import keras_lowbit
from benchmarks.budgets.plan import FRONT, POINTS, RECIPE, SEED, SHARES, Cell
from benchmarks.rows import RESULTS, Row, source_hash, versions
from benchmarks.scores import scores
from benchmarks.study.plan import full_config
from benchmarks.study.tasks import Task, one_task
from keras_lowbit import Budget, BudgetError, Front, PTQConfig, QuantizedModel
from keras_lowbit.export.arena import measure_arena

SOURCE = source_hash()  # now, as the package is imported: files may change under a long run


def measure(cell: Cell, task: Task | None = None) -> Row:
    """The row of a cell.

    Args:
      cell: what to measure.
      task: by default the one that the cell names.
    """
    started = time.monotonic()
    task = task or one_task(cell.task)
    samples = task.data(SEED)
    model = task.load()
    config, budget, searched = cell.config, None, 0.0
    promised: dict[str, Any] = {}
    if cell.kind == FRONT:
        front, searched = _front(task, config)
        # Choices that come twice or are beaten are no points of it.
        point = front.points[min(cell.number, len(front.points) - 1)]
        config = point.config
        promised = {"points": len(front.points), "flash": point.flash, "harm": point.harm}
    elif cell.kind in SHARES:
        budget = _budget(cell, task)
        promised = budget.limits()
    began = time.monotonic(), time.process_time()
    found: dict[str, Any] = {"refused": ""}
    try:
        qmodel = keras_lowbit.quantize(
            model, samples.calibration, config=config, budget=budget, seed=SEED, verbose=0
        )
    except BudgetError as error:
        found = {"refused": str(error), "accuracy": {}}
    ended = time.monotonic(), time.process_time()
    if not found["refused"]:
        found |= {"reached": costs(qmodel), **scores(qmodel, samples)}
    row = {
        "key": cell.key, "task": cell.task, "kind": cell.kind, "number": cell.number,
        "recipe": RECIPE, "seed": SEED, "searched": cell.searched, "promised": promised, **found,
        "seconds": {
            "front": round(searched, 2), "quantize": round(ended[0] - began[0], 2),
            "cpu": round(ended[1] - began[1], 2), "all": round(time.monotonic() - started, 2),
        },
        "config": full_config(cell.config), "versions": versions(), "source": SOURCE, "results": RESULTS,
    }  # fmt: skip
    # A worker measures many cells, and TensorFlow keeps every graph.
    tf_keras.backend.clear_session()
    gc.collect()
    return row


def costs(qmodel: QuantizedModel) -> dict[str, float]:
    """What the limits are about: bytes of the file for TFLM and of its arena, bit operations, bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        qmodel.export(path, packing="auto", strip="micro")
        blob = path.read_bytes()
    weights = {
        name: qmodel.student.kernels[name].shape.num_elements()
        for name in qmodel.student.weight_quantizers
    }
    bits = {name: q.spec.bits for name, q in qmodel.student.weight_quantizers.items()}
    return {
        "flash": len(blob), "arena": measure_arena(blob).smallest, "bops": qmodel.cost().bops,
        "average_weight_bits": sum(weights[n] * bits[n] for n in bits) / sum(weights.values()),
    }  # fmt: skip


@functools.lru_cache(maxsize=1)
def _front(task: Task, config: PTQConfig) -> tuple[Front, float]:
    """The front of a network and the seconds it took, once for all of its points."""
    model, calibration = task.load(), task.data(SEED).calibration
    began = time.monotonic()
    front = keras_lowbit.pareto(
        model, calibration, points=POINTS, config=config, seed=SEED, verbose=0
    )
    return front, time.monotonic() - began


def _budget(cell: Cell, task: Task) -> Budget:
    """The limits of a cell: shares of what the network takes with 8 bits everywhere."""
    full = _with_eight_bits(task)
    return Budget(**{name: int(share * full[name]) for name, share in SHARES[cell.kind].items()})


@functools.lru_cache(maxsize=1)
def _with_eight_bits(task: Task) -> dict[str, float]:
    """What the network costs with 8 bits everywhere, calibrated and no more."""
    config = PTQConfig(8, 8, optimize=(), tune=())
    calibration = task.data(SEED).calibration
    qmodel = keras_lowbit.quantize(task.load(), calibration, config=config, seed=SEED, verbose=0)
    return costs(qmodel)
