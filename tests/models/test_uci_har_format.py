"""The nested archive of UCI HAR becomes arrays, number by number."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models import uci_har_format

SIGNALS = [
    f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in ("x", "y", "z")
]


def text(table: np.ndarray) -> str:
    """The official look of numbers: two spaces, seven digits after the point, an exponent."""
    return "".join("".join(f" {value: .7e}" for value in row) + "\n" for row in table)


def write_archive(path: Path, windows: dict[str, np.ndarray], left_out: str = "") -> Path:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for split, signals in windows.items():
            count = len(signals)
            files = {
                f"{split}/y_{split}.txt": "".join(f"{1 + row}\n" for row in range(count)),
                f"{split}/subject_{split}.txt": "".join(f"{30 - row}\n" for row in range(count)),
            }
            for channel, signal in enumerate(SIGNALS):
                name = f"{split}/Inertial Signals/{signal}_{split}.txt"
                files[name] = text(signals[..., channel])
            for name, content in files.items():
                if name != left_out:
                    archive.writestr(f"UCI HAR Dataset/{name}", content)
                archive.writestr(f"__MACOSX/UCI HAR Dataset/{name}", "another thing")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("UCI HAR Dataset.names", "words")
        archive.writestr("UCI HAR Dataset.zip", inner.getvalue())
    return path


@pytest.fixture
def windows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        split: rng.normal(0.0, 1.0, (count, 128, 9)) for split, count in (("train", 3), ("test", 1))
    }


def test_arrays_have_the_channels_in_order(tmp_path: Path, windows: dict[str, np.ndarray]) -> None:
    arrays = uci_har_format.read_archive(write_archive(tmp_path / "har.zip", windows))
    for split in ("train", "test"):
        assert arrays[f"x_{split}"].dtype == np.float32
        np.testing.assert_allclose(arrays[f"x_{split}"], windows[split], rtol=1e-6)
    assert arrays["y_train"].tolist() == [0, 1, 2]
    assert arrays["subject_train"].tolist() == [30, 29, 28]
    assert (arrays["y_test"].tolist(), arrays["subject_test"].tolist()) == ([0], [30])
    assert {arrays[name].dtype for name in arrays if name[0] != "x"} == {np.dtype(np.uint8)}


def test_a_missing_file_is_named(tmp_path: Path, windows: dict[str, np.ndarray]) -> None:
    name = "test/Inertial Signals/body_gyro_y_test.txt"
    path = write_archive(tmp_path / "har.zip", windows, left_out=name)
    with pytest.raises(ValueError, match=f"lacks a file.*{name}.*Received: "):
        uci_har_format.read_archive(path)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "har.zip", "w") as archive:
        archive.writestr("something.txt", "else")
    with pytest.raises(ValueError, match=r"UCI HAR Dataset.zip.*Received: \['something.txt'\]"):
        uci_har_format.read_archive(tmp_path / "har.zip")
