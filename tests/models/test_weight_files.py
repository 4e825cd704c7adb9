"""Weights survive a file, and a file that does not fit is refused."""

from pathlib import Path

import numpy as np
import pytest
import tf_keras

from models.weight_files import load_weights, save_weights


def model(units: int = 3) -> tf_keras.Model:
    return tf_keras.Sequential(
        [
            tf_keras.layers.Input((4,)),
            tf_keras.layers.Dense(units, name="dense"),
            tf_keras.layers.BatchNormalization(name="norm"),
        ]
    )


def test_weights_survive_a_file(tmp_path: Path) -> None:
    first, second = model(), model()
    save_weights(first, tmp_path / "weights.npz")
    load_weights(second, tmp_path / "weights.npz")
    for before, after in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    with np.load(tmp_path / "weights.npz") as archive:
        assert "dense/kernel" in archive.files
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"kept")
    with pytest.raises(ValueError, match="exists already"):
        save_weights(model(), path)
    assert path.read_bytes() == b"kept"
    save_weights(model(), path, overwrite=True)
    load_weights(model(), path)


def test_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_weights(model(units=3), tmp_path / "weights.npz")
    with pytest.raises(ValueError, match="do not fit.*dense/kernel"):
        load_weights(model(units=5), tmp_path / "weights.npz")
