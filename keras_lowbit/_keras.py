"""The one place that chooses the Keras flavour and the only door to loading model files.

Everything inside the package is tf_keras (Keras 2), because tfmot's wrappers are; models of
Keras 3 are read by :mod:`keras_lowbit.reader` into plain data.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

__all__ = ["keras", "load_float_model", "sources_of_call", "tfmot_imported_quietly"]


@contextlib.contextmanager
def tfmot_imported_quietly() -> Iterator[None]:
    """Import tfmot inside this context, and ``tf.keras`` and the environment stay the caller's.

    tfmot sets ``TF_USE_LEGACY_KERAS`` and resolves ``tf.keras`` while it is imported, which would
    turn every later ``tf.keras`` of the process into Keras 2.
    """
    variable = os.environ.get("TF_USE_LEGACY_KERAS")
    lazy_keras = tf.__dict__.get("keras")
    tf.__dict__["keras"] = keras
    try:
        yield
    finally:
        tf.__dict__.pop("keras")
        if lazy_keras is not None:
            tf.__dict__["keras"] = lazy_keras
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
        if variable is not None:
            os.environ["TF_USE_LEGACY_KERAS"] = variable


def load_float_model(model: Any) -> Any:
    """Return ``model`` itself, or the model stored at a path.

    Args:
      model: a built Functional or Sequential model of tf_keras or Keras 3, or the path of a
        ``.keras`` file, an ``.h5`` file or a SavedModel folder written by Keras.

    Returns:
      The model, uncompiled when it was loaded from a path.

    Raises:
      ValueError: nothing can be loaded from the path; the message says what was tried. Or TensorFlow does
        not compute at once here, or on several devices.
    """
    if tf.distribute.has_strategy() or not tf.executing_eagerly():
        where = "in the scope of a tf.distribute strategy" * tf.distribute.has_strategy()
        raise ValueError(
            "keras_lowbit works eagerly and on one device: call it outside of tf.function, of tf.Graph and of "
            f"the scopes of tf.distribute strategies. Received: a call {where or 'in a graph'}"
        )
    if not isinstance(model, (str, os.PathLike)):
        return model
    path = Path(model)
    if not path.exists():
        raise ValueError(
            f"There is no model at this path. Expected a .keras file, an .h5 file or a SavedModel "
            f"folder. Received: {str(path)!r}"
        )
    attempts = []
    for name, load in (("tf_keras", keras.models.load_model), ("Keras 3", _load_with_keras3)):
        try:
            return load(str(path), compile=False)
        except Exception as error:  # each loader raises types of its own
            attempts.append(f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    raise ValueError(
        "The file could not be loaded as a Keras model. Expected a whole model saved by Keras 2 or "
        "Keras 3 (not weights alone); load it yourself with your custom objects and pass the model. "
        f"Tried {'; '.join(attempts)}. Received: {str(path)!r}"
    )


def _load_with_keras3(path: str, compile: bool) -> Any:
    import keras as keras3

    return keras3.models.load_model(path, compile=compile)


def sources_of_call(layer: Any, call_index: int) -> list[Any]:
    """The tensors that a call of a layer reads, those of a nested model in the order of its inputs.

    Args:
      layer: a layer or model of tf_keras or Keras 3.
      call_index: of its calls, the second part of a tensor's `_keras_history`.
    """
    call = layer._inbound_nodes[call_index]
    is_keras2 = hasattr(call, "keras_inputs")
    if is_keras2:
        sources, given = list(call.keras_inputs), next(iter(call.call_args), None)
    else:
        arguments = call.arguments
        given = arguments.args[0] if arguments.args else arguments.kwargs.get("inputs")
        sources = list(call.input_tensors)
    is_model = hasattr(layer, "layers") and getattr(layer, "inputs", None)
    if not is_model or not isinstance(given, dict):
        return sources
    structure = getattr(layer, "input", None)
    if isinstance(structure, dict):  # of keys that it does not have, Keras 3 ignores the last ones
        parts = list(structure.values())
        names = sorted(structure if is_keras2 else given)[: len(structure)]
    else:
        parts = list(structure) if isinstance(structure, (list, tuple)) else [structure]
        names = [tensor._keras_history[0].name for tensor in layer.inputs]
    is_flat = not any(isinstance(part, (list, tuple, dict)) for part in parts)
    return [given[name] for name in names] if is_flat and set(names) <= set(given) else sources


def keys_of(structure: Any, tensors: list[Any]) -> list[str]:
    """The keys of a dict of tensors in the order of ``tensors``; none if it is no such dict."""
    ends = [id(tensor) for tensor in tensors]  # by key; as given in an OrderedDict of Keras 3
    if not isinstance(structure, dict) or sorted(map(id, structure.values())) != sorted(ends):
        return []
    keys: dict[int, list[str]] = {end: [] for end in ends}  # one tensor may have several
    for key in sorted(structure, reverse=True):
        keys[id(structure[key])].append(key)
    return [keys[end].pop() for end in ends]
