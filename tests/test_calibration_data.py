"""Calibration data of every kind give the same arrays; bad ones give an error that says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import graph_of, node

from keras_lowbit.calibration_data import collect

ONE = graph_of(node("image", "Input", shape=(4, 4, 1)))
TWO = graph_of(
    node("image", "Input", shape=(4, 4, 1)), node("speed", "Input", shape=(3,)), outputs=("image",)
)
COUNT = 50
X = np.random.default_rng(0).normal(size=(COUNT, 4, 4, 1)).astype(np.float32)
SPEED = np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3)
LABELS = np.arange(COUNT)
Dataset = tf.data.Dataset


class KerasSequence(tf_keras.utils.Sequence):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return X[index * 10 :][:10], LABELS[index * 10 :][:10]


class PyDataset(keras3.utils.PyDataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return X[index * 10 :][:10], LABELS[index * 10 :][:10]


def endless() -> Iterator[np.ndarray]:
    while True:
        yield from X


KINDS: dict[str, Callable[[], Any]] = {
    "array": lambda: X,
    "float64 array": lambda: X.astype(np.float64),
    "tensor": lambda: tf.constant(X),
    "list of batches": lambda: [X[:13], X[13:]],
    "list of samples": lambda: list(X),
    "nested lists": lambda: X.tolist(),
    "pair": lambda: (X, LABELS),
    "dict": lambda: {"image": X, "label": LABELS},
    "dataset": lambda: Dataset.from_tensor_slices(X).batch(7),
    "unbatched dataset": lambda: Dataset.from_tensor_slices(X),
    "dataset with labels": lambda: Dataset.from_tensor_slices((X, LABELS)).batch(16),
    "dataset with weights": lambda: Dataset.from_tensor_slices((X, LABELS, LABELS)),
    "dataset of dicts": lambda: Dataset.from_tensor_slices({"image": X, "y": LABELS}).batch(9),
    "dicts with labels": lambda: Dataset.from_tensor_slices(({"image": X}, LABELS)).batch(9),
    "endless dataset": lambda: Dataset.from_tensor_slices(X).repeat().batch(8),
    "generator of samples": lambda: iter(X),
    "generator of pairs": lambda: ((X[i : i + 6], LABELS[i : i + 6]) for i in range(0, COUNT, 6)),
    "endless generator": endless,
    "Sequence": KerasSequence,
    "PyDataset": PyDataset,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [50, 33])
def test_kinds(kind: str, limit: int) -> None:
    (array,) = collect(KINDS[kind](), ONE, limit)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, X[:limit])


@pytest.mark.parametrize(
    "data",
    [
        [X, SPEED],
        (X, SPEED),
        ([X, SPEED], LABELS),
        {"speed": SPEED, "image": X},
        [((X[:9], SPEED[:9]), LABELS[:9]), ((X[9:], SPEED[9:]), LABELS[9:])],
        Dataset.from_tensor_slices((X, SPEED)),
        Dataset.from_tensor_slices(((X, SPEED), LABELS)).batch(11),
        Dataset.from_tensor_slices({"speed": SPEED, "image": X}).batch(11),
    ],
)
def test_several_inputs(data: Any) -> None:
    image, speed = collect(data, TWO, 40)
    np.testing.assert_array_equal(image, X[:40])
    np.testing.assert_array_equal(speed, SPEED[:40])


def test_no_element_beyond_the_limit_is_asked_for() -> None:
    taken = []

    def counting() -> Iterator[np.ndarray]:
        for sample in X:
            taken.append(1)
            yield sample

    collect(counting(), ONE, 40)
    assert len(taken) == 40


def test_integers_are_converted() -> None:
    codes = (np.arange(COUNT * 16) % 256).astype(np.uint8).reshape(COUNT, 4, 4, 1)
    (array,) = collect(codes, ONE, COUNT)
    np.testing.assert_array_equal(array, codes.astype(np.float32))


def test_the_data_are_not_changed_and_not_kept() -> None:
    data = X.copy()
    (array,) = collect(data, ONE, COUNT)
    array += 1
    np.testing.assert_array_equal(data, X)


def broken() -> np.ndarray:
    data = X.copy()
    data[3, 0, 0] = np.nan
    data[7, :2, 1] = np.inf
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (X[:0], "empty"),
        (iter(()), "used up"),
        (Dataset.from_tensor_slices(X).take(0), "empty"),
        (X[..., 0], r"'image'.*\(samples, 4, 4, 1\).*channel axis is missing.*\(50, 4, 4\)"),
        (Dataset.from_tensor_slices(X[..., 0]), "channel axis is missing"),
        (X[0], r"batch axis is missing.*Received: \(4, 4, 1\)"),
        (X[:, :3], r"'image'.*wrong shape.*Received: \(50, 3, 4, 1\)"),
        (X[np.newaxis], "wrong shape"),
        (broken(), r"'image'.*NaN or infinite.*3 such values in 2 of 50 samples \(number 3, 7\)"),
        (np.full(X.shape, 1e39), r"in 50 of 50 samples \(number 0, 1, .*, \.\.\.\)"),
        (np.full(X.shape, "a"), "not an array of numbers"),
        ([X, [1, 2]], "wrong shape"),
        ([[[1, 2], [3]]], "not an array of numbers"),
        ({"picture": X}, r"no entry for the input\(s\) \['image'\].*the keys \['picture'\]"),
        (3, "cannot be read. Expected a tf.data.Dataset.*Received: int 3"),
        (None, "cannot be read"),
        ("path/to/data", "cannot be read"),
        (endless, "This is a function: pass what it returns"),
    ],
)
def test_refusals(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(data, ONE, 1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X, "2 inputs.*keys"),
        ({"image": X}, r"\['speed'\]"),
        ([X, SPEED[:-1]], r"same number.*'image': 50, 'speed': 49"),
        ([SPEED, X], "'image'.*wrong shape"),
    ],
)
def test_refusals_with_several_inputs(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(data, TWO, 1024)


def test_few_samples_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="only 31 calibration samples"):
        collect(X[:31], ONE, 1024)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collect(X[:32], ONE, 1024)
