"""One file measured: its bytes, its arena, and what its outputs are worth."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib.metadata
import time
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras

from benchmarks.deployment import tflm
from benchmarks.deployment.files import SOURCE, export, foreign_file, quantized
from benchmarks.deployment.plan import ETHOS_U, INCUMBENT, OURS, RIVAL, TFLM, Cell
from benchmarks.rows import RESULTS, Row, short_hash, versions
from benchmarks.runtime_accuracy import input_codes
from benchmarks.study.tasks import Samples, Task, one_task
from keras_lowbit import QuantizedModel
from keras_lowbit.export.arena import measure_arena
from keras_lowbit.export.containers import read_containers
from keras_lowbit.export.flatbuffer import write
from keras_lowbit.export.vela import compile_for_ethos_u

FOLDER = Path("out/deployment")
PROVEN_SAMPLES = 16


def measure(cell: Cell, folder: Path = FOLDER, task: Task | None = None) -> Row:
    """The row of a cell.

    Args:
      cell: what to measure.
      folder: where files, quantized networks and outputs are kept.
      task: by default the one that the cell names.
    """
    started = time.monotonic()
    task = task or one_task(cell.task)
    samples = _samples(task, cell.seed)
    x, y = (spread(array, cell.limit) for array in (samples.x_test, samples.y_test))
    path = folder / "measured.tflite"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"accuracy": {}}
    if cell.tool == OURS:
        qmodel = quantized(cell, task, samples, folder / "quantized")
        blob = export(qmodel, cell.variant, path)
        found["weight_bytes"] = qmodel.cost().weight_bytes
    else:
        blob = foreign_file(cell, task, samples, folder / "converted")
        path.write_bytes(blob)
    found["file_bytes"] = len(blob)
    if cell.device == ETHOS_U:
        found["vela"] = dataclasses.asdict(compile_for_ethos_u(blob))
    elif cell.tool == OURS:
        [codes] = qmodel.quantize_input(x)
        found |= _on_tflm(path, codes, y, folder) | _compared(qmodel, path, x, codes, folder)
    else:
        found |= _on_tflm(path, input_codes(blob, x), y, folder, may_refuse=cell.tool == RIVAL)
    if cell.tool == INCUMBENT and cell.device == TFLM:
        predicted = _predicted(task.load().predict(x, batch_size=256, verbose=0))
        found["accuracy"]["float"] = float((predicted == y).mean())
    row = {
        "key": cell.key, "task": cell.task, "tool": cell.tool, "variant": cell.variant,
        "weight_bits": cell.weight_bits, "device": cell.device, "seed": cell.seed,
        "limit": cell.limit, **found,
        "test_samples": len(samples.x_test), "calibration_samples": len(samples.calibration),
        "seconds": {"all": round(time.monotonic() - started, 2)},
        "config": cell.full_config(), "config_hash": short_hash(cell.full_config()),
        "versions": versions() | _version_of_rival(cell), "source": SOURCE, "results": RESULTS,
    }  # fmt: skip
    tf_keras.backend.clear_session()
    gc.collect()
    return row


def spread(array: np.ndarray, limit: int | None) -> np.ndarray:
    """At most ``limit`` rows, evenly spread: test sets may be in the order of classes or persons."""
    if limit is None or limit >= len(array):
        return array
    return array[np.arange(limit) * len(array) // limit]


@functools.lru_cache(maxsize=1)
def _samples(task: Task, seed: int) -> Samples:
    return task.data(seed)


def _on_tflm(
    path: Path, codes: np.ndarray, labels: np.ndarray, folder: Path, may_refuse: bool = False
) -> dict[str, Any]:
    """Arena and accuracy; of a file that TFLM refuses, why, and what LiteRT makes of it."""
    blob = path.read_bytes()
    refused = tflm.refusal(blob, codes)
    if refused and not may_refuse:
        raise ValueError(refused)
    runtime, name = ("litert", "LiteRT") if refused else ("tflm", "TFLM")
    predicted = _predicted(tflm.outputs(blob, codes, folder / "outputs", runtime))
    return {
        "refused": refused, "samples": len(codes),
        "accuracy": {name: float((predicted == labels).mean())},
        "arena": None if refused else dataclasses.asdict(measure_arena(blob)),
    }  # fmt: skip


def _compared(
    qmodel: QuantizedModel, path: Path, x: np.ndarray, codes: np.ndarray, folder: Path
) -> dict[str, Any]:
    """The outputs beside those of other files of the same network, and every tensor proven.

    Integers that fit a narrow container carry a coarser bias. So there are two questions: what packing
    changes, which is nothing if the unpacked file of the very same integers has the same outputs; and
    what the narrow integers change against the plain int8 file.
    """
    blob = path.read_bytes()
    program = qmodel.to_program(read_containers(blob, qmodel.to_program()))
    plain = export(qmodel, "int8", folder / "plain.tflite")
    unpacked = write(program)
    if unpacked == write(qmodel.to_program()):
        unpacked = plain
    own, of_unpacked, of_plain = (
        tflm.outputs(b, codes, folder / "outputs") for b in (blob, unpacked, plain)
    )
    verification = qmodel.verify(path, x[:PROVEN_SAMPLES])
    proof = verification.runtimes["tflm"]
    return {
        "codes": own.size,
        "codes_unlike_unpacked": int((own != of_unpacked).sum()),
        "codes_unlike_int8": int((own != of_plain).sum()),
        "predictions_unlike_int8": int((_predicted(own) != _predicted(of_plain)).sum()),
        "proof": {
            "mismatches": proof.mismatches, "compared": proof.compared,
            "off_grid": len(proof.off_grid), "samples": verification.samples,
        },
    }  # fmt: skip


def _predicted(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1).argmax(axis=1)


def _version_of_rival(cell: Cell) -> dict[str, str]:
    return {RIVAL: importlib.metadata.version(RIVAL)} if cell.tool == RIVAL else {}
