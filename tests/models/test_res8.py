"""Res8 as defined here is the published one and has the sizes of the paper."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from architectures import Row, assert_counts, assert_same_network, table

from models import data, pretrained, res8, train_res8

STAGES: list[Row] = [
    ("Conv2D", (3, 3), (32, 32, 16)),
    ("Conv2D", (3, 3), (32, 32, 16)),
    ("Conv2D", (3, 3), (32, 32, 16)),
    ("Conv2D", (3, 3), (16, 16, 32)),
    ("Conv2D", (3, 3), (16, 16, 32)),
    ("Conv2D", (1, 1), (16, 16, 32)),  # the shortcut
    ("Conv2D", (3, 3), (8, 8, 64)),
    ("Conv2D", (3, 3), (8, 8, 64)),
    ("Conv2D", (1, 1), (8, 8, 64)),
    ("AveragePooling2D", (8, 8), (1, 1, 64)),
    ("Dense", (), (10,)),
]


def test_layers_are_those_of_the_paper() -> None:
    assert table(res8.build()) == STAGES


def test_counts_are_those_of_table_1() -> None:
    assert res8.build().count_params() == 78_666
    assert_counts(res8.build(), parameters=77_706, macs=12_501_632, paper_macs=12_591_808)


def test_official_weights_give_the_official_outputs(shared_data: Path) -> None:
    del shared_data
    assert_same_network(res8.build(), pretrained.load_res8(), data.cifar10_calibration(64))


@pytest.mark.slow
def test_our_weights_reach_the_accuracy_that_training_printed(shared_data: Path) -> None:
    del shared_data
    cifar = data.load_cifar10()
    outputs = res8.load().predict(cifar.x_test.astype(np.float32), batch_size=256, verbose=0)
    assert (outputs.argmax(axis=1) == cifar.y_test).mean() >= 0.81


def test_weights_file_is_small_enough_to_commit() -> None:
    assert res8.WEIGHTS_PATH.stat().st_size < 400_000


def test_rate_falls_to_where_the_official_one_ends() -> None:
    rates = [float(train_res8.schedule(1e-3, 1000)(step)) for step in (0, 500, 1000)]
    np.testing.assert_allclose(rates, [1e-3, 0.5e-3 * (1 + 0.99**500), 1e-3 * 0.99**500], rtol=1e-4)


def small_net() -> tf_keras.Model:
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.Conv2D(2, 3, strides=8, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="classifier"),
        ]
    )


def test_training_resumes_as_if_it_had_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(train_res8, "VALIDATION_IMAGES", 2)
    monkeypatch.setattr(res8, "build", small_net)
    images = np.random.default_rng(0).integers(0, 256, (14, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(14, dtype=np.uint8) % 10

    def train(checkpoint: str) -> list[np.ndarray]:
        settings = {"seed": 3, "epochs": 3, "batch_size": 4, "learning_rate": 1e-3}
        return train_res8.train(images, labels, **settings, checkpoint=checkpoint).get_weights()

    save = tf.train.CheckpointManager.save

    def save_and_die(manager: tf.train.CheckpointManager) -> None:
        save(manager)
        raise InterruptedError

    with monkeypatch.context() as patches:
        patches.setattr(tf.train.CheckpointManager, "save", save_and_die)
        with pytest.raises(InterruptedError):
            train(str(tmp_path))
    for resumed, whole in zip(train(str(tmp_path)), train(""), strict=True):
        np.testing.assert_allclose(resumed, whole, rtol=1e-5, atol=1e-6)
