"""A small network whose layers differ much in size, and how the tests search it."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import tf_keras

from keras_lowbit import PTQConfig
from keras_lowbit.reader import read
from keras_lowbit.search.bit_search import BitSearch

CANDIDATES = (2, 3, 8)
RANGES_ONLY = PTQConfig(optimize=(), tune_steps=0)


def model() -> Any:
    """Two convolutions and two dense layers."""
    layers = tf_keras.layers
    image = tf_keras.Input((6, 6, 8), name="image")
    tensor = layers.Conv2D(8, 3, activation="relu", name="small")(image)
    tensor = layers.Conv2D(48, 3, activation="relu", name="large")(tensor)
    tensor = layers.Flatten(name="flat")(tensor)
    tensor = layers.Dense(24, activation="relu", name="hidden")(tensor)
    tensor = layers.Dense(5, activation="softmax", name="last")(tensor)
    return networks.randomize(tf_keras.Model(image, tensor))


def samples() -> np.ndarray:
    """(64, 6, 6, 8)."""
    return networks.samples(model(), 64)[0]


def search(config: PTQConfig = RANGES_ONLY) -> BitSearch:
    """With the sensitivity measured."""
    return BitSearch(read(model()), {"image": samples()}, config, CANDIDATES)
