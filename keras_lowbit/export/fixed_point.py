"""Fixed-point arithmetic of the TFLM reference kernels, vectorised over NumPy integers.

Everything here works on int64 arrays that hold int32 values. Rounding is gemmlowp's "double rounding":
first to the high half of a 32x32 product (halves up), then by a right shift (halves away from zero).
Modelled on tensorflow/lite/kernels/internal/{common,quantization_util}.cc and gemmlowp fixedpoint.h.
"""

from __future__ import annotations

import math

import numpy as np

# Raw constants of gemmlowp's approximations: round(value * 2^31), with the value in the name or comment.
_EXP_MINUS_EIGHTH = 1895147668
_ONE_THIRD = 715827883
_EXP_MINUS_POWERS = {
    -2: 1672461947,
    -1: 1302514674,
    0: 790015084,
    1: 290630308,
    2: 39332535,
    3: 720401,
    4: 242,
}
_48_OVER_17 = 1515870810  # with 2 integer bits
_MINUS_32_OVER_17 = -1010580540  # with 2 integer bits
INT32_MAX = 2**31 - 1
INT32_MIN = -(2**31)


def quantize_multiplier(value: float) -> tuple[int, int]:
    """Split a real multiplier >= 0 into (multiplier in [2^30, 2^31), shift): value ~ multiplier * 2^(shift-31).

    Raises: ValueError if the multiplier is negative, not finite, or is 2^31 or more.
    """
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(
            f"A rescaling factor must be finite and not negative; check the scales. Received: {value}."
        )
    if value == 0:
        return 0, 0
    fraction, shift = math.frexp(value)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 31:
        raise ValueError(
            f"A rescaling factor of 2^31 or more overflows int32; check the scales. Received: {value}."
        )
    return multiplier, shift


def saturating_rounding_doubling_high_mul(left: np.ndarray, right: np.ndarray | int) -> np.ndarray:
    """round(left * right / 2^31), halves up; the saturating case -2^31 * -2^31 included."""
    return np.minimum((np.asarray(left, np.int64) * right + 2**30) >> 31, INT32_MAX)


def rounding_divide_by_power_of_two(values: np.ndarray, exponent: np.ndarray | int) -> np.ndarray:
    """round(values / 2^exponent), halves away from zero; `exponent` >= 0 broadcasts against `values`."""
    values, exponent = np.asarray(values, np.int64), np.asarray(exponent, np.int64)
    # A half is added; for negative values one less, so that halves fall away from zero.
    negative = (values >> 63) & -(exponent > 0).astype(np.int64)
    negative += (np.int64(1) << exponent) >> 1
    negative += values
    return negative >> exponent


def multiply_by_quantized_multiplier(
    values: np.ndarray, multiplier: np.ndarray | int, shift: np.ndarray | int
) -> np.ndarray:
    """Scale int32 `values` by multiplier * 2^(shift-31); int64 result of int32 range.

    `multiplier` and `shift` are scalars or vectors over the last axis of `values`.
    """
    shift = np.asarray(shift, np.int64)
    result = np.array(values, dtype=np.int64)
    if np.any(shift > 0):
        result <<= np.maximum(shift, 0)
        result = result.astype(np.int32).astype(np.int64)  # int32 wraps around in the kernel too
    result *= multiplier
    result += 2**30
    result >>= 31
    if np.any(shift < 0):
        return rounding_divide_by_power_of_two(result, np.maximum(-shift, 0))
    return result


def exp_of_negative(raw: np.ndarray, integer_bits: int) -> np.ndarray:
    """exp(x) as Q0.31 for x <= 0 given as raw fixed point with `integer_bits` (4 or 5) integer bits.

    A Taylor series on [-1/4, 0) times one table constant for each further bit of x.
    """
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    modulo = (raw & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_zero(saturating_shift_left(modulo, integer_bits))
    remainder = modulo - raw
    for power, constant in _EXP_MINUS_POWERS.items():
        if power < integer_bits:
            bit = 1 << (fractional_bits + power)
            result = np.where(
                remainder & bit, saturating_rounding_doubling_high_mul(result, constant), result
            )
    return np.where(raw == 0, INT32_MAX, result)


def one_over_one_plus(raw: np.ndarray) -> np.ndarray:
    """1 / (1 + x) as Q0.31 for x in [0, 1) given as Q0.31, by three Newton-Raphson steps."""
    half_denominator = (raw + INT32_MAX + 1) >> 1
    guess = _48_OVER_17 + saturating_rounding_doubling_high_mul(half_denominator, _MINUS_32_OVER_17)
    for _ in range(3):
        error = (1 << 29) - saturating_rounding_doubling_high_mul(half_denominator, guess)
        guess = guess + saturating_shift_left(
            saturating_rounding_doubling_high_mul(guess, error), 2
        )
    return saturating_shift_left(guess, 1)


def logistic(raw: np.ndarray, integer_bits: int) -> np.ndarray:
    """1 / (1 + exp(-x)) as Q0.31 for x given as raw fixed point with `integer_bits` integer bits."""
    positive = one_over_one_plus(exp_of_negative(-np.abs(raw), integer_bits))
    return np.where(raw == 0, 1 << 30, np.where(raw > 0, positive, INT32_MAX - positive))


def saturating_shift_left(values: np.ndarray, exponent: int) -> np.ndarray:
    """values * 2^exponent within int32, saturating as gemmlowp does (one code early below zero)."""
    threshold = (1 << (31 - exponent)) - 1
    result = np.where(values > threshold, INT32_MAX, values << exponent)
    return np.where(values < -threshold, INT32_MIN, result)


def _exp_between_minus_quarter_and_zero(raw: np.ndarray) -> np.ndarray:
    multiply = saturating_rounding_doubling_high_mul
    offset = raw + (1 << 28)  # x + 1/8: the series is taken around -1/8
    square = multiply(offset, offset)
    cube = multiply(square, offset)
    fourth = rounding_divide_by_power_of_two(multiply(square, square), 2)
    tail = rounding_divide_by_power_of_two(multiply(fourth + cube, _ONE_THIRD) + square, 1)
    return _EXP_MINUS_EIGHTH + multiply(offset + tail, _EXP_MINUS_EIGHTH)
