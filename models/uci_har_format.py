"""UCI HAR as published: text files of inertial signals in a zip archive inside another one."""

import io
import zipfile
from pathlib import Path

import numpy as np

_INNER = "UCI HAR Dataset.zip"
_FOLDER = "UCI HAR Dataset"
_SIGNALS = [
    f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in ("x", "y", "z")
]


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """Windows x float32 [n, 128, 9], labels y uint8 0..5 and subjects uint8, train and test."""
    arrays = {}
    with zipfile.ZipFile(path) as outer:
        inner = io.BytesIO(_member(outer, _INNER, path))
    with zipfile.ZipFile(inner) as archive:
        for split in ("train", "test"):
            signals = [
                _table(archive, f"{split}/Inertial Signals/{signal}_{split}.txt", path)
                for signal in _SIGNALS
            ]
            arrays[f"x_{split}"] = np.stack(signals, axis=-1).astype(np.float32)
            labels = _table(archive, f"{split}/y_{split}.txt", path)[:, 0]
            arrays[f"y_{split}"] = (labels - 1).astype(np.uint8)
            subjects = _table(archive, f"{split}/subject_{split}.txt", path)[:, 0]
            arrays[f"subject_{split}"] = subjects.astype(np.uint8)
    return arrays


def _table(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """The numbers of a text file, float64 [rows, columns]."""
    return np.loadtxt(io.BytesIO(_member(archive, f"{_FOLDER}/{name}", path)), ndmin=2)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except KeyError as error:
        raise ValueError(
            f"{path} lacks a file of UCI HAR. Expected {name!r} in it. Fetch the archive again. "
            f"Received: {archive.namelist()[:20]}"
        ) from error
