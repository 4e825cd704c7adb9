"""Endless batches of augmented samples for the training scripts."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf


def batches(
    inputs: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches without end, in every epoch in another order, each of them augmented.

    A batch depends on its step and `seed` alone, so training goes on from any `first_step` as if
    it had never stopped. `augment` takes a batch and the seed [2] of its draws.
    """
    all_inputs, all_labels = tf.constant(inputs), tf.constant(labels)
    steps_per_epoch = len(inputs) // batch_size

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        places = step % steps_per_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        epoch_seed = tf.stack([seed, step // steps_per_epoch])
        rows = tf.random.experimental.index_shuffle(places, epoch_seed, len(inputs) - 1)
        chosen = augment(tf.gather(all_inputs, rows), tf.stack([seed, step]))
        return chosen, tf.gather(all_labels, rows)

    return tf.data.Dataset.range(first_step, np.iinfo(np.int64).max).map(batch).prefetch(2)


def augmented_images(
    images: tf.Tensor,
    seed: tf.Tensor,
    turn: float = 15.0,
    shift: float = 0.1,
    zoom: float = 0.0,
) -> tf.Tensor:
    """Images turned, shifted and zoomed at random, every second one mirrored.

    Edge pixels move in, as in ImageDataGenerator.

    Args:
      images: [n, h, w, c] of any type; the outcome is float32.
      seed: two integers, which decide the outcome.
      turn: largest turn, in degrees.
      shift: largest shift, as a share of width and height.
      zoom: largest relative change of width and of height, each drawn by itself.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draws = tf.random.stateless_uniform((4, count), seed, -1.0, 1.0)
    angle = draws[0] * math.radians(turn)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    mirror = tf.where(draws[3] < 0.0, -1.0, 1.0)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    # From a pixel of the outcome to the place it is read from, both seen from the middle.
    x_from_x, x_from_y = cosine * mirror, -sine
    y_from_x, y_from_y = sine * mirror, cosine
    if zoom:
        # Draws of their own, so that those above are the same without zoom.
        own_seed = tf.random.experimental.stateless_fold_in(seed, 0)
        wide, high = tf.unstack(
            tf.random.stateless_uniform((2, count), own_seed, 1.0 - zoom, 1.0 + zoom)
        )
        x_from_x, x_from_y = x_from_x * wide, x_from_y * high
        y_from_x, y_from_y = y_from_x * wide, y_from_y * high
    x_shift, y_shift = draws[1] * shift * width, draws[2] * shift * height
    x_offset = middle_x + x_shift - x_from_x * middle_x - x_from_y * middle_y
    y_offset = middle_y + y_shift - y_from_x * middle_x - y_from_y * middle_y
    rows = [x_from_x, x_from_y, x_offset, y_from_x, y_from_y, y_offset]
    rows += [tf.zeros(count), tf.zeros(count)]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack(rows, axis=1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def augmented_windows(
    windows: tf.Tensor, seed: tf.Tensor, turn: float, gain: float, noise: float
) -> tf.Tensor:
    """Motion windows float32 [n, t, 9] of phones that are worn a little differently.

    Args:
      windows: body acceleration, angular velocity and total acceleration, three axes each.
      seed: two integers, which decide the outcome.
      turn: standard deviation, in degrees, of a window's turn about each axis of the phone.
      gain: largest relative change of all values of a window.
      noise: standard deviation of the noise on each value.
    """
    count, length = tf.shape(windows)[0], windows.shape[1]
    seeds = tf.random.experimental.stateless_split(seed, 3)
    x, y, z = tf.unstack(tf.random.stateless_normal((3, count), seeds[0]) * math.radians(turn))
    zero = tf.zeros_like(x)
    rows = [tf.stack(row, axis=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    turns = tf.linalg.expm(tf.stack(rows, axis=1))
    vectors = tf.reshape(windows, (count, length, 3, 3))
    turned = tf.reshape(tf.einsum("ntsa,nab->ntsb", vectors, turns), (count, length, 9))
    gains = tf.random.stateless_uniform((count, 1, 1), seeds[1], 1.0 - gain, 1.0 + gain)
    return turned * gains + tf.random.stateless_normal(tf.shape(windows), seeds[2], stddev=noise)
