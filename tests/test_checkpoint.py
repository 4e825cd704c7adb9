"""What is on disk is complete or absent, and a resumed run ends as if it had never stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from networks import chain

import keras_lowbit
from keras_lowbit import PTQConfig
from keras_lowbit.callbacks import Callback
from keras_lowbit.checkpoint import Checkpoint, digest

CONFIG = PTQConfig.uniform(3, steps=8, tune_steps=8)
VALUES = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a/scale": np.float32([0.1])}

network = chain(
    (5, 5, 2), lambda k: k.Conv2D(4, 3, activation="relu", name="first"),
    lambda k: k.Conv2D(4, 3, activation="relu", name="second"), lambda k: k.Flatten(name="flat"),
    lambda k: k.Dense(3, name="last"),
)  # fmt: skip


class Kill(Callback):
    """Stops the run in the given unit; units count on through the end-to-end stage."""

    def __init__(self, unit: int, step: int) -> None:
        self.left, self.step = unit, step

    def on_unit_begin(self, unit: int, logs: Any = None) -> None:
        self.left -= 1

    def on_step_end(self, step: int, logs: Any = None) -> None:
        if self.left < 0 and step == self.step:
            raise KeyboardInterrupt


class Count(Callback):
    """Names of the units that were trained."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_unit_begin(self, unit: int, logs: Any = None) -> None:
        self.names.append(logs["name"])


def run(folder: Path | None, *callbacks: Callback, **changes: Any) -> keras_lowbit.QuantizedModel:
    model = networks.randomize(network(tf_keras), changes.pop("weights_seed", 0))
    data = networks.samples(model, 48, seed=changes.pop("data_seed", 1))[0]
    arguments = {"seed": changes.pop("seed", 0), "checkpoint_dir": folder, "callbacks": callbacks}
    config = dataclasses.replace(CONFIG, **changes)
    return pipelines.quantized(model, config, data, **arguments)


@pytest.fixture(scope="module")
def uninterrupted() -> keras_lowbit.QuantizedModel:
    return run(None)


@pytest.mark.parametrize(
    ("unit", "step", "left"),
    [
        (0, 0, ["first", "second", "last", "end to end"]),
        (1, 5, ["second", "last", "end to end"]),
        (3, 4, ["end to end"]),
    ],
)
def test_resumed_is_uninterrupted(
    unit: int, step: int, left: list[str], tmp_path: Path, uninterrupted: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Kill(unit, step))
    assert_complete_files(tmp_path / "run", units=unit)
    count = Count()
    resumed = run(tmp_path / "run", count)
    assert count.names == left
    assert_same(resumed, uninterrupted)
    assert_complete_files(tmp_path / "run", units=3)


def test_a_finished_run_is_only_read(tmp_path: Path, uninterrupted: Any) -> None:
    assert_same(run(tmp_path), uninterrupted)
    count = Count()
    assert_same(run(tmp_path, count), uninterrupted)
    assert count.names == []


def assert_same(first: keras_lowbit.QuantizedModel, second: keras_lowbit.QuantizedModel) -> None:
    others = second.student.values()
    assert first.student.values().keys() == others.keys()
    for name, value in first.student.values().items():
        np.testing.assert_array_equal(value, others[name], name)
    assert first.history == second.history
    assert first.notes == second.notes


def assert_complete_files(folder: Path, units: int) -> None:
    names = {path.name for path in folder.iterdir()}
    assert not any(name.endswith(".part") for name in names)
    assert {name for name in names if name.startswith("unit")} == {
        f"unit_{index:03d}.{ending}" for index in range(units) for ending in ("npz", "json")
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weight_bits": 4}, "config.weight_bits was '3', is '4'"),
        ({"optimize": ("adaquant",)}, "config.optimize was "),
        ({"seed": 1}, "seed was '0', is '1'"),
        ({"weights_seed": 5}, "\\['weights'\\] differ"),
        ({"data_seed": 5}, "\\['calibration data'\\] differ"),
    ],
)
def test_another_run_is_refused_by_field(
    change: dict[str, Any], field: str, tmp_path: Path
) -> None:
    run(tmp_path, steps=0, tune_steps=0)
    count = Count()
    with pytest.raises(ValueError, match=field) as caught:
        run(tmp_path, count, steps=0, tune_steps=0, **change)
    assert str(tmp_path) in str(caught.value)
    assert "`checkpoint_dir`" in str(caught.value)
    assert count.names == []


