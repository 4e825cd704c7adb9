"""The file of a cell. What takes long to make is kept in a folder, so that a killed run resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import keras_lowbit
from benchmarks.deployment.plan import EXPORTS, INCUMBENT, RIVAL, RIVAL_LAYERS, Cell
from benchmarks.deployment.rival import quantize_int4
from benchmarks.incumbent import convert_int8
from benchmarks.rows import short_hash, source_hash, versions
from benchmarks.study.tasks import Samples, Task
from keras_lowbit import QuantizedModel

SOURCE = source_hash()  # now, as the package is imported: files may change under a long run


def foreign_file(cell: Cell, task: Task, samples: Samples, folder: Path) -> bytes:
    """The file that another tool writes."""

    def write(path: Path) -> None:
        if cell.tool == INCUMBENT:
            convert_int8(task.load(), samples.calibration, path)
        elif cell.tool == RIVAL:
            layers = RIVAL_LAYERS[cell.variant]
            path.write_bytes(quantize_int4(task.load(), samples.calibration, layers))

    name = short_hash([cell.task, cell.tool, cell.variant, cell.seed, versions(), SOURCE])
    return _kept(folder / f"{cell.task}_{cell.tool}_{name}.tflite", write).read_bytes()


def quantized(cell: Cell, task: Task, samples: Samples, folder: Path) -> QuantizedModel:
    """Our network at the width of the cell, the same one for all of its files."""
    name = short_hash([cell.task, cell.full_config(), cell.seed, versions(), SOURCE])
    checkpoint = folder / f"{cell.task}_w{cell.weight_bits}_{name}_unfinished"

    def write(path: Path) -> None:
        keras_lowbit.quantize(
            task.load(), samples.calibration, config=cell.config, seed=cell.seed, verbose=0,
            checkpoint_dir=checkpoint,
        ).save(path)  # fmt: skip

    path = _kept(folder / f"{cell.task}_w{cell.weight_bits}_{name}", write)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return keras_lowbit.load(path)


def export(qmodel: QuantizedModel, variant: str, path: Path) -> bytes:
    """One of :data:`EXPORTS`; the file stays at the path."""
    qmodel.export(path, overwrite=True, **EXPORTS[variant])
    return path.read_bytes()


def _kept(path: Path, write: Callable[[Path], None]) -> Path:
    """The path, written under another name first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part_{path.name}")
        write(part)
        part.replace(path)
    return path
