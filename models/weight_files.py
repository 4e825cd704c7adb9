"""Model weights as plain .npz files: one array per variable, under the variable's name."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras


def save_weights(model: tf_keras.Model, path: Path, overwrite: bool = False) -> None:
    """Write every variable of `model` to `path`; an existing file is kept unless `overwrite`."""
    if path.exists() and not overwrite:
        raise ValueError(
            "The weights file exists already. Expected a new path. Choose another path or pass "
            f"overwrite=True. Received: {path}"
        )
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    try:
        np.savez(partial, **{_key(variable): variable.numpy() for variable in model.weights})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_weights(model: tf_keras.Model, path: Path) -> None:
    """Set every variable of `model` from the file that `save_weights` wrote."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    expected = {_key(variable): tuple(variable.shape) for variable in model.weights}
    received = {name: array.shape for name, array in arrays.items()}
    if received != expected:
        differing = sorted(dict(expected.items() ^ received.items()))
        raise ValueError(
            f"The weights in {path} do not fit the model {model.name!r}. Expected one array per "
            "variable, with its name and shape. Train the model again or load the file that "
            f"belongs to it. Received: differing names or shapes at {differing}"
        )
    for variable in model.weights:
        variable.assign(arrays[_key(variable)])


def _key(variable: tf.Variable) -> str:
    return variable.name.removesuffix(":0")
