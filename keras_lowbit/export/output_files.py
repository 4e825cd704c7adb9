"""Which files an export writes."""

from __future__ import annotations

import os
import pathlib

from keras_lowbit.export.metadata import sidecar_path

FORMATS = ("tflite", "c")


def output_paths(
    path: str | os.PathLike[str], strip: str = "none", format: str = "tflite", target: str = "tflm"
) -> tuple[pathlib.Path, ...]:
    """The paths of an export: the file with the model, C's header, the JSON file of a stripped model.

    Args:
      path: as given to ``QuantizedModel.export``; C source takes its stem.
      strip, format, target: as there.

    Raises:
      ValueError: there is no such format, the target does not take it, the path has no stem, or is a folder.
    """
    model = pathlib.Path(path)
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    if format == "c" and target != "tflm":
        raise ValueError(
            "C source is for TensorFlow Lite Micro: use format='tflite', or target='tflm'. "
            f"Received: format='c', target={target!r}"
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
    return paths


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Write a file under a temporary name, then move it there."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(
            f"The file cannot be written: {error.strerror}. Received: {str(path)!r}"
        ) from error
