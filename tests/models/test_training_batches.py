"""Augmentation keeps what it must keep, and every batch can be had again."""

import numpy as np
import pytest
import tensorflow as tf

from models.training_batches import augmented_images, augmented_windows, batches

COUNT = 200


def read_places() -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of augmented images [n, 32, 32] was read: x and y from the middle."""
    y, x = np.mgrid[:32, :32].astype(np.float32)
    images = np.tile(np.stack([x, y], axis=-1), (COUNT, 1, 1, 1))
    places = augmented_images(tf.constant(images), tf.constant([0, 1])).numpy() - 15.5
    return places[..., 0], places[..., 1]


def test_images_keep_shape_and_range() -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
    outcome = augmented_images(tf.constant(images), tf.constant([0, 1])).numpy()
    assert outcome.shape == images.shape
    assert outcome.dtype == np.float32
    assert outcome.min() >= 0.0
    assert outcome.max() <= 255.0
    flat = augmented_images(tf.fill((4, 32, 32, 3), 7.0), tf.constant([0, 1])).numpy()
    np.testing.assert_allclose(flat, 7.0, rtol=1e-5)  # edges move in, never black


def test_images_are_turned_shifted_and_mirrored_within_bounds() -> None:
    x, y = read_places()
    inner = slice(15, 17)  # the four pixels round the middle are read inside of every image
    for shift in (x[:, inner, inner].mean(axis=(1, 2)), y[:, inner, inner].mean(axis=(1, 2))):
        assert np.abs(shift).max() <= 3.2 + 1e-4
        assert shift.min() < -3.0
        assert shift.max() > 3.0
    cosine, sine = x[:, 15, 16] - x[:, 15, 15], x[:, 15, 15] - x[:, 16, 15]
    np.testing.assert_allclose(cosine**2 + sine**2, 1.0, atol=1e-4)
    degrees = np.degrees(np.arcsin(sine))
    assert np.abs(degrees).max() <= 15.0 + 1e-2
    assert degrees.min() < -13.0
    assert degrees.max() > 13.0
    assert 0.4 < (cosine < 0.0).mean() < 0.6
    np.testing.assert_allclose(y[:, 16, 15] - y[:, 15, 15], np.abs(cosine), atol=1e-4)


def random_windows() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=(COUNT, 16, 9)).astype(np.float32))


def test_windows_without_augmentation_stay_as_they_are() -> None:
    outcome = augmented_windows(random_windows(), tf.constant([0, 1]), turn=0, gain=0, noise=0)
    np.testing.assert_allclose(outcome, random_windows(), atol=1e-6)


def test_windows_are_turned_as_one_phone() -> None:
    """Lengths of the three vectors and angles between them survive."""
    outcome = augmented_windows(random_windows(), tf.constant([0, 1]), turn=20, gain=0, noise=0)
    before, after = (
        np.reshape(windows, (COUNT, 16, 3, 3)) for windows in (random_windows(), outcome)
    )
    assert np.abs(after - before).max() > 0.1
    products = [vectors @ vectors.swapaxes(-1, -2) for vectors in (before, after)]
    np.testing.assert_allclose(*products, atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.det(before), np.linalg.det(after), atol=1e-4
    )  # and nothing is mirrored


def test_gain_and_noise_have_their_sizes() -> None:
    ones, seed = tf.ones((COUNT, 16, 9)), tf.constant([0, 1])
    gained = augmented_windows(ones, seed, turn=0, gain=0.2, noise=0).numpy()
    assert np.ptp(gained, axis=(1, 2)).max() < 1e-5
    assert 0.8 - 1e-5 <= gained.min() < 0.82
    assert 1.18 < gained.max() <= 1.2 + 1e-5
    noise = augmented_windows(ones, seed, turn=0, gain=0, noise=0.1).numpy() - 1.0
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert abs(noise.mean()) < 0.005


def collect(first_step: int, steps: int) -> list[np.ndarray]:
    numbers = np.arange(12)

    def draw(chosen: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.cast(chosen, tf.float32) + tf.random.stateless_uniform((4,), seed)

    dataset = batches(numbers, 10 * numbers, 4, draw, seed=5, first_step=first_step).take(steps)
    rows = []
    for drawn, labels in dataset.as_numpy_iterator():
        np.testing.assert_array_equal(10 * np.floor(drawn), labels)
        rows.append(drawn)
    return rows


def test_every_epoch_has_every_sample_once_and_its_own_order() -> None:
    drawn = np.reshape(collect(0, 9), (3, 12))
    orders = np.floor(drawn).astype(int)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(order) for order in orders}) == 3
    assert len(np.unique(drawn)) == 36  # new draws as well


def test_batches_go_on_from_any_step() -> None:
    np.testing.assert_array_equal(collect(4, 5), collect(0, 9)[4:])
