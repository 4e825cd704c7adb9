"""One network quantized as by default, then trained with labels by nothing but ``Model.fit``."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras

import keras_lowbit
from benchmarks.qat.plan import NETWORKS, OPTIMIZER, Cell, Labelled, Trained
from benchmarks.rows import RESULTS, Row, source_hash, versions
from benchmarks.study.cell import accuracy
from benchmarks.study.plan import full_config
from benchmarks.study.tasks import CALIBRATION_SAMPLES, Samples, Task, one_task
from models.training_batches import batches

PROVEN_SAMPLES = 8
Quantized = tuple[keras_lowbit.QuantizedModel, dict[str, np.ndarray]]
_LAST: dict[tuple[Any, ...], Quantized] = {}
SOURCE = source_hash()  # now, as the package is imported: files may change under a long run


def measure(cell: Cell, task: Task | None = None, trained: Trained | None = None) -> Row:
    """The row of a cell.

    Args:
      cell: what to measure.
      task: by default the one that the cell names.
      trained: by default that of the network that the cell names.
    """
    started = time.monotonic()
    task = task or one_task(cell.task)
    trained = trained or NETWORKS[cell.task]
    labelled = trained.labelled(cell.seed)
    if cell.validate:
        samples, labelled = _validation(labelled, cell.seed)
    else:
        samples = task.data(cell.seed)
    qmodel, values = _quantized(task, samples, cell)
    qmodel.student.assign(values)
    accuracies = {"float": accuracy(qmodel.teacher, samples)}
    quantized = time.monotonic()
    accuracies["quantized"] = accuracy(qmodel.model, samples)
    _train(qmodel, labelled, trained, cell)
    ended = time.monotonic()
    accuracies["trained"] = accuracy(qmodel.model, samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trained.tflite"
        qmodel.export(path)
        proof = qmodel.verify(path, samples.x_test[:PROVEN_SAMPLES]).runtimes["tflm"]
    row = {
        "key": cell.key, "task": cell.task, "setting": cell.setting, "seed": cell.seed,
        "evaluated_on": "held-out training samples" if cell.validate else "test samples",
        "accuracy": accuracies, "test_samples": len(samples.x_test),
        "calibration_samples": qmodel.calibration_samples,
        "labelled_samples": len(labelled.x), "learned_from": trained.samples,
        "recipe": {**cell.recipe._asdict(), "optimizer": OPTIMIZER},
        "recipe_chosen": trained.chosen,
        "tflm_mismatches": proof.mismatches, "tflm_compared": proof.compared,
        "seconds": {
            "quantize": round(quantized - started, 2), "train": round(ended - quantized, 2),
            "all": round(time.monotonic() - started, 2),
        },
        "config": full_config(cell.config), "versions": versions(), "source": SOURCE, "results": RESULTS,
    }  # fmt: skip
    return row


def _quantized(task: Task, samples: Samples, cell: Cell) -> Quantized:
    """The default result and its values; once for all recipes that start from it."""
    name = (task.name, cell.config, cell.seed, cell.validate)
    if name not in _LAST:
        _LAST.clear()
        tf_keras.backend.clear_session()  # TensorFlow keeps every graph
        gc.collect()
        qmodel = keras_lowbit.quantize(
            task.load(), samples.calibration, config=cell.config, seed=cell.seed, verbose=0
        )
        _LAST[name] = qmodel, qmodel.student.values()
    return _LAST[name]


def _validation(labelled: Labelled, seed: int) -> tuple[Samples, Labelled]:
    """Everything from the training samples: some to be evaluated on, the others for the rest."""
    out = labelled.held_out
    seen = Labelled(labelled.x[~out], labelled.y[~out], out[~out])
    count = min(CALIBRATION_SAMPLES, len(seen.x))
    chosen = np.random.default_rng(seed).choice(len(seen.x), count, replace=False)
    return Samples(seen.x[chosen], labelled.x[out], labelled.y[out]), seen


def _train(
    qmodel: keras_lowbit.QuantizedModel, labelled: Labelled, trained: Trained, cell: Cell
) -> None:
    recipe, model = cell.recipe, qmodel.model
    steps = len(labelled.x) // recipe.batch_size
    rate = tf_keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.epochs * steps)
    model.compile(keras_lowbit.RelativeAdam(qmodel, rate), "sparse_categorical_crossentropy")
    model.fit(
        batches(labelled.x, labelled.y, recipe.batch_size, trained.augment, cell.seed),
        epochs=recipe.epochs, steps_per_epoch=steps, verbose=0,
    )  # fmt: skip
