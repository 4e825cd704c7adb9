"""Initial ranges against straightforward NumPy twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.ranges import (
    CANDIDATES,
    MANY_WEIGHTS,
    SMALLEST_RELATIVE_SCALE,
    activation_range,
    kernel_range,
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
     (3, (2, 3), "midrise"), (2, (3,), "centred"), (3, (2, 3), "centred")],
)  # fmt: skip
def test_weight_scales(bits: int, axis: tuple[int, ...], grid: str) -> None:
    spec = TensorSpec(bits, True, axis, grid=grid)
    kernel = np.random.default_rng(bits).standard_t(3, (3, 2, 4, 5)).astype(np.float32)
    by_range = kernel_range(kernel, spec, "minmax")
    by_error = kernel_range(kernel, spec, "mse")
    for found in (*by_range, *by_error):
        assert found.dtype == np.float32
        assert found.shape == spec.scale_shape(kernel.shape)
    assert set(by_error[1].ravel()) <= set(spec.zero_points)
    found = [x.ravel() for x in (*by_range, *by_error)]
    for largest, usual, best, zero, values in zip(*found, channels(kernel, axis), strict=True):
        assert largest == np.float32(np.abs(values).max() / (spec.qmax - usual))
        assert usual == spec.zero_points[0]
        least = np.inf
        for other in spec.zero_points:
            last = min(spec.qmax - other, other - spec.qmin)
            for scale in np.linspace(1.0, 0.2, CANDIDATES) * np.abs(values).max() / last:
                least = min(least, squared_error(values, scale, other, spec))
        error = squared_error(values, np.float64(best), zero, spec)
        assert error == pytest.approx(least, rel=1e-4)
        assert error <= squared_error(values, np.float64(largest), usual, spec) * (1 + 1e-6)


def test_grids_of_two_bits_on_normal_weights() -> None:
    """The least squared errors of 3, 4 and 4 symmetric levels are 0.190, 0.144 and 0.119 (Max 1960)."""
    kernel = np.random.default_rng(0).normal(size=(10_000, 1)).astype(np.float32)
    errors = []
    for grid in ("narrow", "full", "midrise", "centred"):
        spec = TensorSpec(2, True, (1,), grid=grid)
        scale, zero_point = (x.astype(np.float64).item() for x in kernel_range(kernel, spec, "mse"))
        errors.append(squared_error(kernel, scale, zero_point, spec) / kernel.size)
    assert errors == pytest.approx([0.190, 0.144, 0.119, 0.119], rel=0.03)


@pytest.mark.parametrize("rows", [MANY_WEIGHTS - 1, MANY_WEIGHTS])
def test_channels_of_many_weights_have_the_usual_zero_point(rows: int) -> None:
    kernel = np.random.default_rng(0).standard_t(3, (rows, 24)).astype(np.float32)
    spec = TensorSpec(2, True, (1,), grid="centred")
    _, zero_point = kernel_range(kernel, spec, "mse")
    assert (len(set(zero_point.ravel())) == 1) == (rows == MANY_WEIGHTS)
    # Most weights are zero, as behind inputs that never vary.
    kernel[1:] *= np.float32(1e-3) * (np.arange(1, rows)[:, None] % 4 > 0) + np.float32(1e-9)
    _, zero_point = kernel_range(kernel, spec, "mse")
    assert set(zero_point.ravel()) <= ({-0.5} if rows == MANY_WEIGHTS else {0.0, -1.0})


def test_channels_to_one_side_have_zero_on_a_level() -> None:
    """0 and one value on the side where there is one level more: no other grid of 2 bits has no error."""
    kernel = np.array([[0.0, 0.0, -0.5], [1.0, -1.0, 0.5], [2.0, -2.0, 1.5], [-1.0, 1.0, -1.5]])
    spec = TensorSpec(2, True, (1,), grid="centred")
    scale, zero_point = kernel_range(kernel.astype(np.float32), spec, "mse")
    np.testing.assert_array_equal(zero_point, [[-1.0, 0.0, -0.5]])
    np.testing.assert_allclose(scale, 1.0, rtol=0.02)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("bits", BITS)
def test_dead_and_tiny_channels(bits: int, method: str) -> None:
    kernel = np.ones((3, 4), np.float32)
    kernel[:, 1] = 0.0
    kernel[:, 2] = 1e-20
    scale = kernel_range(kernel, TensorSpec(bits, True, (1,)), method)[0].ravel()
    assert np.isfinite(scale).all()
    assert (scale >= scale[0] * SMALLEST_RELATIVE_SCALE * 0.999).all()
    dead, _ = kernel_range(np.zeros((3, 4), np.float32), TensorSpec(bits, True, (1,)), method)
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
