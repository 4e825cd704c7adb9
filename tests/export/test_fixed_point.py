"""Fixed-point helpers against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest

from keras_lowbit.export import fixed_point
from keras_lowbit.export.integer_kernels import ALL_CODES, logistic_table, softmax


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def half_away(value: Fraction) -> int:
    return half_up(value) if value >= 0 else -half_up(-value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, (0, 0)),
        (1.0, (2**30, 1)),
        (0.5, (2**30, 0)),
        (0.75, (3 * 2**29, 0)),
        (1 - 2.0**-40, (2**30, 1)),  # rounds up to 2^31, which does not fit
        (2.0**-32, (2**30, -31)),
        (2.0**-33, (0, 0)),  # flushed to zero
        (2.0**31 - 1, (2**31 - 1, 31)),
    ],
)
def test_quantize_multiplier(value, expected):
    assert fixed_point.quantize_multiplier(value) == expected


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 2.0**31])
def test_quantize_multiplier_refuses(value):
    with pytest.raises(ValueError, match=f"Received: {value}"):
        fixed_point.quantize_multiplier(value)


def test_a_multiplier_is_within_half_a_step():
    random = np.random.default_rng(0)
    for value in np.exp(random.uniform(-20, 20, 200)):
        multiplier, shift = fixed_point.quantize_multiplier(float(value))
        assert 2**30 <= multiplier < 2**31
        step = Fraction(2) ** (shift - 31)
        assert abs(multiplier * step - Fraction(float(value))) <= step / 2


@pytest.mark.parametrize("exponent", [0, 1, 2, 7, 31])
def test_rounding_division_rounds_halves_away(exponent):
    values = np.array(
        [0, 1, -1, 2, -2, 3, -3, 5, -5, 64, -64, 191, -192, 2**30, -(2**30), 2**31 - 1, -(2**31)]
    )
    expected = [half_away(Fraction(int(value), 2**exponent)) for value in values]
    assert fixed_point.rounding_divide_by_power_of_two(values, exponent).tolist() == expected


def test_high_mul_rounds_halves_up_and_saturates():
    left = np.array([2**30, -(2**30), 3 * 2**29, -3 * 2**29, 7, -7, -(2**31), 2**31 - 1])
    for right in (1, -1, 3, 2**30, -(2**30), 2**31 - 1):
        expected = [half_up(Fraction(int(value) * right, 2**31)) for value in left]
        assert fixed_point.saturating_rounding_doubling_high_mul(left, right).tolist() == expected
    extreme = fixed_point.saturating_rounding_doubling_high_mul(np.array([-(2**31)]), -(2**31))
    assert extreme.tolist() == [2**31 - 1]


def test_multiplication_rounds_twice_per_channel():
    random = np.random.default_rng(1)
    values = random.integers(-(2**20), 2**20, (50, 4))
    multipliers, shifts = [2**30, 2**31 - 1, 1500000001, 2**30 + 12345], [-4, 0, -11, 3]
    actual = fixed_point.multiply_by_quantized_multiplier(
        values, np.array(multipliers), np.array(shifts)
    )
    for row, column in np.ndindex(values.shape):
        value, shift = int(values[row, column]), shifts[column]
        first = half_up(Fraction((value << max(shift, 0)) * multipliers[column], 2**31))
        assert actual[row, column] == half_away(Fraction(first, 2 ** max(-shift, 0)))


def test_double_rounding_differs_from_single_where_it_should():
    # 0.0589 * x: the probe of deploy.md, 16 of 256 codes differ from rounding once.
    multiplier, shift = fixed_point.quantize_multiplier(0.0589)
    codes = np.arange(-128, 128)
    double = fixed_point.multiply_by_quantized_multiplier(codes, multiplier, shift)
    exact = [
        half_up(Fraction(int(code) * multiplier, 2**31) * Fraction(2) ** shift) for code in codes
    ]
    assert 0 < np.count_nonzero(double != exact) < 40
    assert np.abs(double - exact).max() == 1


def test_left_shifts_wrap_like_int32():
    assert fixed_point.multiply_by_quantized_multiplier(np.array([2**30]), 2**30, 2).tolist() == [0]


def test_saturating_shift_keeps_to_int32_and_loses_the_lowest_code():
    values = np.array([2**29 - 1, 2**29, 2**30, -(2**29) + 1, -(2**29), -(2**31)])
    expected = [2**31 - 4, 2**31 - 1, 2**31 - 1, -(2**31) + 4, -(2**31), -(2**31)]
    assert fixed_point.saturating_shift_left(values, 2).tolist() == expected


@pytest.mark.parametrize("integer_bits", [4, 5])
def test_exp_is_close_to_exp(integer_bits):
    real = -np.linspace(0, 2**integer_bits - 0.01, 500)
    raw = np.rint(real * 2 ** (31 - integer_bits)).astype(np.int64)
    actual = fixed_point.exp_of_negative(raw, integer_bits) / 2**31
    assert np.abs(actual - np.exp(real)).max() < 1e-6


def test_reciprocal_and_logistic_are_close():
    fractions = np.linspace(0, 0.999, 200)
    raw = np.rint(fractions * 2**31).astype(np.int64)
    assert np.abs(fixed_point.one_over_one_plus(raw) / 2**31 - 1 / (1 + fractions)).max() < 1e-7
    real = np.linspace(-15.9, 15.9, 301)
    raw = np.rint(real * 2**27).astype(np.int64)
    assert np.abs(fixed_point.logistic(raw, 4) / 2**31 - 1 / (1 + np.exp(-real))).max() < 1e-6


def test_logistic_and_softmax_codes_are_within_one_of_the_real_function():
    real = (ALL_CODES.astype(float) + 5) * 0.07
    ideal = np.clip(np.rint(256 / (1 + np.exp(-real))) - 128, -128, 127)
    assert np.abs(logistic_table(float(np.float32(0.07)), -5) - ideal).max() <= 1
    values = np.random.default_rng(0).integers(-128, 128, (40, 10)).astype(np.int8)
    weights = np.exp(0.05 * values.astype(float))
    ideal = np.clip(np.rint(256 * weights / weights.sum(axis=1, keepdims=True)) - 128, -128, 127)
    assert np.abs(softmax(values, 0.05, 1.0) - ideal).max() <= 1
