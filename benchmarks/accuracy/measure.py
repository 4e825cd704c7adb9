"""One network quantized by one recipe: accuracy of the simulation, and what it took."""

from __future__ import annotations

import dataclasses
import gc
import time

import tf_keras

import keras_lowbit
from benchmarks.accuracy.plan import Cell
from benchmarks.rows import RESULTS, Row, source_hash, versions
from benchmarks.scores import scores
from benchmarks.study.plan import full_config
from benchmarks.study.tasks import Task, one_task

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
    row = {
        "key": cell.key, "task": cell.task, "recipe": cell.recipe, "setting": cell.setting,
        "seed": cell.seed, "searched": cell.searched,
        **scores(qmodel, samples),
        "units": qmodel.history, "cost": dataclasses.asdict(qmodel.cost()),
        "seconds": {
            "quantize": round(done[0] - loaded[0], 2), "cpu": round(done[1] - loaded[1], 2),
            "all": round(time.monotonic() - started, 2),
        },
        "config": full_config(cell.config), "versions": versions(), "source": SOURCE, "results": RESULTS,
    }  # fmt: skip
    # A worker measures many cells, and TensorFlow keeps every graph.
    tf_keras.backend.clear_session()
    gc.collect()
    return row
