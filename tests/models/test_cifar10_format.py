"""Both forms of CIFAR-10 decode to the images they were made from."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from models import cifar10_format


def random_images(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def encode_planes(images: np.ndarray) -> np.ndarray:
    """The filter as the data's README words it, pixel by pixel in signed arithmetic."""
    red, green, blue = np.moveaxis(images.astype(np.int64), -1, 0)
    planes = np.stack([green, red - green, blue - green])
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 0), (1, 0)))
    left, upper, upper_left = padded[:, :, 1:, :-1], padded[:, :, :-1, 1:], padded[:, :, :-1, :-1]
    return ((planes - left - upper + upper_left) % 256).astype(np.uint8)


def write_archive(path: Path, batches: dict[str, tuple[np.ndarray, list[int]]]) -> None:
    """An archive laid out as the official one: pickled dicts with bytes keys, channels first."""
    with tarfile.open(path, "w:gz") as archive:
        for name, (images, labels) in batches.items():
            rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = pickle.dumps({b"data": rows, b"labels": labels}, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_decode_planes_inverts_the_filter() -> None:
    images = random_images(5, seed=0)
    np.testing.assert_array_equal(cifar10_format.decode_planes(encode_planes(images)), images)


def test_read_archive_joins_four_train_batches_in_order(tmp_path: Path) -> None:
    batches = {
        f"data_batch_{number}": (random_images(2, seed=number), [number, number + 4])
        for number in (3, 1, 5, 2, 4)
    }
    batches["test_batch"] = (random_images(3, seed=9), [9, 0, 9])
    write_archive(tmp_path / "tiny.tar.gz", batches)

    x_train, y_train = cifar10_format.read_archive(tmp_path / "tiny.tar.gz", "train")
    x_test, y_test = cifar10_format.read_archive(tmp_path / "tiny.tar.gz", "test")

    assert y_train.tolist() == [1, 5, 2, 6, 3, 7, 4, 8]
    assert y_test.tolist() == [9, 0, 9]
    assert x_train.dtype == x_test.dtype == y_train.dtype == y_test.dtype == np.uint8
    for number in range(1, 5):
        np.testing.assert_array_equal(
            x_train[2 * number - 2 : 2 * number], batches[f"data_batch_{number}"][0]
        )
    np.testing.assert_array_equal(x_test, batches["test_batch"][0])


def test_read_archive_names_missing_batches(tmp_path: Path) -> None:
    write_archive(tmp_path / "tiny.tar.gz", {"data_batch_1": (random_images(1, seed=0), [0])})
    with pytest.raises(ValueError, match="without .*data_batch_2.*data_batch_4"):
        cifar10_format.read_archive(tmp_path / "tiny.tar.gz", "train")


def test_read_archive_takes_python_2_pickles(tmp_path: Path) -> None:
    """The official batches: protocol 2, `str` keys, arrays under NumPy's module name of then."""
    raw = bytes(range(256)) * 12
    content = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00"
        + raw
        + b"tbU\x06labels]K\x07au."
    )
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

    images, labels = cifar10_format.read_archive(tmp_path / "tiny.tar.gz", "test")

    assert labels.tolist() == [7]
    assert images.shape == (1, 32, 32, 3)
    assert images[0, 0, :3, 0].tolist() == [0, 1, 2]
