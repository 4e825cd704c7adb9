"""Speech Commands, visual wake words and UCI HAR from where they are published.

The archives are kept in ~/.cache/keras_lowbit; what does not have the published checksum is not
read. None of the three is the same as the files below KERAS_LOWBIT_DATA, each function says how.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from models import speech_commands_format, uci_har_format, vww_format
from models.data_files import CACHE_FOLDER, download
from models.speech_features import speech_features

_Item = TypeVar("_Item")
_NUM_CALIBRATION = 1024

# Address and sha256. Those of Speech Commands are listed by TensorFlow Datasets (in its file
# url_checksums/speech_commands.txt), that of the train archive by torchaudio as well. UCI and
# Silicon Labs publish none: theirs are the ones that unrelated public projects pin.
_SPEECH_TRAIN = (
    "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)
_SPEECH_TEST = (
    "http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz",
    "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
)
_UCI_HAR = (
    "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip",
    "c00b803081a5c797cd5e4b83700a9810b38d53d9d84e01917e090e1fdbc81031",
)
_VWW = (
    "https://www.silabs.com/public/files/github/machine_learning/benchmarks/datasets/"
    "vw_coco2014_96.tar.gz",
    "f8746b9e44f8a7a4293f73be9ba6e8da9239fe69798d42364aae62b915cfab58",
)
# The checksum is that of the very same list in vww.npz (test_id, y_test).
_VWW_TEST_LABELS = (
    "https://raw.githubusercontent.com/mlcommons/tiny/6dff252349fcdcca762fd1aa0d1c47319d37d6f3/"
    "benchmark/evaluation/datasets/vww01/y_labels.csv",
    "3697ca57c48b23b21602ae9bdb32b1925407a1d41d79167cdfb365054cb9c33d",
)


class SpeechClips(NamedTuple):
    """Samples int16 [n, 16000], class numbers uint8 [n], and recordings of noise to mix in."""

    samples: np.ndarray
    labels: np.ndarray
    noise: list[np.ndarray]


def uci_har() -> dict[str, np.ndarray]:
    """The arrays of uci_har.npz from the official text files (61 MB).

    uci_har.npz was rebuilt from the raw recordings: 11 of its 18 signals are proved to be the
    official ones, the others may differ in the seventh digit.
    """
    return uci_har_format.read_archive(_fetched(_UCI_HAR))


def keyword_spotting() -> dict[str, np.ndarray]:
    """The arrays of kws.npz from the official archives (2.4 GB and 113 MB, some minutes).

    The test clips, their order and folds are the same, and so are their features but for rounding.
    The calibration clips are not: 1,024 clean ones, drawn from the 85,511 of the training part
    without regard to class, in place of 275 clips and their augmented copies.
    """
    clips = speech_commands_format.read_clips(_fetched(_SPEECH_TEST))
    test = sorted(clips, key=lambda clip: clip.name)
    training = speech_commands_format.read_clips(_fetched(_SPEECH_TRAIN), "training")
    calibration = _drawn(training, lambda clip: clip.name)
    arrays = {"test_fold": speech_commands_format.speaker_folds([clip.name for clip in test])}
    for part, chosen in (("calib", calibration), ("test", test)):
        samples, arrays[f"y_{part}"] = speech_commands_format.stack_clips(chosen)
        arrays[f"x_{part}"] = speech_features(samples)
    return arrays


def speech_clips() -> SpeechClips:
    """The training part of Speech Commands, to train on: 85,511 clips in 2.7 GB of memory."""
    archive = _fetched(_SPEECH_TRAIN)
    clips = speech_commands_format.read_clips(archive, "training")
    samples, labels = speech_commands_format.stack_clips(clips)
    return SpeechClips(samples, labels, speech_commands_format.read_noise(archive))


def visual_wake_words() -> dict[str, np.ndarray]:
    """The arrays of vww.npz from the official archive (235 MB) and list of test pictures.

    The test pictures and their order are the same, but vww.npz has them as published for the
    benchmark and the archive as JPEG, with its losses. The calibration pictures are others: 1,024
    of the training part, all labelled and none mirrored. The photographs belong to their authors,
    each under its own licence.
    """
    jpegs, labels = _vww_sources()
    training = vww_format.training_names(jpegs, labels)
    calibration = _drawn(training, lambda name: name)
    x_calib, y_calib = vww_format.decode(jpegs, calibration)
    x_test, y_test = vww_format.decode(jpegs, vww_format.labelled_names(jpegs, labels))
    return {
        "x_calib": x_calib,
        "y_calib": y_calib.astype(np.int8),
        "x_test": x_test,
        "y_test": y_test,
    }


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 96, 96, 3] and labels uint8 [n] to train on: some 98,000 in 2.7 GB."""
    jpegs, labels = _vww_sources()
    return vww_format.decode(jpegs, vww_format.training_names(jpegs, labels))


def _vww_sources() -> tuple[dict[str, bytes], dict[str, int]]:
    jpegs = vww_format.read_jpegs(_fetched(_VWW))
    return jpegs, vww_format.read_test_labels(_fetched(_VWW_TEST_LABELS))


def _fetched(source: tuple[str, str]) -> Path:
    url, sha256 = source
    return download(url, CACHE_FOLDER.expanduser(), sha256)


def _drawn(items: Iterable[_Item], name: Callable[[_Item], str]) -> list[_Item]:
    """1,024 of the items or all, chosen and ordered by the hash of their names: always the same."""
    return heapq.nsmallest(
        _NUM_CALIBRATION, items, key=lambda item: hashlib.sha256(name(item).encode()).digest()
    )
