"""The tasks of the study: a float network, calibration samples by seed, and labelled test samples.

No test sample calibrates and is evaluated in the same row. Where a seed draws the calibration
samples, it draws them without replacement from the training samples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from models import data, har_cnn, pretrained, res8

CALIBRATION_SAMPLES = 1024
FOLDS = 5


class Samples(NamedTuple):
    """Calibration inputs, and test inputs with their class numbers.

    The classes of the calibration inputs, -1 where unknown, are for tools that train; quantization
    of ours never sees them.
    """

    calibration: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    calibration_labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """A float network and its data.

    Attributes:
      name: in cells and rows.
      network: what the paper calls the network.
      load: the trained float model.
      data: maps a seed to samples.
      counts_norms: the paper counts its batch norms as if they were not folded.
    """

    name: str
    network: str
    load: Callable[[], Any]
    data: Callable[[int], Samples]
    counts_norms: bool = False


# Decoding takes seconds and a worker measures many cells.
@functools.lru_cache(maxsize=1)
def _cifar10_test() -> tuple[np.ndarray, np.ndarray]:
    cifar = data.load_cifar10()
    return cifar.x_test.astype(np.float32), cifar.y_test


_load_kws = functools.lru_cache(maxsize=1)(data.load_kws)
_load_vww = functools.lru_cache(maxsize=1)(data.load_vww)
_load_uci_har = functools.lru_cache(maxsize=1)(data.load_uci_har)


def _drawn(samples: np.ndarray, seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed).choice(len(samples), CALIBRATION_SAMPLES, replace=False)
    return samples[chosen]


def _cifar10(seed: int) -> Samples:
    images, labels = data.cifar10_labelled_calibration(CALIBRATION_SAMPLES, seed)
    return Samples(images, *_cifar10_test(), labels)


def _keyword_folds(seed: int) -> Samples:
    """Calibrates on one fold of the test clips and evaluates on the others: few others exist."""
    if not 0 <= seed < FOLDS:
        raise ValueError(f"The seed is a fold, 0 to {FOLDS - 1}. Received: seed={seed}")
    kws = _load_kws()
    held_out = kws.test_fold == seed
    return Samples(
        kws.x_test[held_out], kws.x_test[~held_out], kws.y_test[~held_out], kws.y_test[held_out]
    )


def _keyword_calibration_clips(seed: int) -> Samples:
    """Calibrates on the few training clips at hand and evaluates on all test clips."""
    kws = _load_kws()
    labels = _drawn(kws.y_calib, seed)
    return Samples(_drawn(kws.x_calib, seed), kws.x_test, kws.y_test, labels)


def _visual_wake_words(seed: int) -> Samples:
    vww = _load_vww()
    labels = _drawn(vww.y_calib, seed)
    return Samples(_drawn(vww.x_calib, seed), vww.x_test, vww.y_test, labels)


def _human_activity(seed: int) -> Samples:
    har = _load_uci_har()
    labels = _drawn(har.y_train, seed)
    return Samples(_drawn(har.x_train, seed), har.x_test, har.y_test, labels)


TASKS = {
    task.name: task
    for task in (
        Task("res8", "Res8", pretrained.load_res8, _cifar10),
        Task("ds_cnn", "DS-CNN", pretrained.load_ds_cnn, _keyword_folds),
        Task("mobilenet", "MobileNetV1", pretrained.load_mobilenet, _visual_wake_words),
        Task("har_cnn", "HAR CNN", har_cnn.load, _human_activity, counts_norms=True),
        Task("res8_recipe", "Res8, our training", res8.load, _cifar10),
        Task("ds_cnn_calib", "DS-CNN, training clips", pretrained.load_ds_cnn,
             _keyword_calibration_clips),
    )
}  # fmt: skip
MAIN_TASKS = ("res8", "ds_cnn", "mobilenet", "har_cnn")


def one_task(name: str) -> Task:
    """The task of this name.

    Raises:
      ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task. Expected one of {sorted(TASKS)}. Received: {name!r}")
    return TASKS[name]
