"""The measurements: networks, bits, recipes, and the labelled samples at hand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks.rows import short_hash
from benchmarks.study.plan import full_config
from keras_lowbit import PTQConfig
from keras_lowbit.finetune.augmentation import shifted_and_mirrored, shifted_in_time
from models import data
from models.training_batches import augmented_windows

CONFIGS = {
    "W4A8": PTQConfig(weight_bits=4, activation_bits=8),
    "W3A8": PTQConfig(weight_bits=3, activation_bits=8),
    "W2A8": PTQConfig(weight_bits=2, activation_bits=8),
    "4/4": PTQConfig.uniform(4),
    "3/3": PTQConfig.uniform(3),
    "2/2": PTQConfig.uniform(2),
}
FOLDS = 5
OPTIMIZER = "RelativeAdam, cosine"

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Recipe(NamedTuple):
    """:class:`keras_lowbit.RelativeAdam`, its rate falling to zero along a half cosine."""

    epochs: int
    batch_size: int
    learning_rate: float


class Labelled(NamedTuple):
    """Labelled samples that no test sample is among, and which of them `--validate` leaves out."""

    x: np.ndarray
    y: np.ndarray
    held_out: np.ndarray


@dataclasses.dataclass(frozen=True)
class Trained:
    """How one network is trained.

    Attributes:
      recipe: chosen on held-out training samples, or taken from a like network (`chosen`).
      chosen: how.
      samples: what it learns from, in words.
      labelled: maps a seed to it.
      augment: makes a batch of inputs and a seed to other inputs of the same labels.
    """

    recipe: Recipe
    chosen: str
    samples: str
    labelled: Callable[[int], Labelled]
    augment: Augment


@functools.lru_cache(maxsize=1)
def _cifar10(seed: int) -> Labelled:
    del seed
    cifar = data.load_cifar10()
    last = np.arange(len(cifar.x_train)) >= len(cifar.x_train) - 2000
    return Labelled(cifar.x_train.astype(np.float32), cifar.y_train, last)


def _human_activity(seed: int) -> Labelled:
    del seed
    har = data.load_uci_har()
    subjects = np.isin(har.subject_train, np.unique(har.subject_train)[::FOLDS])
    return Labelled(har.x_train, har.y_train, subjects)


def _keywords(seed: int) -> Labelled:
    """The fold of test clips that `benchmarks.study.tasks` calibrates on, and the training clips."""
    kws = data.load_kws()
    fold = kws.test_fold == seed
    x = np.concatenate([kws.x_calib, kws.x_test[fold]]).astype(np.float32)
    y = np.concatenate([kws.y_calib, kws.y_test[fold]])
    # Clips of other speakers than the training clips; those are augmented copies of one another.
    late = np.arange(len(x)) >= len(kws.x_calib) + fold.sum() // 2
    return Labelled(x, y, late)


def _persons(seed: int) -> Labelled:
    del seed
    vww = data.load_vww()
    known = vww.y_calib >= 0
    picture = np.arange(len(known)) % (len(known) // 2)  # the second half is the first, mirrored
    return Labelled(
        vww.x_calib[known], vww.y_calib[known].astype(np.uint8), picture[known] % FOLDS == 0
    )


NETWORKS = {
    "res8": Trained(
        Recipe(5, 128, 5e-3), "with --validate, rows in qat_validation.jsonl: 5e-3, 2e-2 end at 85.2, 84.8 % for 3/3 after "
        "three epochs", "40,000 training images", _cifar10, lambda x, seed: shifted_and_mirrored([x], seed)[0],
    ),
    "ds_cnn": Trained(
        Recipe(10, 64, 5e-3), "not chosen: that of the others",
        "1,232 rows of 275 training clips and of silence, and the fold of test clips that calibrates; "
        "no training set is at hand", _keywords, lambda x, seed: shifted_in_time([x], seed)[0],
    ),
    "mobilenet": Trained(
        Recipe(10, 32, 5e-3), "not chosen: that of the others",
        "280 labelled photographs and their mirror images; no training set is at hand",
        _persons, lambda x, seed: shifted_and_mirrored([x], seed)[0],
    ),
    "har_cnn": Trained(
        Recipe(5, 64, 5e-3), "with --validate, rows in qat_validation.jsonl: 1e-3, 5e-3, 2e-2 end at 94.1, 96.3, 95.3 % for 3/3 and "
        "at 92.0, 91.5, 90.4 % for 2/2", "7,352 training windows", _human_activity,
        lambda x, seed: augmented_windows(x, seed, turn=10.0, gain=0.1, noise=0.02),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network quantized and then trained.

    Attributes:
      task: a name in :data:`NETWORKS`.
      setting: a name in :data:`CONFIGS`.
      config: how it is quantized first.
      recipe: how it is trained.
      seed: of the calibration samples and of both optimisations.
      validate: evaluated on held-out training samples, which it then neither sees nor calibrates on.
    """

    task: str
    setting: str
    config: PTQConfig
    recipe: Recipe
    seed: int = 0
    validate: bool = False

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row."""
        return short_hash(
            [
                self.task,
                full_config(self.config),
                [*self.recipe, OPTIMIZER],
                self.seed,
                self.validate,
            ]
        )

    def __str__(self) -> str:
        where = " held-out training samples," if self.validate else ""
        return f"{self.task} {self.setting},{where} rate {self.recipe.learning_rate:g}"


def cells(
    tasks: Iterable[str],
    settings: Iterable[str],
    rates: Iterable[float] = (),
    epochs: int | None = None,
    seed: int = 0,
    validate: bool = False,
) -> list[Cell]:
    """The plan, task by task.

    Args:
      tasks: names.
      settings: names.
      rates: learning rates instead of the recipes'.
      epochs: instead of the recipes'.
      seed: of every cell.
      validate: of every cell.

    Raises:
      ValueError: an unknown name.
    """
    tasks, settings, rates = tuple(tasks), tuple(settings), tuple(rates)
    for name, known in [(t, NETWORKS) for t in tasks] + [(s, CONFIGS) for s in settings]:
        if name not in known:
            raise ValueError(f"Expected some of {list(known)}. Received: {name!r}")
    planned = []
    for task in tasks:
        recipe = NETWORKS[task].recipe
        recipe = recipe._replace(epochs=epochs or recipe.epochs)
        for setting in settings:
            for rate in rates or (recipe.learning_rate,):
                planned.append(
                    Cell(
                        task, setting, CONFIGS[setting], recipe._replace(learning_rate=rate), seed,
                        validate,
                    )
                )  # fmt: skip
    return planned
