"""What the scripts for DS-CNN and MobileNetV1 share: rates by step, errors, the main function."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from absl import app, flags

from models import train_ds_cnn, train_mobilenet, training
from models.data import VisualWakeWords
from models.weight_files import load_weights


def rates(recipe: training.Recipe, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The rate of every step, as the optimizer asks for it: [epochs, steps]."""
    schedule = training.schedule(recipe, epochs, steps_per_epoch)
    steps = tf.range(epochs * steps_per_epoch, dtype=tf.int64)
    return np.reshape([schedule(step) for step in steps], (epochs, steps_per_epoch))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (train_ds_cnn.RECIPE, [5e-4] * 12 + [1e-4] * 12 + [2e-5] * 12),
        (train_mobilenet.RECIPE, [1e-3] * 20 + [5e-4] * 10 + [2.5e-4] * 20),
    ],
    ids=["DS-CNN", "MobileNetV1"],
)
def test_rates_are_the_published_ones(recipe: training.Recipe, expected: list[float]) -> None:
    assert recipe.epochs == len(expected)
    for column in rates(recipe, recipe.epochs, steps_per_epoch=3).T:
        np.testing.assert_allclose(column, expected, rtol=1e-6)


def test_rates_stretch_to_the_epochs() -> None:
    recipe = training.Recipe(4, ((2, 0.1), (1, 0.2), (2, 0.3)))
    np.testing.assert_allclose(
        rates(recipe, 10, 1)[:, 0], [0.1] * 4 + [0.2] * 2 + [0.3] * 4, rtol=1e-6
    )
    np.testing.assert_allclose(rates(recipe, 1, 5)[0], [0.1, 0.1, 0.2, 0.3, 0.3], rtol=1e-6)


def net() -> tf_keras.Model:
    return tf_keras.Sequential(
        [tf_keras.layers.Input((2,)), tf_keras.layers.Dense(2, "softmax", name="dense")]
    )


def train_net(seed: int, epochs: int, count: int = 40) -> tf_keras.Model:
    inputs = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    labels = (inputs[:, 0] > 0.0).astype(np.uint8)
    recipe = training.Recipe(8, ((1, 0.1), (1, 0.01)))
    return training.train(net, inputs, labels, lambda batch, _: batch, recipe, seed, epochs)


def test_training_learns() -> None:
    inputs = np.array([[2.0, 0.0], [-2.0, 0.0]])
    assert train_net(seed=0, epochs=10).predict(inputs, verbose=0).argmax(axis=1).tolist() == [1, 0]


def test_less_than_one_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="less than one batch.*Received: 7 samples"):
        train_net(seed=0, epochs=1, count=7)


def load_test() -> VisualWakeWords:
    inputs = np.array([[2.0, 0.0], [-2.0, 0.0]], np.float32)
    return VisualWakeWords(inputs, np.zeros(2), inputs, np.array([1, 0]))


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Flags of this test's own, as a script defines them."""
    own = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", own)
    path = tmp_path / "weights.npz"
    for name in ("integer", "string", "boolean"):
        define = getattr(flags, f"DEFINE_{name}")
        monkeypatch.setattr(
            flags,
            f"DEFINE_{name}",
            lambda *arguments, define=define: define(*arguments, flag_values=own),
        )
    training.define_flags(path, epochs=10)
    own.mark_as_parsed()
    return path


def test_main_writes_weights_and_says_the_accuracy(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.run(["script"], train_net, load_test)
    assert "test accuracy 1.0000" in capsys.readouterr().out
    model = net()
    load_weights(model, output)
    for read, trained in zip(model.get_weights(), train_net(0, 10).get_weights(), strict=True):
        np.testing.assert_array_equal(read, trained)


def test_main_keeps_what_is_there_and_takes_no_words(output: Path) -> None:
    output.write_bytes(b"kept")
    with pytest.raises(app.UsageError, match="pass --overwrite"):
        training.run(["script"], train_net, load_test)
    assert output.read_bytes() == b"kept"
    flags.FLAGS.overwrite = True
    with pytest.raises(app.UsageError, match=r"flags only.*\['word'\]"):
        training.run(["script", "word"], train_net, load_test)
