"""ReLUs behind pools, padding and reshaping move in front of them; nothing else changes."""

from __future__ import annotations

import networks
import numpy as np
import tf_keras as keras

from keras_lowbit.graph import build
from keras_lowbit.preprocess.hoist_relu import hoist_relu
from keras_lowbit.reader import read


def test_the_function_is_exactly_the_same() -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    output = layers.Dense(3)(layers.Flatten()(x))
    model = networks.randomize(keras.Model(image, output))
    graph, moved = hoist_relu(read(model))
    assert graph["relu"].inputs == ("conv",)
    assert graph["relu"].shape == (6, 6, 4)
    assert graph["pool"].inputs == ("relu",)
    assert set(moved) == {"relu"}
    x = networks.samples(model, 4)[0]
    np.testing.assert_array_equal(build(graph)(x), model(x))


def test_a_pool_that_others_read_stays_where_it_is() -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    pooled = layers.MaxPooling2D(2, name="pool")(layers.Conv2D(4, 3)(image))
    output = layers.Add()([layers.ReLU(name="relu")(pooled), pooled])
    graph, moved = hoist_relu(read(keras.Model(image, output)))
    assert graph["relu"].inputs == ("pool",)
    assert moved == {}


def test_a_relu_that_is_the_result_leaves_the_pool_as_result() -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    pooled = layers.MaxPooling2D(2, name="pool")(layers.Conv2D(4, 3)(image))
    graph, _ = hoist_relu(read(keras.Model(image, layers.ReLU(name="relu")(pooled))))
    assert graph.outputs == ("pool",)
