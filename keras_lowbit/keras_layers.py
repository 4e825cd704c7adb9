"""What the reader takes off one Keras layer of either flavour: its activation, and its scaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_lowbit._keras import keras

SCALINGS = ("Rescaling", "Normalization")
BARE_BATCH_NORM = {"axis": -1, "epsilon": 0.0, "center": True, "scale": True}


def activation_name(layer: Any) -> str:
    """The name of the activation of a layer; ``<package>.<name>`` if it is not of Keras."""
    activation: Callable[..., Any] | str | None = getattr(layer, "activation", None)
    if activation is None or isinstance(activation, str):
        return activation or "linear"
    name = getattr(activation, "__name__", type(activation).__name__).removesuffix("_v2")  # tf.nn's
    home = getattr(activation, "__module__", "").split(".")[0]
    return name if home in ("keras", "tf_keras", "tensorflow") else f"{home}.{name}"


def scaling_weights(layer: Any, channels: int) -> dict[str, np.ndarray] | None:
    """A ``Rescaling`` or ``Normalization`` as a batch norm that has seen no data.

    Args:
      layer: built, of a class of :data:`SCALINGS`.
      channels: size of the last axis of its input.

    Returns:
      ``gamma`` (0 where a ``Normalization`` has seen no variance: Keras' factor of 1e7 would leave nothing of the
      other weights of a kernel), ``beta``, ``mean`` 0 and ``variance`` 1, each float32 (channels,), for a batch norm of
      :data:`BARE_BATCH_NORM`; None if the layer has not one factor and offset a channel, or for all.

    Example:
      >>> scaling_weights(keras.layers.Rescaling(2.0, offset=[-1.0, 0.0]), 2)["beta"]
      array([-1.,  0.], dtype=float32)
    """
    if type(layer).__name__ == "Rescaling":
        gamma, beta = np.array(layer.scale, np.float64), np.array(layer.offset, np.float64)
    else:
        mean, variance = np.array(layer.mean, np.float64), np.array(layer.variance, np.float64)
        least = keras.backend.epsilon()
        deviation = np.maximum(np.sqrt(variance), least)
        gamma, beta = deviation, mean
        if not layer.invert:
            gamma = np.where(deviation > least, 1 / deviation, 0.0)
            beta = -mean * gamma
    if any(v.size != 1 and (v.size, v.shape[-1]) != (channels, channels) for v in (gamma, beta)):
        return None
    values = {"gamma": gamma, "beta": beta, "mean": np.zeros(1), "variance": np.ones(1)}
    return {role: np.resize(value, channels).astype(np.float32) for role, value in values.items()}
