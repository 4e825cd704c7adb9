"""Integer kernels over NumPy arrays: windows, convolutions, pooling, softmax; no quantization records here.

Accumulators are computed with float matrix products: all partial sums are integers below 2^24 (float32)
or 2^53 (float64), so the order of summation cannot change a bit.
Modelled on tensorflow/lite/kernels/internal/reference/integer_ops and micro/kernels of TFLM.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from keras_lowbit.export import fixed_point

ALL_CODES = np.arange(256, dtype=np.uint8).view(np.int8)  # code c at index c mod 256


def output_size(size: int, window: int, stride: int, dilation: int, padding: str) -> int:
    """Number of window positions along one axis."""
    if padding == "SAME":
        return -(-size // stride)
    return (size + stride - (window - 1) * dilation - 1) // stride


def pad_amounts(
    size: int, window: int, stride: int, dilation: int, padding: str
) -> tuple[int, int]:
    """Padding (before, after) of one axis; TFLite puts the odd one after."""
    positions = output_size(size, window, stride, dilation, padding)
    total = max(0, (positions - 1) * stride + (window - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def patches(
    values: np.ndarray,
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
    fill: int = 0,
) -> np.ndarray:
    """View [N, out_h, out_w, window_h, window_w, C] of the padded input [N, H, W, C]."""
    sizes = values.shape[1:3]
    pads = [
        pad_amounts(*axis, padding) for axis in zip(sizes, window, strides, dilation, strict=True)
    ]
    if any(sum(pad) for pad in pads):
        values = np.pad(values, [(0, 0), *pads, (0, 0)], constant_values=fill)
    out = [
        output_size(*axis, padding) for axis in zip(sizes, window, strides, dilation, strict=True)
    ]
    step = values.strides
    moves = (
        step[1] * strides[0],
        step[2] * strides[1],
        step[1] * dilation[0],
        step[2] * dilation[1],
    )
    return np.lib.stride_tricks.as_strided(
        values,
        (len(values), *out, *window, values.shape[3]),
        (step[0], *moves, step[3]),
        writeable=False,
    )


def conv_2d(
    values: np.ndarray,
    weights: np.ndarray,
    zero_point: int,
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
) -> np.ndarray:
    """Accumulators [N, out_h, out_w, O] of int8 input [N, H, W, I] and weights [O, h, w, I], as exact floats."""
    dtype = exact_float(weights.reshape(len(weights), -1), zero_point)
    centred = values.astype(dtype) - dtype(zero_point)
    columns = patches(centred, weights.shape[1:3], strides, dilation, padding)
    rows = columns.reshape(math.prod(columns.shape[:3]), -1)
    return (rows @ weights.reshape(len(weights), -1).T.astype(dtype)).reshape(
        *columns.shape[:3], -1
    )


def depthwise_conv_2d(
    values: np.ndarray,
    weights: np.ndarray,
    zero_point: int,
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
) -> np.ndarray:
    """Accumulators [N, out_h, out_w, C*M], int32, of int8 input [N, H, W, C] and weights [1, h, w, C*M]."""
    _, height, width, channels = weights.shape
    centred = values.astype(np.int32) - np.int32(zero_point)
    if channels != values.shape[3]:  # output channel c*M + m reads input channel c
        centred = np.repeat(centred, channels // values.shape[3], axis=3)
    view = patches(centred, (height, width), strides, dilation, padding)
    total = np.zeros((*view.shape[:3], channels), np.int32)
    for row, column in np.ndindex(height, width):
        total += view[:, :, :, row, column] * weights[0, row, column].astype(np.int32)
    return total


def fully_connected(values: np.ndarray, weights: np.ndarray, zero_point: int) -> np.ndarray:
    """Accumulators [..., out] of int8 input [..., in] and weights [out, in], as exact floats."""
    dtype = exact_float(weights, zero_point)
    return (values.astype(dtype) - dtype(zero_point)) @ weights.T.astype(dtype)


def accumulator_bound(weights: np.ndarray, zero_point: int) -> int:
    """Largest magnitude an accumulator can reach before the bias; weights as [outputs, taps]."""
    widest = max(127 - zero_point, zero_point + 128)
    return int(np.abs(weights.astype(np.int64)).sum(axis=1).max()) * widest


def exact_float(weights: np.ndarray, zero_point: int) -> type[np.floating]:
    """The narrowest float type in which every partial sum is exact."""
    return np.float32 if accumulator_bound(weights, zero_point) < 2**24 else np.float64


def average_pool_2d(
    values: np.ndarray, window: tuple[int, int], strides: tuple[int, int], padding: str
) -> np.ndarray:
    """Mean of the raw codes in each window, padding not counted, halves away from zero; int32."""
    total = sum(part.astype(np.int32) for part in _taps(values, window, strides, padding, 0))
    ones = np.ones((1, *values.shape[1:3], 1), np.int32)
    count = sum(part.astype(np.int32) for part in _taps(ones, window, strides, padding, 0))
    magnitude = (np.abs(total) + count // 2) // count
    return np.where(total > 0, magnitude, -magnitude)


def max_pool_2d(
    values: np.ndarray, window: tuple[int, int], strides: tuple[int, int], padding: str
) -> np.ndarray:
    """Largest code in each window, padding ignored; int8."""
    parts = _taps(values, window, strides, padding, -128)
    best = next(parts).copy()
    for part in parts:
        np.maximum(best, part, out=best)
    return best


def softmax(values: np.ndarray, input_scale: float, beta: float) -> np.ndarray:
    """Softmax over the last axis as int8 codes at scale 1/256, zero point -128."""
    # The differences to the row's maximum are held with 5 integer bits; what exp() flushes to 0 is skipped.
    real = min(beta * input_scale * 2**26, 2.0**31 - 1)
    if real <= 1:
        raise ValueError(
            f"Softmax needs beta * input scale above 2^-26. Received: {beta * input_scale}."
        )
    multiplier, shift = fixed_point.quantize_multiplier(real)
    differences = -np.arange(256, dtype=np.int64)
    skipped = differences < -math.floor(31 * 2.0**26 / 2**shift)
    scaled = fixed_point.multiply_by_quantized_multiplier(
        np.where(skipped, 0, differences), multiplier, shift
    )
    exponentials = np.where(skipped, 0, fixed_point.exp_of_negative(scaled, 5))

    below = values.max(axis=-1, keepdims=True).astype(np.int16) - values
    terms = exponentials[below]
    total = fixed_point.rounding_divide_by_power_of_two(exponentials, 12)[below].sum(
        axis=-1, keepdims=True
    )
    leading_zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    reciprocal = fixed_point.one_over_one_plus((total << leading_zeros) - 2**31)
    product = fixed_point.saturating_rounding_doubling_high_mul(terms, reciprocal)
    codes = fixed_point.rounding_divide_by_power_of_two(product, 12 - leading_zeros + 31 - 8) - 128
    return np.clip(codes, -128, 127).astype(np.int8)


def logistic_table(input_scale: float, zero_point: int) -> np.ndarray:
    """Logistic of each int8 code, in the order of `ALL_CODES`, as int8 at scale 1/256, zero point -128."""
    fraction, shift = math.frexp(input_scale * 2**27)
    radius = math.floor(15 * 2.0**27 / 2.0**shift) if shift >= 0 else math.inf
    centred = ALL_CODES.astype(np.int64) - zero_point
    inside = np.abs(centred) < radius
    multiplier = math.floor(fraction * 2**31 + 0.5)
    raw = fixed_point.multiply_by_quantized_multiplier(
        np.where(inside, centred, 0), multiplier, shift
    )
    codes = fixed_point.rounding_divide_by_power_of_two(fixed_point.logistic(raw, 4), 23) - 128
    codes = np.where(inside, codes, np.where(centred > 0, 127, -128))
    return np.clip(codes, -128, 127).astype(np.int8)


def _taps(
    values: np.ndarray, window: tuple[int, int], strides: tuple[int, int], padding: str, fill: int
) -> Iterator[np.ndarray]:
    view = patches(values, window, strides, (1, 1), padding, fill)
    for row, column in np.ndindex(*window):
        yield view[:, :, :, row, column]
