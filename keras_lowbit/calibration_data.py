"""Calibration data of every accepted kind as one float32 array per network input."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.graph import Graph

_LISTED = 8
_NUMBERS = "biufV"  # booleans, integers, floats; bfloat16 calls itself V

_KINDS = (
    "a tf.data.Dataset, a NumPy array, a list of arrays, a dict of arrays by input name, a "
    "generator or a Keras Sequence"
)


def collect(calib_ds: Any, graph: Graph, limit: int, batch_size: int = 32) -> list[np.ndarray]:
    """The first ``limit`` samples, as :func:`read_samples`; warns if they do not fill a batch."""
    samples = read_samples(calib_ds, graph, limit)
    count = len(samples[0])
    if count < batch_size:
        warnings.warn(
            f"There are only {count} calibration samples, fewer than a batch of {batch_size}: ranges "
            "and rounding will fit these samples and little else. Several hundred are usual.",
            stacklevel=4,
        )
    return samples


def read_samples(calib_ds: Any, graph: Graph, limit: int = sys.maxsize) -> list[np.ndarray]:
    """The first ``limit`` samples; how the data are batched makes no difference.

    Args:
      calib_ds: a ``tf.data.Dataset``, an array, a list, a dict of arrays by input name, a
        generator, a tf_keras ``Sequence`` or a Keras 3 ``PyDataset``. Elements are ``x``,
        ``(x, y)`` or ``(x, y, weights)``, labels and weights ignored, with ``x`` an array, a dict
        by input name or, for several inputs, a list or tuple of arrays. An ``x`` of a sample's rank
        is one sample, with one axis more a batch. A list is a list of such elements or, for
        several inputs, one array per input.
      graph: tells the names and shapes of the inputs.
      limit: most samples taken; no element beyond them is asked for.

    Returns:
      One float32 array (samples, ...) per input, in the order of ``graph.inputs``.

    Raises:
      ValueError: no samples, a wrong shape, values that are not finite numbers, an input that is
        missing, or something that is no data at all; the message names the input.

    Example:
      >>> read_samples(np.zeros((100, 8, 8, 1)), graph, limit=64)[0].shape
      (64, 8, 8, 1)
    """
    columns: list[list[np.ndarray]] = [[] for _ in graph.inputs]
    count = 0
    for element in _elements(calib_ds, graph):
        arrays = _batch(element, graph)
        for column, array in zip(columns, arrays, strict=True):
            with np.errstate(over="ignore"):  # infinite values are refused below
                column.append(array[: limit - count].astype(np.float32))
        count += len(arrays[0])
        if count >= limit:
            break
    if count == 0:
        raise ValueError(
            "The data are empty: not one sample came out of them. If this is a generator, it may be "
            f"used up already. Received: {_described(calib_ds)}"
        )
    samples = [np.concatenate(column)[:limit] for column in columns]
    for name, array in zip(graph.inputs, samples, strict=True):
        _check_finite(name, array)
    return samples


def _elements(calib_ds: Any, graph: Graph) -> Iterator[Any]:
    """What the data consist of: batches or samples, each as ``x`` or ``(x, y, ...)``."""
    if isinstance(calib_ds, tf.data.Dataset):
        return calib_ds.as_numpy_iterator()
    if _is_array(calib_ds):
        _check_has_batch_axis(np.asarray(calib_ds), graph)
        return iter([calib_ds])
    if isinstance(calib_ds, (Mapping, tuple)):
        return iter([calib_ds])
    if isinstance(calib_ds, list):
        one_array_per_input = len(graph.inputs) > 1 and all(_is_array(x) for x in calib_ds)
        return iter([calib_ds] if one_array_per_input else calib_ds)
    if isinstance(calib_ds, (str, bytes)):
        raise _not_data(calib_ds)
    if hasattr(calib_ds, "__getitem__") and hasattr(calib_ds, "__len__"):
        return (calib_ds[index] for index in range(len(calib_ds)))
    if isinstance(calib_ds, Iterable):
        return iter(calib_ds)
    raise _not_data(calib_ds)


def _not_data(calib_ds: Any) -> ValueError:
    call = " This is a function: pass what it returns." if callable(calib_ds) else ""
    return ValueError(
        f"The data cannot be read. Expected {_KINDS}.{call} Received: {_described(calib_ds)}"
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _described(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def _batch(element: Any, graph: Graph) -> list[np.ndarray]:
    """One array (samples, ...) per input out of one element, of the element's own type."""
    parts = _parts(element, graph)
    arrays = [_as_batch(part, graph, name) for name, part in zip(graph.inputs, parts, strict=True)]
    counts = {name: len(array) for name, array in zip(graph.inputs, arrays, strict=True)}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"All inputs must have the same number of samples. Received: samples by input {counts}"
        )
    return arrays


