"""Initial scales and zero points: min-max, or the range of least squared error (step 2).

NumPy in float64; the results are float32, because that is the number the runtimes see.
"""

from __future__ import annotations

import numpy as np

from keras_lowbit.config import TensorSpec

CANDIDATES = 100
# A channel whose weights are this much smaller than the layer's largest is rounded to zero instead
# of getting a scale so small that its int32 bias would overflow.
SMALLEST_RELATIVE_SCALE = 1e-4
# Channels of so many weights have the usual zero point: they gain little by another, and layers can share lookup tables.
MANY_WEIGHTS = 64


def first_method(method: str) -> str:
    """How a range is found first, from its tensor alone: "output" goes on from "mse"."""
    return "mse" if method == "output" else method


def kernel_range(
    kernel: np.ndarray, spec: TensorSpec, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of a symmetric kernel.

    Args:
      kernel: float, any shape.
      spec: symmetric grid; ``spec.axis`` has scales of its own.
      method: "minmax" (largest absolute value on the last level) or "mse" (least squared error
        among 100 fractions of it, and the zero points of the grid; see :func:`zero_points_of`).

    Returns:
      Both float32, of shape ``spec.scale_shape(kernel.shape)``; scales all > 0.
    """
    others = tuple(a for a in range(kernel.ndim) if a not in spec.axis)
    values = np.moveaxis(
        kernel.astype(np.float64), spec.axis, tuple(range(len(spec.axis)))
    ).reshape(-1, int(np.prod([kernel.shape[a] for a in others], dtype=int)))
    largest = np.abs(values).max(axis=1)
    widest = largest / (spec.qmax - spec.zero_points[0])  # the largest on the last level
    scale, zero_point = widest, np.full(len(values), spec.zero_points[0])
    if method == "mse":
        zeros = zero_points_of(spec, values.shape[1])
        found = [_least_error(values, largest, zero, spec) for zero in zeros]
        scales, errors = (np.array(x) for x in zip(*found, strict=True))
        best = np.argmin(errors, axis=0)
        scale = scales[best, np.arange(len(values))]
        zero_point = np.array(zeros)[best]
    scale = np.maximum(scale, (widest.max() or 1.0) * SMALLEST_RELATIVE_SCALE)
    shape = spec.scale_shape(kernel.shape)
    return scale.astype(np.float32).reshape(shape), zero_point.astype(np.float32).reshape(shape)


def zero_points_of(spec: TensorSpec, weights: int) -> tuple[float, ...]:
    """What may stand for zero in a channel of so many ``weights``: the usual alone, if they are 64 or more."""
    return spec.zero_points if weights < MANY_WEIGHTS else spec.zero_points[:1]


def _least_error(
    values: np.ndarray, largest: np.ndarray, zero: float, spec: TensorSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Of every row, the scale of least squared error with this zero point, and the error."""
    last = min(spec.qmax - zero, zero - spec.qmin)
    scale = largest / last
    least = np.where(largest > 0, np.inf, 0.0)  # nothing to improve in a dead channel
    for fraction in np.linspace(1.0, 0.2, CANDIDATES):
        candidate = np.where(largest > 0, fraction * largest / last, 1.0)
        codes = np.clip(np.rint(values / candidate[:, None] + zero), spec.qmin, spec.qmax)
        error = ((values - (codes - zero) * candidate[:, None]) ** 2).sum(axis=1)
        scale = np.where(error < least, candidate, scale)
        least = np.minimum(least, error)
    return scale, least


def activation_range(
    values: np.ndarray, low: float, high: float, spec: TensorSpec, method: str
) -> tuple[np.float32, int]:
    """Scale and zero point of an asymmetric tensor.

    Args:
      values: a sample of the tensor's values, any shape (used by "mse" only).
      low: smallest value seen.
      high: largest value seen.
      spec: asymmetric grid; the zero point of an unsigned tensor is 0.
      method: "minmax" or "mse".

    Returns:
      ``(scale, zero_point)`` with scale float32 > 0 and qmin <= zero_point <= qmax; zero is on
      the grid.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if spec.unsigned:
        low = 0.0
    if high - low <= 0.0:
        return np.float32(1.0), 0
    if method == "minmax":
        return affine(low, high, spec)
    values = np.ravel(values).astype(np.float64)
    best = affine(low, high, spec)
    best_error = _error(values, *best, spec)
    ends = (low, high)
    # Both ends shrink together first, then each by itself around the best.
    for ends_shrunk in ((True, True), (True, False), (False, True)):
        start = ends
        for fraction in np.linspace(1.0, 0.05, CANDIDATES):
            trial = tuple(e * fraction if s else e for e, s in zip(start, ends_shrunk, strict=True))
            candidate = affine(trial[0], trial[1], spec)
            error = _error(values, *candidate, spec)
            if error < best_error:
                best, best_error, ends = candidate, error, (trial[0], trial[1])
        if spec.unsigned:
            break
    return best


def affine(low: float, high: float, spec: TensorSpec) -> tuple[np.float32, int]:
    """Scale and zero point of the grid from ``low`` <= 0 to ``high`` >= 0."""
    width = max(high - low, float(np.finfo(np.float32).tiny) * 1e6)
    scale = np.float32(width / (spec.qmax - spec.qmin))
    zero_point = int(np.clip(np.rint(-low / np.float64(scale)), spec.qmin, spec.qmax))
    return scale, zero_point


def _error(values: np.ndarray, scale: np.float32, zero_point: int, spec: TensorSpec) -> float:
    step = np.float64(scale)
    codes = np.clip(np.rint(values / step) + zero_point, spec.qmin, spec.qmax)
    return float(((values - (codes - zero_point) * step) ** 2).mean())
