"""MobileNetV1's training script: what it does to pictures, and a few of its steps."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from training_steps import assert_seed_decides

from models import train_mobilenet, training_batches


def read_places(zoom: float) -> np.ndarray:
    """Where the pixels of augmented images were read, in pixels from the middle: [n, 96, 96, 2]."""
    y, x = np.mgrid[:96, :96].astype(np.float32)
    images = np.tile(np.stack([x, y], axis=-1), (200, 1, 1, 1))
    settings = {"turn": 10.0, "shift": 0.05, "zoom": zoom}
    return (
        training_batches.augmented_images(
            tf.constant(images), tf.constant([0, 1]), **settings
        ).numpy()
        - 47.5
    )


def test_pictures_are_zoomed_within_bounds_about_their_middle() -> None:
    zoomed, plain = read_places(zoom=0.1), read_places(zoom=0.0)
    middle = slice(47, 49)
    np.testing.assert_allclose(
        zoomed[:, middle, middle].mean(axis=(1, 2)),
        plain[:, middle, middle].mean(axis=(1, 2)),
        atol=1e-3,
    )
    for axis in (1, 2):  # neighbours above each other, then side by side
        steps = np.diff(zoomed[:, middle, middle], axis=axis).mean(axis=(1, 2))
        factors = np.hypot(steps[:, 0], steps[:, 1])
        assert 0.9 - 1e-3 <= factors.min() < 0.91
        assert 1.09 < factors.max() <= 1.1 + 1e-3


def test_settings_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    received = {}

    def augment(pictures: tf.Tensor, seed: tf.Tensor, **settings: float) -> tf.Tensor:
        received.update(settings)
        return tf.cast(pictures, tf.float32)

    monkeypatch.setattr(train_mobilenet, "augmented_images", augment)
    pictures = tf.constant(np.full((1, 96, 96, 3), 255, np.uint8))
    inputs = train_mobilenet.augmented_pictures(pictures, tf.constant([0, 1]))
    assert received == {"turn": 10.0, "shift": 0.05, "zoom": 0.1}
    np.testing.assert_array_equal(inputs, np.ones((1, 96, 96, 3)))


def test_trains_on_pictures_the_same_for_the_same_seed(shared_data: Path) -> None:
    with np.load(shared_data / "data" / "vww.npz") as archive:
        pictures, labels = archive["x_calib"], archive["y_calib"]
    chosen = np.flatnonzero(labels >= 0)[:4]
    pictures, labels = pictures[chosen], labels[chosen].astype(np.uint8)
    recipe = train_mobilenet.RECIPE._replace(batch_size=4)
    assert_seed_decides(lambda seed: train_mobilenet.train(pictures, labels, seed, 1, recipe))
