"""Quantized networks that the tests of the exported files share."""

from __future__ import annotations

from typing import Any

import networks
import pipelines
import pytest
import tf_keras

from keras_lowbit import PTQConfig, QuantizedModel


def wide(keras: Any) -> Any:
    """Layers large enough for every container to pay."""
    layers = keras.layers
    image = keras.Input((6, 6, 16), name="image")
    tensor = layers.Conv2D(32, 3, activation="relu", name="large")(image)
    tensor = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(tensor)
    tensor = layers.Flatten(name="flat")(tensor)
    tensor = layers.Dense(48, activation="relu", name="hidden")(tensor)
    return keras.Model(image, layers.Dense(1, name="last")(tensor))


@pytest.fixture(scope="session")
def by_bits() -> dict[int, QuantizedModel]:
    """The wide network with weights of 2 to 6 bits, on all kinds of grids."""
    grids = {2: "full", 3: "centred", 4: "narrow", 5: "centred", 6: "midrise"}
    return {
        bits: pipelines.quantized(
            networks.randomize(wide(tf_keras)),
            PTQConfig(bits, 8, weight_grid=grid, optimize=(), tune_steps=0),
        )
        for bits, grid in grids.items()
    }
