"""Samples from the statistics of batch norms, for models that come without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras

import keras_lowbit
from keras_lowbit import PTQConfig, data_free
from keras_lowbit.graph import Graph
from keras_lowbit.reader import read

CONFIG = PTQConfig(optimize=(), tune_steps=0, calibration_samples=96)
PIXELS = (118.0, 60.0)  # mean and deviation of what the network was trained on


def trained() -> Any:
    """A network whose batch norms have seen smooth images in pixels."""
    model = networks.randomize(networks.residual(tf_keras))
    x = pixels(256)
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            seen = tf_keras.Model(model.input, layer.input)(x).numpy()
            layer.moving_mean.assign(seen.mean((0, 1, 2)))
            layer.moving_variance.assign(seen.var((0, 1, 2)))
    return model


def pixels(count: int) -> np.ndarray:
    coarse = np.random.default_rng(5).normal(size=(count, 2, 2, 3))
    smooth = tf.image.resize(coarse, (8, 8), "bilinear").numpy()
    return (PIXELS[0] + PIXELS[1] * smooth / smooth.std()).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read(trained())


@pytest.fixture(scope="module")
def made_up(graph: Graph) -> np.ndarray:
    return data_free.synthesize(graph, 140, seed=3)[0]


def divergence(graph: Graph, x: np.ndarray) -> float:
    norms = data_free.trained_norms(graph)
    return float(data_free._divergence(graph, norms)([tf.constant(x)]))


def test_the_statistics_are_matched_in_the_unit_of_the_data(
    graph: Graph, made_up: np.ndarray
) -> None:
    assert made_up.shape == (140, 8, 8, 3)
    assert made_up.dtype == np.float32
    noise = np.random.default_rng(0).normal(size=(128, 8, 8, 3)).astype(np.float32)
    real = divergence(graph, pixels(128))
    assert divergence(graph, noise) > 1.0
    for part in (made_up[:128], made_up[128:]):
        assert divergence(graph, part) < 0.1
    assert divergence(graph, made_up[:128]) < max(2 * real, 0.02)
    assert 0.2 * PIXELS[1] < made_up.std() < 5 * PIXELS[1]


def test_a_seed_gives_the_same_samples(
    graph: Graph, made_up: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.testing.assert_array_equal(data_free.synthesize(graph, 128, seed=3)[0], made_up[:128])
    monkeypatch.setattr(data_free, "STEPS", 2)
    monkeypatch.setattr(data_free, "WIDTHS", (64.0,))
    assert np.abs(data_free.synthesize(graph, 8, seed=4)[0] - made_up[:8]).max() > 1.0


def test_inputs_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of parameters of what writes the checkpoint."""
    monkeypatch.setattr(data_free, "STEPS", 1)
    monkeypatch.setattr(data_free, "WIDTHS", (64.0,))
    model = trained()
    image = tf_keras.Input(model.input.shape[1:], name="file")
    renamed = tf_keras.Model(image, model(image))
    runs = [
        keras_lowbit.quantize(renamed, config=CONFIG, verbose=0, checkpoint_dir=tmp_path)
        for _ in range(2)
    ]
    first, again = (qmodel.student.values() for qmodel in runs)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name], name)


def test_it_is_said_wherever_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(data_free, "STEPS", 3)
    monkeypatch.setattr(data_free, "WIDTHS", (64.0,))
    model = trained()
    with caplog.at_level("WARNING", logger="absl"):
        qmodel = keras_lowbit.quantize(
            model, config=CONFIG, verbose=0, checkpoint_dir=tmp_path / "run"
        )
    assert "no calibration data: 96 samples are made up" in caplog.text
    wanted = {"samples": 96, "source": data_free.SOURCE}
    assert qmodel.calibration == wanted
    assert f"96 calibration samples ({data_free.SOURCE})" in str(qmodel.report())
    qmodel.save(tmp_path / "saved")
    loaded = keras_lowbit.load(tmp_path / "saved")
    assert loaded.calibration == wanted
    for name, options in (("m.tflite", {}), ("s.tflite", {"strip": "micro"})):
        loaded.export(tmp_path / name, **options)
        assert keras_lowbit.read_metadata(tmp_path / name)["calibration"] == wanted
    # A run that is resumed takes the samples that it made.
    monkeypatch.setattr(data_free, "STEPS", 0)
    again = keras_lowbit.quantize(model, config=CONFIG, verbose=0, checkpoint_dir=tmp_path / "run")
    for name, value in again.student.values().items():
        np.testing.assert_array_equal(value, qmodel.student.values()[name])
    with pytest.raises(ValueError, match=r"another run: \['calibration data'\] differ"):
        pipelines.quantized(model, CONFIG, pixels(96), checkpoint_dir=tmp_path / "run")
    real = pipelines.quantized(model, CONFIG, pixels(96))
    assert real.calibration == {"samples": 96}
    assert "synthetic" not in str(real.report())


def test_several_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = tf_keras.layers
    image, speed = tf_keras.Input((6, 6, 2), name="image"), tf_keras.Input((3,), name="speed")
    seen = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    felt = layers.Dense(4)(speed)
    monkeypatch.setattr(data_free, "WIDTHS", (1.0,))
    blind = networks.randomize(tf_keras.Model([speed, image], layers.Concatenate()([seen, felt])))
    with pytest.raises(
        ValueError, match=r"Pass `calib_ds`.*Received: the inputs \['speed'\], and 1"
    ):
        keras_lowbit.quantize(blind, verbose=0)
    joined = layers.BatchNormalization()(layers.Concatenate()([seen, felt]))
    model = networks.randomize(tf_keras.Model([speed, image], layers.Dense(2)(joined)))
    monkeypatch.setattr(data_free, "STEPS", 2)
    first, second = data_free.synthesize(read(model), 5)
    assert (first.shape, second.shape) == ((5, 3), (5, 6, 6, 2))


def test_models_that_remember_nothing_are_refused(tmp_path: Path) -> None:
    plain = networks.randomize(networks.two_outputs(tf_keras))
    untrained = networks.residual(tf_keras)  # its batch norms are as they were initialised
    for model in (plain, untrained):
        with pytest.raises(ValueError, match=r"Pass `calib_ds`.*\['image'\], and 0 trained"):
            keras_lowbit.quantize(model, None, checkpoint_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
