"""One measured cell: quantize a real model, export it, run it everywhere, append one JSON row.

python -m benchmarks.run --task cifar10 --model res8 --preset W4A8
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

import keras_lowbit
from benchmarks.rows import RESULTS, of_today, read_rows, short_hash, versions
from benchmarks.runtime_accuracy import accuracy
from keras_lowbit import PTQConfig
from models import data, pretrained

FLAGS = flags.FLAGS
flags.DEFINE_string("task", "cifar10", "Data set.")
flags.DEFINE_string("model", "res8", "Float model.")
flags.DEFINE_list("preset", ["W8A8", "W4A8", "W4A4-uniform", "W4A4-edge8"], "Cells to measure.")
flags.DEFINE_integer("seed", 0, "Of the calibration sample and the optimisation.")
flags.DEFINE_integer("calibration_samples", 1024, "Unlabelled training samples.")
flags.DEFINE_integer("tflm_samples", 1000, "Test samples to run on TFLM.")
flags.DEFINE_integer("proven_samples", 16, "Test samples to compare tensor by tensor.")
flags.DEFINE_string("results", "benchmarks/results/real.jsonl", "File of rows.")

PRESETS = {
    "W8A8": PTQConfig(weight_bits=8, activation_bits=8),
    "W4A8": PTQConfig(weight_bits=4, activation_bits=8),
    "W3A8": PTQConfig(weight_bits=3, activation_bits=8),
    "W2A8": PTQConfig(weight_bits=2, activation_bits=8),
    "W4A4-uniform": PTQConfig.uniform(4),
    "W4A4-edge8": PTQConfig.edge8(4),
}


class Task(NamedTuple):
    """A float model, calibration inputs, and test inputs with labels."""

    model: Any
    calibration: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_task(task: str, model: str, seed: int, calibration_samples: int) -> Task:
    """The data and the float model of a cell.

    Raises:
      ValueError: an unknown pair of task and model.
    """
    if (task, model) == ("cifar10", "res8"):
        cifar = data.load_cifar10()
        calibration = data.cifar10_calibration(calibration_samples, seed)
        return Task(
            pretrained.load_res8(), calibration, cifar.x_test.astype(np.float32), cifar.y_test
        )
    raise ValueError(
        f"Unknown cell. Expected --task cifar10 --model res8. Received: {task!r}, {model!r}"
    )


def cell_key(task: str, model: str, preset: str, config: PTQConfig, seed: int, samples: int) -> str:
    """A short hash of everything that determines a row."""
    return short_hash([task, model, preset, config.to_json(), seed, samples])


def measure(task: Task, config: PTQConfig, seed: int, path: Path) -> dict[str, Any]:
    """Quantize, export, run and time; accuracies are shares of 1."""
    started = time.monotonic()
    qmodel = keras_lowbit.quantize(task.model, task.calibration, config=config, seed=seed)
    seconds = time.monotonic() - started
    qmodel.export(path, overwrite=True)
    verification = qmodel.verify(path, task.x_test[: FLAGS.proven_samples])
    predicted = qmodel.model.predict(task.x_test, batch_size=256, verbose=0).argmax(1)
    floats = task.model.predict(task.x_test, batch_size=256, verbose=0).argmax(1)
    few = FLAGS.tflm_samples
    return {
        "float": float((floats == task.y_test).mean()),
        "simulation": float((predicted == task.y_test).mean()),
        "litert": accuracy(path, "litert", task.x_test, task.y_test),
        "tflm": accuracy(path, "tflm", task.x_test[:few], task.y_test[:few]),
        "tflm_samples": few,
        "simulation_on_tflm_samples": float((predicted[:few] == task.y_test[:few]).mean()),
        "test_samples": len(task.x_test),
        "tflm_mismatches": verification.runtimes["tflm"].mismatches,
        "tflm_compared": verification.runtimes["tflm"].compared,
        "proven_samples": FLAGS.proven_samples,
        "file_bytes": path.stat().st_size,
        "weight_bytes": qmodel.cost().weight_bytes,
        "cost": dataclasses.asdict(qmodel.cost()),
        "quantize_seconds": round(seconds, 1),
        "units": qmodel.history,
    }


def main(arguments: list[str]) -> int:
    del arguments
    results = Path(FLAGS.results)
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {row["key"] for row in of_today(read_rows)(results)}
    task = load_task(FLAGS.task, FLAGS.model, FLAGS.seed, FLAGS.calibration_samples)
    for preset in FLAGS.preset:
        if preset not in PRESETS:
            raise app.UsageError(f"--preset must be of {sorted(PRESETS)}. Received: {preset!r}")
        config = PRESETS[preset]
        key = cell_key(
            FLAGS.task, FLAGS.model, preset, config, FLAGS.seed, FLAGS.calibration_samples
        )
        if key in done:
            sys.stdout.write(f"{preset}: measured already, {key}\n")
            continue
        path = Path("out") / f"{FLAGS.task}_{FLAGS.model}_{preset}_{FLAGS.seed}.tflite"
        path.parent.mkdir(exist_ok=True)
        row = {
            "key": key, "task": FLAGS.task, "model": FLAGS.model, "preset": preset,
            "seed": FLAGS.seed, "calibration_samples": FLAGS.calibration_samples,
            **measure(task, config, FLAGS.seed, path),
            "config": json.loads(config.to_json()), "versions": versions(), "results": RESULTS,
        }  # fmt: skip
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        sys.stdout.write(
            f"{preset}: float {row['float']:.2%}, simulation {row['simulation']:.2%}, LiteRT "
            f"{row['litert']:.2%}, TFLM {row['tflm']:.2%} of {row['tflm_samples']}, "
            f"{row['quantize_seconds']} s\n"
        )
    return 0


if __name__ == "__main__":
    app.run(main)
