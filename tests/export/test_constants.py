"""Weights at the top of their container."""

from __future__ import annotations

import numpy as np
import pytest

from keras_lowbit.export.constants import align_weights


@pytest.mark.parametrize("bits", range(2, 9))
def test_alignment_keeps_the_real_weights(bits: int) -> None:
    limit = 2 ** (bits - 1)
    codes = np.arange(-limit, limit)[:, None] + np.zeros((1, 3), int)
    scale = np.float32([0.1, 0.0173, 1.0])
    zero_points = np.array([0.0, -0.5, -1.0] if bits < 8 else [0.0])
    aligned = align_weights(codes, scale, zero_points, bits, axis=1)
    assert aligned.codes.dtype == np.int8 and aligned.scale.dtype == np.float32
    top = 8 - bits
    assert aligned.shift == ((top, top, top - 1) if bits < 8 else 0)
    real = aligned.codes.astype(np.float64) * aligned.scale.astype(np.float64)
    assert np.array_equal(real, (codes - zero_points) * scale.astype(np.float64))
    back = (aligned.codes.astype(int) - aligned.offset) >> np.array(aligned.shift)
    assert np.array_equal(back, codes)


def test_channels_alike_have_one_number() -> None:
    aligned = align_weights(np.zeros((4, 2), int), np.ones(2), np.full(2, -0.5), 3, 4, axis=1)
    assert (aligned.shift, aligned.offset) == (1, 1)


@pytest.mark.parametrize(("zero_point", "shift", "least"), [(0, 1, -8), (-0.5, 1, -7), (-1, 0, -3)])
def test_three_bits_in_four_and_in_three(zero_point: float, shift: int, least: int) -> None:
    """They need a bit more than they have, but those with zero on the usual code."""
    codes, scale, zero = np.arange(-4, 4)[:, None], np.ones(1), np.array([zero_point])
    aligned = align_weights(codes, scale, zero, 3, 4)
    assert (aligned.shift, aligned.codes.min()) == (shift, least)
    assert aligned.codes.max() <= 7
    if zero_point:
        with pytest.raises(ValueError, match="3-bit codes with a zero point of.*than 3 hold"):
            align_weights(codes, scale, zero, 3, 3)


@pytest.mark.parametrize("codes", [[2], [-3], [0.5]])
def test_alignment_refuses_codes_off_the_grid(codes: list[float]) -> None:
    with pytest.raises(ValueError, match="2 bits must be integers"):
        align_weights(np.array(codes), np.float32(1), np.zeros(1), 2)
