"""Files that are not as they were written: always a ValueError, and never a runtime that dies of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras

import keras_lowbit
from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.export import runtimes
from keras_lowbit.export.model_file import unpack

READERS = (keras_lowbit.read_metadata, keras_lowbit.load_tflite, keras_lowbit.inspect)
TRIALS = 150


@pytest.fixture(scope="module")
def small() -> QuantizedModel:
    network = networks.chain(
        (5, 5, 2), lambda k: k.Conv2D(4, 3, activation="relu", name="first"),
        lambda k: k.Flatten(name="flat"), lambda k: k.Dense(3, name="last"),
    )  # fmt: skip
    model = networks.randomize(network(tf_keras))
    return pipelines.quantized(model, PTQConfig(3, 8, optimize=(), tune_steps=0))


def damaged(blob: bytes, trial: int) -> bytes:
    """Cut short, or with one to three bits turned over."""
    generator = np.random.default_rng(trial)
    if trial % 3 == 0:
        return blob[: generator.integers(len(blob))]
    changed = bytearray(blob)
    for place in generator.choice(len(blob), 1 + trial % 3, replace=False):
        changed[place] ^= 1 << generator.integers(8)
    return bytes(changed)


@pytest.mark.parametrize(
    ("packing", "strip"), [("int8", "none"), ("lut", "names"), ("int4", "micro")]
)
def test_no_damage_goes_unnoticed(
    packing: str, strip: str, small: QuantizedModel, tmp_path: Path
) -> None:
    path = tmp_path / "m.tflite"
    small.export(path, packing=packing, strip=strip)
    whole = path.read_bytes()
    samples = networks.samples(small.model, 1)[0]
    for trial in range(TRIALS):
        path.write_bytes(damaged(whole, trial))
        for reader in READERS:
            # Without its JSON file a stripped model could be anybody's; beside it, it is not.
            with pytest.raises(ValueError, match="Received: "):
                reader(path)
        if trial % 10 < 2:
            with pytest.raises(ValueError, match="Received: "):
                small.verify(path, samples)


def test_a_file_without_a_seal_is_read_or_refused(small: QuantizedModel, tmp_path: Path) -> None:
    """Nothing but ValueError, even where there is nothing to compare the bytes with."""
    path = tmp_path / "m.tflite"
    small.export(path, packing="lut", strip="names")
    whole, refused = path.read_bytes(), 0
    readers: tuple[Callable[[bytes], Any], ...] = (
        keras_lowbit.inspect, unpack, runtimes.read_flatbuffer,
    )  # fmt: skip
    for trial in range(4 * TRIALS):
        for reader in readers:
            try:
                str(reader(damaged(whole, trial)))
            except ValueError as error:
                refused += "Received: " in str(error)
    assert 3 * TRIALS < refused < 12 * TRIALS


def test_offsets_that_lead_nowhere(small: QuantizedModel, tmp_path: Path) -> None:
    """Every 32-bit word as an enormous, a negative and a zero number."""
    small.export(tmp_path / "m.tflite", strip="names")
    whole = (tmp_path / "m.tflite").read_bytes()
    for place in range(8, len(whole) - 3, 4):
        for word in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0"):
            try:
                unpack(whole[:place] + word + whole[place + 4 :])
            except ValueError as error:
                assert "cut short or damaged" in str(error)


def test_the_files_of_another_model_and_missing_ones(small: QuantizedModel, tmp_path: Path) -> None:
    one, two = tmp_path / "one.tflite", tmp_path / "two.tflite"
    small.export(one, strip="micro")
    small.export(two, strip="micro", packing="int4")
    (tmp_path / "two.tflite.json").replace(tmp_path / "one.tflite.json")
    for reader in READERS:
        with pytest.raises(ValueError, match=r"one.tflite.json' describes another model"):
            reader(one)
        with pytest.raises(ValueError, match="Cannot read the model file: No such file"):
            reader(tmp_path / "none.tflite")
        with pytest.raises(ValueError, match="Cannot read the model file: Is a directory"):
            reader(tmp_path)
    with pytest.raises(ValueError, match=r"one.tflite.json' describes another model"):
        small.verify(one, networks.samples(small.model, 1)[0])
