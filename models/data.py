"""The data sets of the study as plain NumPy arrays.

All but the handwritten digits are read from the folder named by KERAS_LOWBIT_DATA, or downloaded
from where they are published if they are not there.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models import official_downloads
from models.cifar10_format import decode_planes, read_archive
from models.data_files import (
    CACHE_FOLDER,
    ENVIRONMENT_VARIABLE,
    data_root,
    download,
    local_file,
)

__all__ = [
    "Dataset",
    "HumanActivity",
    "KeywordSpotting",
    "VisualWakeWords",
    "cifar10_calibration",
    "cifar10_labelled_calibration",
    "data_root",
    "load_cifar10",
    "load_digits",
    "load_kws",
    "load_uci_har",
    "load_vww",
]

_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_CIFAR10_URL_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_SHA256 = {
    "data/cifar10.npz": "512afed6129220a19a1fc9d9071abd3daec03073a92ba6fbf0dc168077e2fd4e",
    "data/uci_har.npz": "ee30f58817df9850449e90ae5cc78250c4de345f7de0ce0dcadc9d2f6f4b92b3",
    "data/kws.npz": "edd767e3d1d5e4321d2be38bbda90ce20336a8a7e697a1aa45805ddd6105f406",
    "data/vww.npz": "ee8ffaf106d3e4197ed61c8a5978c6ec5b1e361b2b2a7a66f3648f0cf78ef46d",
}


class Dataset(NamedTuple):
    """Images and their class numbers, split into train and test."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class HumanActivity(NamedTuple):
    """Motion windows, their class numbers and the persons they come from.

    Neighbouring windows overlap by half: hold out whole subjects, never single windows.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    subject_train: np.ndarray
    subject_test: np.ndarray


class KeywordSpotting(NamedTuple):
    """Speech features; `test_fold` 0..4 deals the test clips into folds disjoint by speaker."""

    x_calib: np.ndarray
    y_calib: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    test_fold: np.ndarray


class VisualWakeWords(NamedTuple):
    """Photographs; class 1 shows a person, and `y_calib` is -1 where that is not known."""

    x_calib: np.ndarray
    y_calib: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_digits() -> Dataset:
    """Handwritten digits: x float32 [n, 8, 8, 1] in 0..1, y uint8; 1,347 train and 450 test.

    The split is fixed and stratified. Source: scikit-learn's copy of the test part of "Optical
    Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI repository, 1998, CC BY 4.0).
    """
    # Only this loader needs scikit-learn, which is not a dependency of the package.
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images = (digits.images[..., np.newaxis] / 16.0).astype(np.float32)
    labels = digits.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        images, labels, test_size=450, stratify=labels, random_state=0
    )
    return Dataset(x_train, y_train, x_test, y_test)


def load_cifar10() -> Dataset:
    """CIFAR-10: x uint8 [n, 32, 32, 3] in 0..255, y uint8; 40,000 train and 10,000 test images.

    The fifth official train batch is left out. Source: A. Krizhevsky, "Learning Multiple Layers
    of Features from Tiny Images", 2009.
    """
    return Dataset(*_cifar10_split("train"), *_cifar10_split("test"))


def cifar10_calibration(num_samples: int = 1024, seed: int = 0) -> np.ndarray:
    """Different train images of CIFAR-10 drawn by `seed`: float32 [n, 32, 32, 3] in 0..255."""
    images, _ = cifar10_labelled_calibration(num_samples, seed)
    return images


def cifar10_labelled_calibration(
    num_samples: int = 1024, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The images of `cifar10_calibration`, and their class numbers: uint8 [n]."""
    images, labels = _cifar10_split("train")
    if not 1 <= num_samples <= len(images):
        raise ValueError(
            "The number of calibration samples does not fit the train split. Expected 1 to "
            f"{len(images)}. Ask for a number in that range. Received: num_samples={num_samples}"
        )
    chosen = np.random.default_rng(seed).choice(len(images), num_samples, replace=False)
    return images[chosen].astype(np.float32), labels[chosen]


def load_uci_har() -> HumanActivity:
    """UCI HAR: x float32 [n, 128, 9], y uint8 0..5; 7,352 train and 2,947 test windows.

    Not normalised. Source: Anguita et al., "A Public Domain Dataset for Human Activity
    Recognition Using Smartphones", ESANN 2013; `official_downloads.uci_har` says how the download
    differs from the local file.
    """
    return HumanActivity(
        **_arrays("data/uci_har.npz", HumanActivity._fields, official_downloads.uci_har)
    )


def load_kws() -> KeywordSpotting:
    """Speech Commands, 12 classes: x float32 [n, 49, 10, 1] MFCCs as the DS-CNN takes them.

    1,232 calibration rows (275 spoken clips, augmented, and silence) and the 4,890 test clips. The
    download has the same test clips and 1,024 others to calibrate on, see
    `official_downloads.keyword_spotting`.
    Source: P. Warden, "Speech Commands", arXiv 1804.03209, 2018; features as in MLPerf Tiny.
    """
    loaded = KeywordSpotting(
        **_arrays("data/kws.npz", KeywordSpotting._fields, official_downloads.keyword_spotting)
    )
    return loaded._replace(
        x_calib=loaded.x_calib[..., np.newaxis], x_test=loaded.x_test[..., np.newaxis]
    )


def load_vww() -> VisualWakeWords:
    """Visual wake words: x float32 [n, 96, 96, 3] in 0..1; 1,160 calibration and 1,000 test.

    Calibration rows 580 and up are rows 0..579 mirrored. The download has 1,024 others, and the
    same test pictures as JPEG, see `official_downloads.visual_wake_words`. Source: Microsoft COCO
    (Lin et al., 2014) and Open Images, the test set as in MLPerf Tiny.
    """
    loaded = VisualWakeWords(
        **_arrays("data/vww.npz", VisualWakeWords._fields, official_downloads.visual_wake_words)
    )
    return loaded._replace(
        x_calib=loaded.x_calib / np.float32(255), x_test=loaded.x_test / np.float32(255)
    )


def _cifar10_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels uint8 [n] of the split "train" or "test"."""
    name = "data/cifar10.npz"
    if not _is_local(name):
        archive = download(_CIFAR10_URL, CACHE_FOLDER.expanduser(), _CIFAR10_URL_SHA256)
        return read_archive(archive, split)
    arrays = _load_npz(name, (f"x_{split}_res", f"y_{split}"))
    return decode_planes(arrays[f"x_{split}_res"]), arrays[f"y_{split}"]


def _arrays(
    relative_path: str, names: tuple[str, ...], official: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The named arrays of the local file, or of `official()` if there is none."""
    return _load_npz(relative_path, names) if _is_local(relative_path) else official()


def _is_local(relative_path: str) -> bool:
    return bool(os.environ.get(ENVIRONMENT_VARIABLE)) and (data_root() / relative_path).is_file()


def _load_npz(relative_path: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of a verified file below `data_root()`."""
    with np.load(local_file(relative_path, _SHA256[relative_path])) as archive:
        return {name: archive[name] for name in names}
