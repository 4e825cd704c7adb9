"""The two forms in which CIFAR-10 comes: the official archive and our filtered planes."""

import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np

# The local file leaves out the fifth train batch, so the download leaves it out as well: the same
# seed then draws the same calibration images from either source.
BATCHES = {
    "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4"),
    "test": ("test_batch",),
}


def decode_planes(residual: np.ndarray) -> np.ndarray:
    """Undo the reversible filter: uint8 [3, n, h, w] residuals to uint8 [n, h, w, 3] RGB images.

    The planes are G, R-G and B-G; in each, every pixel was replaced by itself minus its left,
    minus its upper, plus its upper-left neighbour, modulo 256. Running sums along both image
    axes take that back.
    """
    rows = np.cumsum(residual, axis=3, dtype=np.uint8)
    green, red_minus_green, blue_minus_green = np.cumsum(rows, axis=2, dtype=np.uint8)
    return np.stack([red_minus_green + green, green, blue_minus_green + green], axis=-1)


def read_archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels uint8 [n] of cifar-10-python.tar.gz.

    The batches are pickles: pass only an archive whose checksum has been verified.
    """
    batches: dict[str, dict[bytes, np.ndarray]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            file = archive.extractfile(member) if name in BATCHES[split] else None
            if file is not None:
                batches[name] = _read_batch(file.read())
    missing = [name for name in BATCHES[split] if name not in batches]
    if missing:
        raise ValueError(
            f"{path} lacks some batches of CIFAR-10. Expected {BATCHES[split]}. Fetch the archive "
            f"again. Received: an archive without {missing}"
        )
    images = np.concatenate([batches[name][b"data"] for name in BATCHES[split]])
    labels = np.concatenate([batches[name][b"labels"] for name in BATCHES[split]])
    channels_last = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(channels_last), labels.astype(np.uint8)


def _read_batch(content: bytes) -> dict[bytes, np.ndarray]:
    with warnings.catch_warnings():
        # Python 2 wrote these pickles, and newer NumPy versions remark on their dtype arguments.
        warnings.simplefilter("ignore")
        return pickle.loads(content, encoding="bytes")