def test_another_structure_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=0, tune_steps=0)
    other = chain((5, 5, 2), lambda k: k.Conv2D(4, 3, name="first"))
    config = dataclasses.replace(CONFIG, steps=0, tune_steps=0)
    with pytest.raises(ValueError, match="'layers', 'weights'\\] differ"):
        model = networks.randomize(other(tf_keras))
        pipelines.quantized(model, config, networks.samples(model, 48)[0], checkpoint_dir=tmp_path)


def test_other_outputs_of_the_same_layers_are_refused(tmp_path: Path) -> None:
    """A tensor that is an output has other bits."""
    model = networks.randomize(network(tf_keras))
    data = networks.samples(model, 48)[0]
    config = dataclasses.replace(CONFIG, steps=0, tune_steps=0)
    pipelines.quantized(model, config, data, checkpoint_dir=tmp_path)
    inner = model.get_layer("first").output
    with pytest.raises(ValueError, match=r"another run: \['layers'\] differ"):
        two = tf_keras.Model(model.input, [model.output, inner])
        pipelines.quantized(two, config, data, checkpoint_dir=tmp_path)


def test_parts_come_back_exactly(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "folder", {"seed": "0"})
    assert checkpoint.load("unit_000") is None
    checkpoint.save("unit_000", VALUES, {"error": 0.1, "name": "a"})
    values, record = Checkpoint(tmp_path / "deep" / "folder", {"seed": "0"}).load("unit_000")
    assert record == {"error": 0.1, "name": "a"}
    assert values.keys() == VALUES.keys()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(values[name], value)
        assert values[name].dtype == value.dtype


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_a_file_is_no_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("results")
    with pytest.raises(
        ValueError, match=f"`checkpoint_dir` must be a folder.*Received: .*{place}'"
    ):
        run(tmp_path / place)
    assert (tmp_path / "file").read_text() == "results"


def test_a_number_is_no_folder() -> None:
    with pytest.raises(
        ValueError, match="`checkpoint_dir` must be a folder.*Received: checkpoint_dir=3"
    ):
        run(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["[1]", "{", "3"])
def test_a_damaged_fingerprint_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "fingerprint.json").write_text(content)
    with pytest.raises(ValueError, match=r"is damaged: fingerprint.json cannot be read"):
        Checkpoint(tmp_path, {"seed": "0"})


@pytest.mark.parametrize("broken", ["npz", "json"])
def test_a_part_that_could_not_be_written_does_not_exist(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full while the values or the record are written."""
    checkpoint = Checkpoint(tmp_path, {})
    target = (np, "savez") if broken == "npz" else (Path, "write_bytes")

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context, pytest.raises(OSError, match="No space left"):
        context.setattr(*target, full)
        checkpoint.save("unit_000", VALUES, {})
    assert checkpoint.load("unit_000") is None
    checkpoint.save("unit_000", VALUES, {})
    assert checkpoint.load("unit_000") is not None


def test_digests_tell_arrays_apart() -> None:
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.ones(4), np.zeros(5)]
    assert len({digest([array]) for array in arrays}) == len(arrays)
    assert digest(arrays) == digest(tuple(array.copy() for array in arrays))
    assert digest(arrays) != digest(arrays[::-1])
    strided = np.arange(8.0)[::2]
    assert digest([strided]) == digest([strided.copy()])
