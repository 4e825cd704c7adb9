"""The loaders give the documented shapes, types and contents."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models import cifar10_format, data


def test_digits_are_small_images_in_a_fixed_split() -> None:
    digits = data.load_digits()
    assert digits.x_train.shape == (1347, 8, 8, 1)
    assert digits.x_test.shape == (450, 8, 8, 1)
    assert digits.x_train.dtype == np.float32
    assert digits.y_test.dtype == np.uint8
    assert digits.x_train.min() == 0.0
    assert digits.x_train.max() == 1.0
    # Stratified: the 450 hold 43 to 46 of each class. The digest pins which images they are, as
    # another split would let images that trained the committed weights into the test set.
    assert np.bincount(digits.y_test).tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
    sixteenths = (digits.x_test * 16).astype(np.uint8)
    assert hashlib.sha256(sixteenths.tobytes()).hexdigest() == (
        "e3452c6e88f0f1471659ad20017337d0de01ae7697926d3bee117113ecdbe8d1"
    )


def test_digits_share_no_image_between_train_and_test() -> None:
    digits = data.load_digits()
    train = {image.tobytes() for image in digits.x_train}
    assert not any(image.tobytes() in train for image in digits.x_test)


def test_cifar10_decodes_to_the_official_test_images(shared_data: Path) -> None:
    del shared_data
    images, labels = data._cifar10_split("test")
    assert hashlib.sha256(images.tobytes()).hexdigest() == (
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    )
    assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(labels).tolist() == [1000] * 10


def test_cifar10_falls_back_to_the_official_archive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERAS_LOWBIT_DATA", str(tmp_path))
    requests = []

    def download(url: str, folder: Path, sha256: str) -> Path:
        requests.append((url, folder, sha256))
        return tmp_path

    def read_archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        count = {"train": 4, "test": 2}[split]
        return np.full((count, 32, 32, 3), 255, np.uint8), np.zeros(count, np.uint8)

    monkeypatch.setattr(data, "download", download)
    monkeypatch.setattr(data, "read_archive", read_archive)
    cifar10 = data.load_cifar10()
    assert cifar10.x_train.shape == (4, 32, 32, 3)
    assert cifar10.x_test.shape == (2, 32, 32, 3)
    assert {url for url, _, _ in requests} == {
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    }


def test_cifar10_calibration_draws_different_train_images_by_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    splits = {"train": (images, np.arange(50, dtype=np.uint8))}
    monkeypatch.setattr(data, "_cifar10_split", splits.__getitem__)
    first = data.cifar10_calibration(20, seed=1)
    assert first.shape == (20, 32, 32, 3)
    assert first.dtype == np.float32
    assert len(np.unique(first[:, 0, 0, 0])) == 20
    _, labels = data.cifar10_labelled_calibration(20, seed=1)
    np.testing.assert_array_equal(labels, first[:, 0, 0, 0])
    np.testing.assert_array_equal(first, data.cifar10_calibration(20, seed=1))
    assert (first != data.cifar10_calibration(20, seed=2)).any()
    for num_samples in (0, 51):
        with pytest.raises(ValueError, match=f"1 to 50.*num_samples={num_samples}"):
            data.cifar10_calibration(num_samples)


def test_cifar10_train_split_is_whole(shared_data: Path) -> None:
    del shared_data
    images, labels = data._cifar10_split("train")
    assert images.shape == (40_000, 32, 32, 3)
    assert images.dtype == labels.dtype == np.uint8
    assert len(cifar10_format.BATCHES["train"]) * 10_000 == len(labels)


def test_uci_har_keeps_subjects_apart(shared_data: Path) -> None:
    del shared_data
    windows = data.load_uci_har()
    assert windows.x_train.shape == (7352, 128, 9)
    assert windows.x_test.shape == (2947, 128, 9)
    assert windows.x_train.dtype == np.float32
    assert np.bincount(windows.y_test).tolist() == [496, 471, 420, 491, 532, 537]
    assert not set(windows.subject_train) & set(windows.subject_test)


def test_kws_has_a_channel_axis_and_five_folds(shared_data: Path) -> None:
    del shared_data
    clips = data.load_kws()
    assert clips.x_calib.shape == (1232, 49, 10, 1)
    assert clips.x_test.shape == (4890, 49, 10, 1)
    assert clips.x_test.dtype == np.float32
    assert len(clips.y_calib) == 1232
    assert set(clips.test_fold) == {0, 1, 2, 3, 4}
    assert all(977 <= (clips.test_fold == fold).sum() <= 979 for fold in range(5))


def test_vww_is_scaled_to_one(shared_data: Path) -> None:
    del shared_data
    photographs = data.load_vww()
    assert photographs.x_calib.shape == (1160, 96, 96, 3)
    assert photographs.x_test.shape == (1000, 96, 96, 3)
    assert photographs.x_test.dtype == np.float32
    assert photographs.x_test.min() == 0.0
    assert photographs.x_test.max() == 1.0
    assert np.bincount(photographs.y_test).tolist() == [500, 500]


@pytest.mark.parametrize("is_set", [True, False], ids=["absent file", "variable unset"])
def test_official_downloads_stand_in_for_absent_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_set: bool
) -> None:
    """Their arrays go the way of the local ones: named fields, units, channel axes."""
    monkeypatch.delenv("KERAS_LOWBIT_DATA", raising=False)
    if is_set:
        monkeypatch.setenv("KERAS_LOWBIT_DATA", str(tmp_path))
    windows = {name: np.full(3, row) for row, name in enumerate(data.HumanActivity._fields)}
    labels = {"y_calib": np.zeros(2, np.uint8), "y_test": np.ones(4, np.uint8)}
    features = {"x_calib": np.zeros((2, 49, 10)), "x_test": np.ones((4, 49, 10))}
    images = {
        "x_calib": np.zeros((2, 96, 96, 3), np.uint8),
        "x_test": np.full((4, 96, 96, 3), 255, np.uint8),
    }
    official = data.official_downloads
    monkeypatch.setattr(official, "uci_har", lambda: windows)
    folds = {"test_fold": np.arange(4)}
    monkeypatch.setattr(official, "keyword_spotting", lambda: features | labels | folds)
    monkeypatch.setattr(official, "visual_wake_words", lambda: images | labels)

    assert data.load_uci_har() == data.HumanActivity(**windows)
    clips = data.load_kws()
    assert (clips.x_calib.shape, clips.x_test.shape) == ((2, 49, 10, 1), (4, 49, 10, 1))
    assert clips.test_fold is folds["test_fold"]
    photographs = data.load_vww()
    assert photographs.x_test.dtype == np.float32
    assert (photographs.x_test == 1.0).all()
    assert photographs.y_test is labels["y_test"]
