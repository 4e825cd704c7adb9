"""What a run leaves on disk to be resumed: the values after each unit, and what they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np


def digest(arrays: Iterable[np.ndarray]) -> str:
    """sha256 over the bytes, shapes and types of some arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.shape}{array.dtype}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


class Checkpoint:
    """A folder with one ``.npz`` and one ``.json`` per finished part of a run.

    Files appear complete or not at all. The folder belongs to one ``fingerprint``.

    Args:
      directory: created if absent.
      fingerprint: what the values depend on, e.g. ``{"config": ..., "model": ..., "data": ...}``.

    Raises:
      ValueError: the folder belongs to a run with another fingerprint; the differing fields are
        named. Or it cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str], fingerprint: Mapping[str, str]) -> None:
        self._directory = Path(directory)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"`checkpoint_dir` must be a folder, or a path where one can be made: {error.strerror}. "
                f"Give another. Received: {str(directory)!r}"
            ) from error
        state = self._directory / "fingerprint.json"
        if not state.exists():
            _write(state, json.dumps(dict(fingerprint), indent=1).encode())
        try:
            known = dict(json.loads(state.read_text()))
        except (ValueError, TypeError) as error:
            raise self._damaged("fingerprint.json", error) from error
        changed = sorted(k for k in {*known, *fingerprint} if known.get(k) != fingerprint.get(k))
        if changed:
            raise ValueError(
                f"The checkpoint in {str(directory)!r} belongs to another run: {changed} differ. Use "
                "another `checkpoint_dir`, or delete this one to start afresh. Received: "
                + "; ".join(f"{k} was {known.get(k)!r}, is {fingerprint.get(k)!r}" for k in changed)
            )

    def save(self, part: str, values: Mapping[str, np.ndarray], record: Any) -> None:
        """Keep the values and the JSON-able record of a finished part."""
        temporary = self._directory / f"{part}.npz.part"
        with open(temporary, "wb") as file:
            np.savez(file, **values)  # type: ignore[arg-type]
        os.replace(temporary, self._directory / f"{part}.npz")
        _write(self._directory / f"{part}.json", json.dumps(record).encode())

    def load(self, part: str) -> tuple[dict[str, np.ndarray], Any] | None:
        """Values and record of a finished part; None if it has not been finished."""
        record = self._directory / f"{part}.json"
        if not record.exists():  # written last
            return None
        try:
            values = dict(np.load(self._directory / f"{part}.npz"))
            return values, json.loads(record.read_text())
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise self._damaged(part, error) from error

    def _damaged(self, part: str, error: Exception) -> ValueError:
        return ValueError(
            f"The checkpoint is damaged: {part} cannot be read ({error}). Delete the folder to start "
            f"afresh. Received: {str(self._directory)!r}"
        )


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
