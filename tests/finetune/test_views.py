"""The float network's mean answer over views: what it is, and where it is not asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras

from keras_lowbit import PTQConfig
from keras_lowbit.finetune import end_to_end
from keras_lowbit.finetune.augmentation import Augmentation
from keras_lowbit.finetune.views import VIEWS, are_recognised, mean_over_views, towards_means
from keras_lowbit.graph import build
from keras_lowbit.quantizers.placement import place
from keras_lowbit.reader import read
from keras_lowbit.reconstruct.activations import UnitFunction
from keras_lowbit.reconstruct.units import whole_network

SHAPE = (12, 12, 3)
BRIGHTER_ON_THE_LEFT = np.where(np.arange(12) < 6, 1.0, -1.0)  # by column
BRIGHT = np.ones(12)


def classifier(by_column: np.ndarray, end: str = "softmax", shape: tuple[int, ...] = SHAPE) -> Any:
    """Two classes, by the sign of a weighted mean of the image."""
    weights = np.broadcast_to(by_column.reshape(-1, 1)[: shape[1]], shape).ravel() / np.prod(shape)
    image = tf_keras.Input(shape, name="image")
    dense = tf_keras.layers.Dense(2, end, name="classes")
    model = tf_keras.Model(image, dense(tf_keras.layers.Flatten()(image)))
    dense.set_weights([np.stack([weights, -weights], axis=1) * 10, np.zeros(2)])
    return model


def images(by_column: np.ndarray, count: int = 64) -> np.ndarray:
    """Every second one of either class, beyond doubt."""
    generator = np.random.default_rng(0)
    sides = np.where(np.arange(count) % 2, 1.0, -1.0).reshape(-1, 1, 1, 1)
    noise = generator.normal(size=(count, *SHAPE))
    return (noise + 3 * sides * by_column.reshape(1, 1, -1, 1)).astype(np.float32)


def last_record(model: Any, x: np.ndarray, **fields: Any) -> dict[str, Any]:
    config = PTQConfig(4, 8, steps=0, **{"tune_steps": 2, **fields})
    return pipelines.quantized(model, config, x).history[-1]


@pytest.mark.parametrize("augment", ["auto", "images", "auto+mixup"])
def test_views_of_one_class_are_averaged(augment: str) -> None:
    assert last_record(classifier(BRIGHT), images(BRIGHT), augment=augment)["views"] == VIEWS


def test_views_of_other_classes_are_not() -> None:
    """In a mirror the left is the right."""
    x = images(BRIGHTER_ON_THE_LEFT)
    assert "views" not in last_record(classifier(BRIGHTER_ON_THE_LEFT), x)


@pytest.mark.parametrize("fields", [{"augment": "mixup"}, {"augment": "none"}, {"tune": "bias"}])
def test_nor_is_what_is_no_view(fields: dict[str, Any]) -> None:
    assert "views" not in last_record(classifier(BRIGHT), images(BRIGHT), **fields)


@pytest.mark.parametrize("end", ["sigmoid", "linear"])
def test_nor_what_tells_no_class(end: str) -> None:
    assert "views" not in last_record(classifier(BRIGHT, end), images(BRIGHT))


def test_one_class_of_another_kind_is_enough() -> None:
    answers = tf.constant([[1.0, 0.0, 0.0]] * 4 + [[0.0, 1.0, 0.0]] * 4)
    classes = np.repeat([0, 1], 4)[:, None].repeat(VIEWS, axis=1)
    assert are_recognised(answers, classes)
    classes[4:, : VIEWS // 2] = 2
    assert not are_recognised(answers, classes)


def test_the_mean_is_that_of_the_answers_to_shifted_and_mirrored_images() -> None:
    model, x = classifier(BRIGHTER_ON_THE_LEFT), images(BRIGHTER_ON_THE_LEFT, 200)
    views, generator = Augmentation(("images",)), np.random.default_rng(3)
    [means], classes = mean_over_views(float_network(model), [tf.constant(x)], views, generator)
    logits = x.reshape(200, -1) @ model.get_weights()[0]
    assert means.shape == (200, 2)
    # Left and right make up for each other, as far as both come up among sixteen.
    assert np.abs(means).mean() < 0.4 * np.abs(logits).mean()
    np.testing.assert_allclose(means[:, 0], -means[:, 1], atol=1e-5)
    share = (classes == np.argmax(model.predict(x, verbose=0), axis=1)[:, None]).mean()
    assert share == pytest.approx(0.5, abs=0.05)
    seeds = np.random.default_rng(3).integers(2**30, size=(VIEWS, 2))
    made = [views([tf.constant(x[:128])], tf.constant(seed, tf.int32))[0].numpy() for seed in seeds]
    expected = np.mean(made, axis=0).reshape(128, -1) @ model.get_weights()[0]  # it is linear
    np.testing.assert_allclose(means[:128], expected, atol=1e-4)


def float_network(model: Any) -> UnitFunction:
    graph = read(model)
    return UnitFunction(whole_network(graph, place(graph, PTQConfig())), build(graph), None)


@pytest.mark.parametrize("names", [("images",), ("images", "mixup"), ("mixup", "images")])
def test_targets_stay_with_views_and_what_they_are_above_the_answers_with_blends(
    names: tuple[str, ...],
) -> None:
    """Images of one colour, which no view changes, by a network that answers with the colour."""
    colours = tf.range(32.0)
    batch = [tf.ones((32, *SHAPE)) * tf.reshape(colours, (-1, 1, 1, 1))]
    network = float_network(classifier(BRIGHT * 0.1))  # which is linear
    answers = network(batch)[0]
    views = Augmentation(names).views_of_images()
    assert views == Augmentation(("images",))
    redraw = towards_means(views, "mixup" in names, network)
    [others], [wanted] = redraw(batch, [answers + 2.0 * answers], tf.constant([1, 2]))
    np.testing.assert_allclose(wanted, 3.0 * network([others])[0], rtol=1e-4, atol=1e-4)
    blended = (np.abs(others[:, 0, 0, 0] - colours) > 1e-3).sum()
    assert blended > 4 if "mixup" in names else blended == 0


@pytest.mark.parametrize("one_class", [True, False])
def test_what_training_is_given(one_class: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    by_column = BRIGHT if one_class else BRIGHTER_ON_THE_LEFT
    model, x = classifier(by_column), images(by_column)
    given: dict[str, Any] = {}

    def train(*arguments: Any, redraw: Any, **_: Any) -> None:
        given.update(arrived=arguments[3], wanted=arguments[4], redraw=redraw)

    monkeypatch.setattr(end_to_end, "train", train)
    last_record(model, x)
    batch, seed = [given["arrived"][0][:8]], tf.constant([5, 6])
    [others], [targets] = given["redraw"](batch, [given["wanted"][0][:8]], seed)
    if one_class:
        np.testing.assert_array_equal(targets, given["wanted"][0][:8])
    else:
        probabilities = np.asarray(tf.nn.softmax(targets))
        np.testing.assert_allclose(probabilities, model.predict(others, verbose=0), atol=1e-5)
