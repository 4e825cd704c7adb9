"""One network quantized by one recipe: accuracy of the simulation, and what it took."""

from __future__ import annotations

import dataclasses
import gc
import time
from typing import Any

import tf_keras

import keras_lowbit
from benchmarks.accuracy.plan import Cell
from benchmarks.intervals import Agreement
from benchmarks.rows import Row, source_hash, versions
from benchmarks.study.plan import full_config
from benchmarks.study.tasks import Task, one_task

BATCH = 256
SOURCE = source_hash()  # now, as the package is imported: files may change under a long run


def measure(cell: Cell, task: Task | None = None) -> Row:
    """The row of a cell.

    Args:
      cell: what to measure.
      task: by default the one that the cell names.
    """
    started = time.monotonic()
    task = task or one_task(cell.task)
    samples = task.data(cell.seed)
    model = task.load()
    loaded = time.monotonic(), time.process_time()
    qmodel = keras_lowbit.quantize(
        model,
        samples.calibration,
        config=cell.config,
        budget=cell.budget,
        seed=cell.seed,
        verbose=0,
    )
    done = time.monotonic(), time.process_time()
    right = [
        network.predict(samples.x_test, batch_size=BATCH, verbose=0).argmax(axis=1)
        == samples.y_test
        for network in (qmodel.teacher, qmodel.model)
    ]
    row = {
        "key": cell.key, "task": cell.task, "recipe": cell.recipe, "setting": cell.setting,
        "seed": cell.seed,
        "accuracy": {
            name: float(hits.mean())
            for name, hits in zip(("float", "quantized"), right, strict=True)
        },
        "agreement": Agreement.of(*right)._asdict(), "test_samples": len(samples.x_test),
        "calibration_samples": qmodel.calibration_samples, "units": qmodel.history,
        "weight_bits": _bits(qmodel), "cost": dataclasses.asdict(qmodel.cost()),
        "seconds": {
            "quantize": round(done[0] - loaded[0], 2), "cpu": round(done[1] - loaded[1], 2),
            "all": round(time.monotonic() - started, 2),
        },
        "config": full_config(cell.config), "versions": versions(), "source": SOURCE,
    }  # fmt: skip
    # A worker measures many cells, and TensorFlow keeps every graph.
    tf_keras.backend.clear_session()
    gc.collect()
    return row


def _bits(qmodel: keras_lowbit.QuantizedModel) -> dict[str, Any]:
    return {name: q.spec.bits for name, q in qmodel.student.weight_quantizers.items()}
