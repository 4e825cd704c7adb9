"""Train Res8 and write its weights: `python -m models.train_res8 --overwrite`.

The recipe is that of MLPerf Tiny (mlcommons/tiny, benchmark/training/image_classification): Adam,
L2 on the convolutions' kernels, a rate that falls to 0.99 ** 500 of its first value, images
turned, shifted and mirrored. Nothing is chosen; the accuracies are only printed.

Deviations, so that 60 epochs do instead of 500: batches of 128 at twice the rate, which falls along a
cosine, since the official decay would spend most of a short run at rates too small to learn at.
2,000 of the 40,000 train images are held out.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

from models import res8
from models.data import load_cifar10
from models.training_batches import augmented_images, batches
from models.weight_files import save_weights

VALIDATION_IMAGES = 2000
LAST_RATE = 0.99**500  # of the first


def schedule(first_rate: float, steps: int) -> tf_keras.optimizers.schedules.CosineDecay:
    """From the first rate to the share of it where the official decay ends, along a cosine."""
    return tf_keras.optimizers.schedules.CosineDecay(first_rate, steps, alpha=LAST_RATE)


def train(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    checkpoint: str = "",
) -> tf_keras.Model:
    """A net trained on all but the last images; the same arguments give the same weights."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    held_out = (images[-VALIDATION_IMAGES:], labels[-VALIDATION_IMAGES:])
    images, labels = images[:-VALIDATION_IMAGES], labels[:-VALIDATION_IMAGES]
    steps_per_epoch = len(images) // batch_size
    model = res8.build()
    optimizer = tf_keras.optimizers.Adam(schedule(learning_rate, epochs * steps_per_epoch))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = []
    if checkpoint:
        optimizer.build(model.trainable_variables)
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=optimizer),
            Path(checkpoint) / f"{epochs}_epochs_of_{batch_size}_at_{learning_rate}_seed_{seed}",
            max_to_keep=1,
        )
        manager.restore_or_initialize()
        callbacks = [
            tf_keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: manager.save())
        ]
    first_step = int(optimizer.iterations)
    model.fit(
        batches(images, labels, batch_size, augmented_images, seed, first_step),
        epochs=epochs,
        initial_epoch=first_step // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        validation_data=held_out,
        validation_batch_size=200,
        callbacks=callbacks,
        verbose=2,
    )
    return model


def define_flags() -> None:
    """Not done by importing: flags are global, and tests import more than one script."""
    flags.DEFINE_integer("seed", 0, "Seed of the initial weights and of every batch.")
    flags.DEFINE_integer("epochs", 60, "Passes over the train images.", 1)
    flags.DEFINE_integer("batch_size", 128, "Images per step.", 1)
    flags.DEFINE_float("learning_rate", 2e-3, "First rate of the decay.", 0.0)
    flags.DEFINE_string("output", str(res8.WEIGHTS_PATH), "File to write.")
    flags.DEFINE_boolean("overwrite", False, "Replace an existing file.")
    flags.DEFINE_string(
        "checkpoint", "", "Folder from which the same command resumes after every whole epoch."
    )


def main(arguments: list[str]) -> None:
    """Train, write the weights, print the accuracies."""
    options = flags.FLAGS
    if len(arguments) > 1:
        raise app.UsageError(f"Expected flags only. Received: {arguments[1:]}")
    if Path(options.output).exists() and not options.overwrite:
        raise app.UsageError(f"--output exists; pass --overwrite. Received: {options.output}")
    dataset = load_cifar10()
    model = train(
        dataset.x_train,
        dataset.y_train,
        options.seed,
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.checkpoint,
    )
    save_weights(model, Path(options.output), options.overwrite)
    held_out = (dataset.x_train[-VALIDATION_IMAGES:], dataset.y_train[-VALIDATION_IMAGES:])
    _, validation_accuracy = model.evaluate(*held_out, batch_size=200, verbose=0)
    _, test_accuracy = model.evaluate(dataset.x_test, dataset.y_test, batch_size=200, verbose=0)
    print(f"validation accuracy {validation_accuracy:.4f}, test accuracy {test_accuracy:.4f}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
