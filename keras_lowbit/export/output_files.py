"""Which files are written, and whether they can be."""

from __future__ import annotations

import os
import pathlib

from keras_lowbit.checks import check_flag
from keras_lowbit.export.metadata import sidecar_path

FORMATS = ("tflite", "c")
SAVED_FILES = ("model.json", "float_weights.npz", "values.npz")


def output_paths(
    path: str | os.PathLike[str], strip: str = "none", format: str = "tflite", target: str = "tflm"
) -> tuple[pathlib.Path, ...]:
    """The paths of an export: the file with the model, C's header, the JSON file of a stripped model.

    Args:
      path: as given to ``QuantizedModel.export``; C source takes its stem.
      strip, format, target: as there.

    Raises:
      ValueError: there is no such format, the target does not take it, the path has no stem, is a folder,
        or lies in a place that cannot be written to.
    """
    model = pathlib.Path(path)
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    if format == "c" and target != "tflm":
        raise ValueError(
            "C source is for TensorFlow Lite Micro: use format='tflite', or target='tflm'. "
            f"Received: format='c', target={target!r}"
        )
    if format == "tflite" and model.suffix in (".cc", ".h"):
        raise ValueError(
            "A .tflite file is no C source: use format='c', or another suffix. "
            f"Received: format='tflite', path={str(path)!r}"
        )
    paths: tuple[pathlib.Path, ...] = (model,)
    if format == "c":
        if not model.stem:
            raise ValueError(f"C source needs a file name. Received: {str(path)!r}")
        paths = (model.with_suffix(".cc"), model.with_suffix(".h"))
    paths = paths if strip == "none" else (*paths, sidecar_path(paths[0]))
    folders = [str(file) for file in paths if file.is_dir()]
    if folders:
        raise ValueError(f"A file cannot take the place of a folder. Received: {folders}")
    for file in paths:
        _check_parent(file)
    return paths


def folder_to_write(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Where a quantized model is saved.

    Raises:
      ValueError: something is there, and is more or less than a saved model or ``overwrite`` is False; or
        nothing can be.
    """
    folder = pathlib.Path(path)
    check_free(folder, overwrite)
    if folder.exists():
        there = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else ["a file"]
        others = sorted({*there} - {*SAVED_FILES}) or sorted({*SAVED_FILES} - {*there})
        if others:
            raise ValueError(
                f"Only a folder with a quantized model, that is {', '.join(SAVED_FILES)} and nothing else, is "
                f"ever replaced. Give another. Received: {str(path)!r}, where these differ: {others}"
            )
    _check_parent(folder)
    return folder


def check_free(path: pathlib.Path, overwrite: bool) -> None:
    """Nothing is overwritten without being asked.

    Raises:
      ValueError: something is there, and ``overwrite`` is False, or neither False nor True.
    """
    check_flag("overwrite", overwrite)
    if path.exists() and not overwrite:
        raise ValueError(
            f"This exists already. Pass overwrite=True to replace it. Received: {str(path)!r}"
        )


def _check_parent(path: pathlib.Path) -> None:
    """Refuse, before any work, a path in which a folder would have to be made where a file is."""
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "is no folder" if not nearest.is_dir() else "is not yours to write to"
        raise ValueError(
            f"{str(nearest)!r} {what}: choose another place to write to. Received: {str(path)!r}"
        )


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Write a file under a temporary name, then move it there."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"The file cannot be written: {error.strerror}. Received: {str(path)!r}"
        ) from error
