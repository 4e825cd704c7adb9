"""Data files are found by environment variable, downloaded once, and verified."""

import hashlib
from pathlib import Path

import pytest

from models import data_files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_data_root_names_the_variable_when_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_LOWBIT_DATA", raising=False)
    with pytest.raises(ValueError, match="KERAS_LOWBIT_DATA is not set.*Received: ''"):
        data_files.data_root()


def test_data_root_refuses_what_is_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERAS_LOWBIT_DATA", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="does not name a folder.*absent"):
        data_files.data_root()


def test_local_file_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_LOWBIT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="data/kws.npz is missing"):
        data_files.local_file("data/kws.npz", sha256(b""))


def test_local_file_refuses_another_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERAS_LOWBIT_DATA", str(tmp_path))
    (tmp_path / "file").write_bytes(b"content")
    assert data_files.local_file("file", sha256(b"content")) == tmp_path / "file"
    with pytest.raises(ValueError, match="checksum differs"):
        data_files.local_file("file", sha256(b"another content"))


def test_download_fetches_once(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"content")
    folder = tmp_path / "cache" / "deep"
    path = data_files.download(source.as_uri(), folder, sha256(b"content"))
    source.unlink()
    assert data_files.download(source.as_uri(), folder, sha256(b"content")) == path
    assert path.read_bytes() == b"content"


def test_download_keeps_no_file_that_fails_verification(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"truncated")
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match="checksum differs"):
        data_files.download(source.as_uri(), folder, sha256(b"content"))
    assert list(folder.iterdir()) == []


def test_download_says_how_to_do_without(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="download of file.*failed.*KERAS_LOWBIT_DATA"):
        data_files.download((tmp_path / "absent").as_uri(), tmp_path / "cache", sha256(b""))
