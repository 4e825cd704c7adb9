"""Speech Commands as published: WAV files in tar archives, split by the hash of the speaker."""

import hashlib
import io
import re
import tarfile
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.speech_features import SAMPLE_RATE

_KEYWORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_SILENCE, _UNKNOWN = 10, 11
_SILENCE_FOLDER, _NOISE_FOLDER = "_silence_", "_background_noise_"
_VALIDATION_NOISE = "running_tap.wav"
_LARGEST_HASH = 2**27 - 1
_NUM_FOLDS = 5


class Clip(NamedTuple):
    """One second of speech: "folder/file", its class number, int16 [16000] filled with zeros."""

    name: str
    label: int
    samples: np.ndarray


def speaker(name: str) -> str:
    """The hash that stands for the person who speaks; the file's own name where there is none."""
    found = re.search(r"([^_/]+)_nohash_", name)
    return found[1] if found else name.rsplit("/", 1)[-1]


def partition(name: str) -> str:
    """ "training", "validation" or "testing", by the rule of the data set's own README.

    All clips of a speaker fall into the same part. Recordings of noise, which the rule leaves out,
    are for training but for the one that TensorFlow Datasets validates on.
    """
    if name.startswith(_NOISE_FOLDER):
        return "validation" if _VALIDATION_NOISE in name else "training"
    number = int(hashlib.sha1(speaker(name).encode()).hexdigest(), 16) % (_LARGEST_HASH + 1)
    percentage = number * (100.0 / _LARGEST_HASH)
    return "validation" if percentage < 10 else "testing" if percentage < 20 else "training"


def read_clips(path: Path, part: str | None = None) -> Iterator[Clip]:
    """The clips of an archive in its order, all or those of a `partition`.

    A recording of noise becomes clips of silence: a second every half second, as TensorFlow
    Datasets cuts it.
    """
    for name, samples in _recordings(path):
        folder = name.split("/")[0]
        if part not in (None, partition(name)):
            continue
        if folder == _NOISE_FOLDER:
            for start in range(0, len(samples) - SAMPLE_RATE, SAMPLE_RATE // 2):
                yield Clip(f"{name}_{start}", _SILENCE, samples[start : start + SAMPLE_RATE])
            continue
        if len(samples) > SAMPLE_RATE:
            raise ValueError(
                f"{name} in {path} is no clip of Speech Commands. Expected at most {SAMPLE_RATE} "
                f"samples. Fetch the archive again. Received: {len(samples)} samples"
            )
        yield Clip(name, _label(folder), np.pad(samples, (0, SAMPLE_RATE - len(samples))))


def read_noise(path: Path) -> list[np.ndarray]:
    """The training part's recordings of noise, int16 each of its own length."""
    return [
        samples
        for name, samples in _recordings(path, folder=_NOISE_FOLDER)
        if partition(name) == "training"
    ]


def stack_clips(clips: Iterable[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """Samples int16 [n, 16000] and class numbers uint8 [n]."""
    rows = np.fromiter(
        ((clip.samples, clip.label) for clip in clips),
        dtype=[("samples", np.int16, SAMPLE_RATE), ("label", np.uint8)],
    )
    return rows["samples"], rows["label"]


def speaker_folds(names: list[str]) -> np.ndarray:
    """Folds int8 0..4 of about the same size that no speaker is in twice.

    Speakers with the most clips come first, each into the smallest fold so far; clips of silence
    are dealt in turn.
    """
    clips: dict[str, list[int]] = {}
    silent = []
    for row, name in enumerate(names):
        if name.startswith(_SILENCE_FOLDER):
            silent.append(row)
        else:
            clips.setdefault(speaker(name), []).append(row)
    folds, sizes = np.zeros(len(names), np.int8), [0] * _NUM_FOLDS
    for person in sorted(clips, key=lambda person: (-len(clips[person]), person)):
        smallest = sizes.index(min(sizes))
        folds[clips[person]] = smallest
        sizes[smallest] += len(clips[person])
    folds[silent] = np.arange(len(silent)) % _NUM_FOLDS
    return folds


def _label(folder: str) -> int:
    if folder == _SILENCE_FOLDER:
        return _SILENCE
    return _KEYWORDS.index(folder) if folder in _KEYWORDS else _UNKNOWN


def _recordings(path: Path, folder: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Name "folder/file" and samples int16 of the WAV files in an archive."""
    with tarfile.open(path) as archive:
        for member in archive:
            name = "/".join(member.name.rsplit("/", 2)[-2:])
            if name.endswith(".wav") and name.startswith(folder):
                file = archive.extractfile(member)
                if file is not None:
                    yield name, _samples(file.read(), f"{name} in {path}")


def _samples(content: bytes, origin: str) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as recording:
        form = (recording.getnchannels(), recording.getsampwidth(), recording.getframerate())
        if form != (1, 2, SAMPLE_RATE):
            raise ValueError(
                f"{origin} is no recording of Speech Commands. Expected (channels, bytes, rate) = "
                f"{(1, 2, SAMPLE_RATE)}. Fetch the archive again. Received: {form}"
            )
        return np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(np.int16)