def _parts(element: Any, graph: Graph) -> list[Any]:
    """What belongs to each input, in the order of ``graph.inputs``."""
    expected = len(graph.inputs)
    x = element
    if isinstance(element, tuple) and element:
        labelled = expected == 1 or _holds_all_inputs(element[0], expected)
        x = element[0] if labelled else element
    if isinstance(x, Mapping):
        by_key = graph.input_keys and set(graph.input_keys) <= set(x)  # as Keras takes them
        names = graph.input_keys if by_key else graph.inputs
        missing = [name for name in names if name not in x]
        if missing:
            raise ValueError(
                f"The data have no entry for the input(s) {missing}. Expected the keys "
                f"{list(graph.input_keys or names)}. Received: the keys {list(x)}"
            )
        return [x[name] for name in names]
    if isinstance(x, (list, tuple)) and len(x) == expected and all(_is_array(part) for part in x):
        return list(x)
    if expected == 1:
        return [x]
    raise ValueError(
        f"The model has {expected} inputs. Expected a dict with the keys {list(graph.inputs)}, or "
        f"as many arrays in this order. Received: {_described(x)}"
    )


def _holds_all_inputs(x: Any, expected: int) -> bool:
    return isinstance(x, Mapping) or (isinstance(x, (list, tuple)) and len(x) == expected)


def _as_batch(value: Any, graph: Graph, name: str) -> np.ndarray:
    shape = graph[name].shape
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(
            f"The data for the input {name!r} are not an array of numbers. Expected the shape "
            f"{_batched(shape)}. Received: {_described(value)}"
        )
    if array.shape == shape:
        return array[np.newaxis]
    if array.shape[1:] == shape and array.ndim == len(shape) + 1:
        return array
    raise _wrong_shape(name, array, shape)


def _check_has_batch_axis(array: np.ndarray, graph: Graph) -> None:
    name = graph.inputs[0]
    if len(graph.inputs) == 1 and array.shape == graph[name].shape:
        raise _wrong_shape(name, array, graph[name].shape)


def _wrong_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> ValueError:
    hint = ""
    if (*array.shape, 1)[1:] == shape or (*array.shape, 1) == shape:
        hint = " The channel axis is missing: use x[..., np.newaxis]."
    elif array.shape == shape:
        hint = " The batch axis is missing: use x[np.newaxis], or better give many samples."
    return ValueError(
        f"The data for the input {name!r} have the wrong shape. Expected {_batched(shape)}, or "
        f"{shape} for a single sample of a dataset.{hint} Received: {array.shape}"
    )


def _batched(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['samples', *map(str, shape)])})"


def _check_finite(name: str, array: np.ndarray) -> None:
    wrong = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not wrong.any():
        return
    samples = np.flatnonzero(wrong)
    listed = ", ".join(map(str, samples[:_LISTED])) + (", ..." if len(samples) > _LISTED else "")
    raise ValueError(
        f"The data for the input {name!r} hold values that are NaN or infinite (as float32), which "
        f"no integer stands for. Remove or repair these samples. Received: "
        f"{int((~np.isfinite(array)).sum())} such values in {len(samples)} of {len(array)} samples "
        f"(number {listed})"
    )
