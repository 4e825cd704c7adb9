"""What is made of a batch, value by value."""

from __future__ import annotations

import re

import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import chain

import keras_lowbit
from keras_lowbit import PTQConfig
from keras_lowbit.config import AUGMENTS
from keras_lowbit.finetune.augmentation import augmentation_for
from keras_lowbit.reader import read

IMAGES = np.random.default_rng(0).normal(size=(64, 20, 30, 2)).astype(np.float32)
SEED = tf.constant([3, 4])


def made(name: str, *inputs: np.ndarray, seed: tf.Tensor = SEED) -> list[np.ndarray]:
    shapes = [x.shape[1:] for x in inputs]
    model = tf_keras.Sequential([tf_keras.Input(shapes[0]), tf_keras.layers.Flatten()])
    augmentation = augmentation_for(name, read(model))
    assert augmentation is not None
    return [x.numpy() for x in augmentation([tf.constant(x) for x in inputs], seed)]


def moved(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The value at (i, j) comes from (i + rows, j + columns), or from the edge."""
    height, width = image.shape[:2]
    i = np.clip(np.arange(height) + rows, 0, height - 1)
    j = np.clip(np.arange(width) + columns, 0, width - 1)
    return image[i][:, j]


def test_images_are_shifted_by_up_to_a_tenth_and_half_of_them_mirrored() -> None:
    [others] = made("images", IMAGES)
    found = []
    for image, other in zip(IMAGES, others, strict=True):
        matches = [
            (rows, columns, mirrored)
            for rows in range(-2, 3)
            for columns in range(-3, 4)
            for mirrored in (False, True)
            if np.array_equal(moved(image, rows, columns)[:, :: -1 if mirrored else 1], other)
        ]
        assert len(matches) == 1
        found += matches
    rows, columns, mirrored = (set(column) for column in zip(*found, strict=True))
    assert rows == {-2, -1, 0, 1, 2}
    assert columns == {-3, -2, -1, 0, 1, 2, 3}
    assert mirrored == {False, True}


def test_series_too_short_to_be_shifted_are_blended() -> None:
    digits = IMAGES[:, :9, :9, :1]
    np.testing.assert_array_equal(made("auto", digits), made("mixup", digits))
    assert not np.array_equal(made("auto", IMAGES[:, :10])[0], IMAGES[:, :10])
    with pytest.raises(
        ValueError, match=r"at least 10 places.*Received: augment='series'.*\(9, 9, 1\)"
    ):
        made("series", digits)


def test_series_move_along_the_first_axis_alone() -> None:
    [others] = made("series", IMAGES)
    shifts = set()
    for series, other in zip(IMAGES, others, strict=True):
        matches = [k for k in range(-2, 3) if np.array_equal(moved(series, k, 0), other)]
        assert len(matches) == 1
        shifts |= set(matches)
    assert shifts == {-2, -1, 0, 1, 2}


def test_mixup_blends_the_same_two_samples_of_all_inputs() -> None:
    numbers = np.arange(64, dtype=np.float32)[:, np.newaxis]
    once, squared = made("mixup", 2.0**-20 * numbers, numbers**2)
    blended = 0
    for k, (first, second) in enumerate(zip(once[:, 0] * 2.0**20, squared[:, 0], strict=True)):
        if abs(first - k) < 1e-3:
            assert second == pytest.approx(k * k, rel=1e-4)
            continue
        # first = w k + (1 - w) j and second = w k^2 + (1 - w) j^2 have one solution (j, w).
        partner = (second - first * k) / (first - k)
        weight = (first - partner) / (k - partner)
        assert partner == pytest.approx(round(partner), abs=0.05)
        assert 0.499 < weight < 1.0
        blended += 1
    assert 16 < blended < 48


@pytest.mark.parametrize("name", sorted(set(AUGMENTS) - {"none"}))
def test_a_seed_decides(name: str) -> None:
    first, again, other = (
        made(name, IMAGES, seed=tf.constant(s)) for s in ([1, 2], [1, 2], [2, 2])
    )
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("shape", "like"),
    [((20, 30, 3), "images"), ((20, 30, 1), "series"), ((20, 9), "series"), ((12,), "mixup")],
)
def test_auto_goes_by_the_shape(shape: tuple[int, ...], like: str) -> None:
    x = np.random.default_rng(1).normal(size=(16, *shape)).astype(np.float32)
    np.testing.assert_array_equal(made("auto", x)[0], made(like, x)[0])


def test_auto_mixes_inputs_of_different_kinds() -> None:
    first, second = tf_keras.Input((8, 8, 3)), tf_keras.Input((5,))
    both = tf_keras.layers.Concatenate()([tf_keras.layers.Flatten()(first), second])
    graph = read(tf_keras.Model([first, second], tf_keras.layers.Dense(2)(both)))
    inputs = [tf.random.stateless_normal((9, *x.shape[1:]), SEED) for x in (first, second)]
    auto, mixup = (augmentation_for(name, graph) for name in ("auto", "mixup"))
    assert auto is not None
    assert mixup is not None
    for x, wanted in zip(auto(inputs, SEED), mixup(inputs, SEED), strict=True):
        np.testing.assert_array_equal(x, wanted)


def test_several_are_done_in_turn() -> None:
    [shifted] = made("series", IMAGES)
    [both] = made("series+mixup", IMAGES)
    same = sum(np.array_equal(a, b) for a, b in zip(shifted, both, strict=True))
    assert 16 < same < 48  # half of them are blends besides


def test_none_is_none() -> None:
    network = chain((4,), lambda k: k.Dense(3, name="last"))
    assert augmentation_for("none", read(network(tf_keras))) is None


@pytest.mark.parametrize("name", ["images", "series"])
def test_what_does_not_fit_the_input_is_refused_before_any_work(name: str) -> None:
    model = networks.randomize(chain((4,), lambda k: k.Dense(3, name="last"))(tf_keras))
    with pytest.raises(ValueError, match=rf"'image': '{name}' needs samples of at least . axes"):
        keras_lowbit.quantize(model, np.zeros((8, 4)), config=PTQConfig(augment=name), verbose=0)


def test_unknown_names_are_refused() -> None:
    for name in ("flip", "auto+flip", ""):
        with pytest.raises(
            ValueError, match=f"`augment` must be one of .*augment='{re.escape(name)}'"
        ):
            PTQConfig(augment=name)
