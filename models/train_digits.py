"""Train the digits net and write its weights: `python -m models.train_digits --overwrite`.

The schedule is fixed; nothing is chosen by test accuracy, which is only printed at the end.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

from models import digits
from models.data import load_digits
from models.weight_files import save_weights

_SEED = flags.DEFINE_integer("seed", 0, "Seed of the initial weights and the order of images.")
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the shifted train images.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per step.", 1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 2e-3, "First rate of the cosine decay.", 0.0)
_OUTPUT = flags.DEFINE_string("output", str(digits.WEIGHTS_PATH), "File to write.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing file.")


def shifted(images: np.ndarray) -> np.ndarray:
    """All nine shifts by up to one pixel, zeros moving in: [n, h, w, c] to [9 * n, h, w, c]."""
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate(
        [
            padded[:, top : top + height, left : left + width]
            for top in range(3)
            for left in range(3)
        ]
    )


def train(seed: int, epochs: int, batch_size: int, learning_rate: float) -> tf_keras.Model:
    """A net trained on the train split; the same arguments give the same weights."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    dataset = load_digits()
    images = shifted(dataset.x_train)
    labels = np.tile(dataset.y_train, len(images) // len(dataset.x_train))
    steps = epochs * -(-len(images) // batch_size)
    model = digits.build()
    model.compile(
        tf_keras.optimizers.Adam(
            tf_keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps=steps)
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(images, labels, batch_size, epochs, verbose=2)
    return model


def main(arguments: list[str]) -> None:
    """Train, write the weights, print the accuracies."""
    if len(arguments) > 1:
        raise app.UsageError(f"Expected flags only. Received: {arguments[1:]}")
    if Path(_OUTPUT.value).exists() and not _OVERWRITE.value:
        raise app.UsageError(f"--output exists; pass --overwrite. Received: {_OUTPUT.value}")
    model = train(_SEED.value, _EPOCHS.value, _BATCH_SIZE.value, _LEARNING_RATE.value)
    save_weights(model, Path(_OUTPUT.value), _OVERWRITE.value)
    dataset = load_digits()
    _, train_accuracy = model.evaluate(dataset.x_train, dataset.y_train, verbose=0)
    _, test_accuracy = model.evaluate(dataset.x_test, dataset.y_test, verbose=0)
    print(f"train accuracy {train_accuracy:.4f}, test accuracy {test_accuracy:.4f}")


if __name__ == "__main__":
    app.run(main)
