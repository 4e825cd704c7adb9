"""What the training scripts of the two separable networks have in common."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

from models.data import KeywordSpotting, VisualWakeWords
from models.training_batches import batches
from models.weight_files import save_weights


class Recipe(NamedTuple):
    """How a net is trained with Adam.

    Attributes:
      batch_size: samples per step.
      stages: epochs and learning rate, one stage after another.
    """

    batch_size: int
    stages: tuple[tuple[int, float], ...]

    @property
    def epochs(self) -> int:
        """Passes over the samples in all stages."""
        return sum(epochs for epochs, _ in self.stages)


def schedule(
    recipe: Recipe, epochs: int, steps_per_epoch: int
) -> tf_keras.optimizers.schedules.PiecewiseConstantDecay:
    """The rates of a recipe by step, its stages stretched or shortened to `epochs` in all."""
    ends = itertools.accumulate(length for length, _ in recipe.stages[:-1])
    steps = [round(end * epochs * steps_per_epoch / recipe.epochs) for end in ends]
    # Keras has the boundary itself still in the earlier stage; steps count from zero.
    return tf_keras.optimizers.schedules.PiecewiseConstantDecay(
        [step - 1 for step in steps], [rate for _, rate in recipe.stages]
    )


def train(
    build: Callable[[], tf_keras.Model],
    inputs: np.ndarray,
    labels: np.ndarray,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    recipe: Recipe,
    seed: int,
    epochs: int,
) -> tf_keras.Model:
    """A net trained on augmented batches; the same arguments give the same weights.

    `augment` makes a batch of the net's inputs from one of `inputs` and the seed of its draws.
    """
    steps_per_epoch = len(inputs) // recipe.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"There is less than one batch to train on. Expected {recipe.batch_size} samples or "
            f"more. Pass more or a smaller batch size. Received: {len(inputs)} samples"
        )
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = build()
    model.compile(
        tf_keras.optimizers.Adam(schedule(recipe, epochs, steps_per_epoch)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        batches(inputs, labels, recipe.batch_size, augment, seed),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        verbose=2,
    )
    return model


def define_flags(output: Path, epochs: int) -> None:
    """Not done by importing: flags are global, and tests import more than one script."""
    flags.DEFINE_integer("seed", 0, "Seed of the initial weights and of every batch.")
    flags.DEFINE_integer("epochs", epochs, "Passes over the samples; the rates stretch to it.", 1)
    flags.DEFINE_string("output", str(output), "File to write.")
    flags.DEFINE_boolean("overwrite", False, "Replace an existing file.")


def run(
    arguments: list[str],
    train_net: Callable[[int, int], tf_keras.Model],
    load_test: Callable[[], KeywordSpotting | VisualWakeWords],
) -> None:
    """Train with the flags' seed and epochs, write the weights, print the test accuracy."""
    options = flags.FLAGS
    if len(arguments) > 1:
        raise app.UsageError(f"Expected flags only. Received: {arguments[1:]}")
    if Path(options.output).exists() and not options.overwrite:
        raise app.UsageError(f"--output exists; pass --overwrite. Received: {options.output}")
    model = train_net(options.seed, options.epochs)
    save_weights(model, Path(options.output), options.overwrite)
    dataset = load_test()
    _, test_accuracy = model.evaluate(dataset.x_test, dataset.y_test, verbose=0)
    print(f"test accuracy {test_accuracy:.4f}")
