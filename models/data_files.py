"""Where data files lie on this machine, and proof that they are the files meant."""

import hashlib
import os
import urllib.request
from pathlib import Path

ENVIRONMENT_VARIABLE = "KERAS_LOWBIT_DATA"
CACHE_FOLDER = Path("~/.cache/keras_lowbit")
_CHUNK_BYTES = 1 << 20


def data_root() -> Path:
    """The folder named by KERAS_LOWBIT_DATA; it holds `data/` and `models/mlperf_tiny/`."""
    value = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not value:
        raise ValueError(
            f"The environment variable {ENVIRONMENT_VARIABLE} is not set. Expected the path of a "
            "folder that holds data/ and models/mlperf_tiny/. Set it, for example with "
            f"`export {ENVIRONMENT_VARIABLE}=/path/to/folder`. Received: {value!r}"
        )
    root = Path(value).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"The environment variable {ENVIRONMENT_VARIABLE} does not name a folder. Expected the "
            "path of a folder that holds data/ and models/mlperf_tiny/. Correct or unset it. "
            f"Received: {value!r}"
        )
    return root


def local_file(relative_path: str, sha256: str) -> Path:
    """A file below `data_root()` whose content has the checksum `sha256`."""
    path = data_root() / relative_path
    if not path.is_file():
        raise ValueError(
            f"The file {relative_path} is missing. Expected it in the folder named by "
            f"{ENVIRONMENT_VARIABLE}, with sha256 {sha256}. Put it there or point the variable to "
            f"the folder that has it. Received: {path}"
        )
    verify_sha256(path, sha256)
    return path


def verify_sha256(path: Path, expected: str) -> None:
    """Raise a ValueError unless the content of `path` has the checksum `expected`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{path} is not the expected file: its checksum differs. Expected sha256 {expected}. "
            f"Delete it and fetch it again. Received: {digest.hexdigest()}"
        )


def download(url: str, folder: Path, sha256: str) -> Path:
    """The file at `url`, kept in `folder`; it is fetched once and gets its name once verified."""
    path = folder / url.rsplit("/", 1)[-1]
    if path.is_file():
        verify_sha256(path, sha256)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _fetch(url, partial)
        verify_sha256(partial, sha256)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
    except OSError as error:
        raise ValueError(
            f"The download of {url} failed. Expected an internet connection, or a local copy of "
            f"the data in the folder named by {ENVIRONMENT_VARIABLE}. Provide either. "
            f"Received: {error}"
        ) from error
