"""Initial ranges against straightforward NumPy twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.ranges import (
    CANDIDATES,
    SMALLEST_RELATIVE_SCALE,
    activation_range,
    weight_scale,
)

BITS = range(2, 9)
AXES = [(), (0,), (3,), (2, 3)]


def squared_error(values: np.ndarray, scale: float, zero_point: float, spec: TensorSpec) -> float:
    codes = np.clip(np.rint(values / scale + zero_point), spec.qmin, spec.qmax)
    return float(((values - (codes - zero_point) * scale) ** 2).sum())


def channels(kernel: np.ndarray, axis: tuple[int, ...]) -> list[np.ndarray]:
    """The values of each channel, in the order of the scale."""
    indices = itertools.product(*(range(kernel.shape[a]) for a in axis))
    result = []
    for index in indices:
        selection: list[slice | int] = [slice(None)] * kernel.ndim
        for a, i in zip(axis, index, strict=True):
            selection[a] = i
        result.append(kernel[tuple(selection)].astype(np.float64).ravel())
    return result


@pytest.mark.parametrize(
    ("bits", "axis", "grid"),
    [*itertools.product(BITS, AXES, ["narrow"]), (2, (3,), "full"), (2, (3,), "midrise"),
     (3, (2, 3), "midrise")],
)  # fmt: skip
def test_weight_scales(bits: int, axis: tuple[int, ...], grid: str) -> None:
    spec = TensorSpec(bits, True, axis, grid=grid)
    last, zero = spec.qmax - spec.zero_point, spec.zero_point
    kernel = np.random.default_rng(bits).standard_t(3, (3, 2, 4, 5)).astype(np.float32)
    by_range = weight_scale(kernel, spec, "minmax")
    by_error = weight_scale(kernel, spec, "mse")
    for scale in (by_range, by_error):
        assert scale.dtype == np.float32
        assert scale.shape == spec.scale_shape(kernel.shape)
    pairs = zip(by_range.ravel(), by_error.ravel(), channels(kernel, axis), strict=True)
    for largest, best, values in pairs:
        assert largest == np.float32(np.abs(values).max() / last)
        tried = np.linspace(1.0, 0.2, CANDIDATES) * np.abs(values).max() / last
        least = min(squared_error(values, s, zero, spec) for s in tried)
        error = squared_error(values, np.float64(best), zero, spec)
        assert error == pytest.approx(least, rel=1e-4)
        assert error <= squared_error(values, np.float64(largest), zero, spec) * (1 + 1e-6)


def test_grids_of_two_bits_on_normal_weights() -> None:
    """The least squared errors of 3, 4 and 4 symmetric levels are 0.190, 0.144 and 0.119 (Max 1960)."""
    kernel = np.random.default_rng(0).normal(size=(10_000, 1)).astype(np.float32)
    errors = []
    for grid in ("narrow", "full", "midrise"):
        spec = TensorSpec(2, True, (1,), grid=grid)
        scale = weight_scale(kernel, spec, "mse").astype(np.float64).item()
        errors.append(squared_error(kernel, scale, spec.zero_point, spec) / kernel.size)
    assert errors == pytest.approx([0.190, 0.144, 0.119], rel=0.03)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("bits", BITS)
def test_dead_and_tiny_channels(bits: int, method: str) -> None:
    kernel = np.ones((3, 4), np.float32)
    kernel[:, 1] = 0.0
    kernel[:, 2] = 1e-20
    scale = weight_scale(kernel, TensorSpec(bits, True, (1,)), method).ravel()
    assert np.isfinite(scale).all()
    assert (scale >= scale[0] * SMALLEST_RELATIVE_SCALE * 0.999).all()
    dead = weight_scale(np.zeros((3, 4), np.float32), TensorSpec(bits, True, (1,)), method)
    assert (dead > 0).all()


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("bits", BITS)
def test_activation_ranges(bits: int, method: str) -> None:
    generator = np.random.default_rng(bits)
    spec = TensorSpec(bits, symmetric=False)
    for values in (
        generator.normal(0.3, 1.0, 4000),
        generator.normal(5.0, 0.1, 4000),  # zero lies outside of the values
        -generator.exponential(1.0, 4000),
        generator.uniform(-1e-6, 1e-6, 4000),
    ):
        low, high = values.min(), values.max()
        scale, zero_point = activation_range(values, low, high, spec, method)
        assert scale.dtype == np.float32
        assert scale > 0
        assert spec.qmin <= zero_point <= spec.qmax
        widest, start = activation_range(values, low, high, spec, "minmax")
        error = squared_error(values, np.float64(scale), zero_point, spec)
        assert error <= squared_error(values, np.float64(widest), start, spec) * (1 + 1e-9)
        # Min-max loses half a step, and as much again where the zero point is rounded.
        ends = [(c - start) * np.float64(widest) for c in (spec.qmin, spec.qmax)]
        assert ends[0] - widest <= min(low, 0.0) <= ends[0] + widest
        assert ends[1] - widest <= max(high, 0.0) <= ends[1] + widest


def test_mse_cuts_off_outliers() -> None:
    values = np.append(np.random.default_rng(0).normal(size=4000), 100.0)
    spec = TensorSpec(4, symmetric=False)
    widest, _ = activation_range(values, values.min(), 100.0, spec, "minmax")
    scale, _ = activation_range(values[:-1], values.min(), 100.0, spec, "mse")
    assert scale < widest / 5


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("bits", BITS)
def test_unsigned_tensors(bits: int, method: str) -> None:
    values = np.maximum(np.random.default_rng(bits).normal(size=3000), 0.0)
    spec = TensorSpec(bits, symmetric=False, unsigned=True)
    scale, zero_point = activation_range(values, 0.0, values.max(), spec, method)
    assert zero_point == 0
    if method == "minmax":
        assert scale == pytest.approx(values.max() / spec.qmax)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30])
@pytest.mark.parametrize("bits", BITS)
def test_constant_tensors(bits: int, value: float, method: str) -> None:
    spec = TensorSpec(bits, symmetric=False)
    scale, zero_point = activation_range(np.full(9, value), value, value, spec, method)
    assert np.isfinite(scale)
    assert scale > 0
    assert spec.qmin <= zero_point <= spec.qmax
    if abs(value) == 3.0:
        assert squared_error(np.full(1, value), np.float64(scale), zero_point, spec) < 1e-9
