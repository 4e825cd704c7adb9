"""Train MobileNetV1 and write its weights: `python -m models.train_mobilenet --overwrite`.

The recipe is that of MLPerf Tiny (mlcommons/tiny, benchmark/training/visual_wake_words): Adam in
three stages, pictures turned, shifted, zoomed and mirrored. It needs its archive of pictures, 235
MB to download, and 6 GB of memory. Nothing is chosen; the test accuracy is only printed.

Deviation: Adam's moments last from stage to stage, and the test pictures, which the published
script trains on, are left out.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

from models import mobilenet, training
from models.data import load_vww
from models.official_downloads import photographs
from models.training_batches import augmented_images

RECIPE = training.Recipe(batch_size=32, stages=((20, 1e-3), (10, 5e-4), (20, 2.5e-4)))
_TURN, _SHIFT, _ZOOM = 10.0, 0.05, 0.1


def augmented_pictures(pictures: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Inputs of the net from pictures uint8 [n, 96, 96, 3]; the integers `seed` [2] decide them."""
    return augmented_images(pictures, seed, turn=_TURN, shift=_SHIFT, zoom=_ZOOM) / 255.0


def train(
    pictures: np.ndarray,
    labels: np.ndarray,
    seed: int,
    epochs: int,
    recipe: training.Recipe = RECIPE,
) -> tf_keras.Model:
    """A net trained on pictures uint8 [n, 96, 96, 3]; the same arguments give the same weights."""
    return training.train(
        mobilenet.build, pictures, labels, augmented_pictures, recipe, seed, epochs
    )


def main(arguments: list[str]) -> None:
    """Train on the official pictures, write the weights, print the test accuracy."""
    training.run(arguments, lambda seed, epochs: train(*photographs(), seed, epochs), load_vww)


if __name__ == "__main__":
    training.define_flags(Path(__file__).with_name("mobilenet.npz"), RECIPE.epochs)
    flags.adopt_module_key_flags(training)  # --help is to list them
    app.run(main)
