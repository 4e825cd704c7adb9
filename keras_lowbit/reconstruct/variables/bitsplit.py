"""Bit-Split and Stitching: optimise the integer weights bit by bit (Wang et al. 2020).

A b-bit weight is split into b - 1 ternary bits, ``w_hat = scale * sum_k 2^k t_k`` with ``t_k`` in
{-1, 0, 1}. ``|W x - W_hat x_hat|^2`` is minimised over one of them at a time with all others
fixed: the best bit and the best scale both have a closed form. The bits are stitched
to integers again, in place.

Deviation: a bit is solved for all output channels of a layer at once, and a sweep's updates reach
the gradient block by block, which changes nothing but the time.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from keras_lowbit.reconstruct.moments import Moments
from keras_lowbit.reconstruct.variables.base import ClosedForm, Grid

BLOCK = 64
# How far a scale may go from its initial value, for which the int32 biases have room.
LARGEST_FACTOR = 4.0


class BitSplit(ClosedForm):
    """Optimises the bits of the weights of one layer at a time (opt_bits of the study).

    Args:
      sweeps: most passes over all bits; it stops when none changes.
    """

    name: ClassVar[str] = "bitsplit"

    def __init__(self, sweeps: int = 20) -> None:
        self.sweeps = sweeps

    def solve(
        self, tensor: np.ndarray, grid: Grid, moments: Moments
    ) -> tuple[np.ndarray, np.ndarray]:
        start = moments.to_matrix(np.asarray(grid.scale, np.float64))
        weights = moments.to_matrix(np.asarray(tensor, np.float64))
        wanted = moments.cross @ weights
        scale = start
        codes = np.clip(np.floor(weights / scale + 0.5), grid.spec.qmin, grid.spec.qmax)
        bits = _split(codes, grid.spec.bits - 1)
        for _ in range(self.sweeps):
            before = codes
            for k in reversed(range(len(bits))):
                others = codes - 2.0**k * bits[k]
                bits[k] = _best_bit(moments.quantized, wanted / scale, others, bits[k], 2.0**k)
                codes = others + 2.0**k * bits[k]
            scale = _best_scale(moments.quantized, wanted, codes, scale, start)
            if np.array_equal(codes, before):
                break
        rounded = moments.from_matrix(scale, tuple(grid.scale.shape)).astype(np.float32)
        return rounded * moments.from_matrix(codes, tensor.shape).astype(np.float32), rounded


def _split(codes: np.ndarray, num_bits: int) -> list[np.ndarray]:
    """Ternary bits, lowest first: the sign times the binary digits."""
    magnitude = np.abs(codes).astype(np.int64)
    return [np.sign(codes) * (magnitude >> k & 1) for k in range(num_bits)]


def _best_bit(
    hessian: np.ndarray, wanted: np.ndarray, others: np.ndarray, bit: np.ndarray, weight: float
) -> np.ndarray:
    """One sweep over one bit, input by input: the entry of {-1, 0, 1} of least error, all else fixed.

    Args:
      hessian: (groups, inputs, inputs).
      wanted: the cross moment in units of the scale, (groups, inputs, outputs).
      others: codes without this bit, (groups, inputs, outputs).
      bit: its present entries, (groups, inputs, outputs).
      weight: what the bit counts, a power of two.
    """
    bit = bit.copy()
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    residual = wanted - hessian @ (others + weight * bit)
    for start in range(0, bit.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        old = bit[:, block].copy()
        inside = hessian[:, block, block]
        local = residual[:, block].copy()
        for i in range(old.shape[1]):
            square = diagonal[:, start + i, None]
            now = bit[:, start + i]
            ideal = now + local[:, i] / (weight * np.where(square > 0, square, np.inf))
            best = np.where(square > 0, np.clip(np.rint(ideal), -1, 1), now)
            local -= inside[:, :, i, None] * (weight * (best - now))[:, None]
            bit[:, start + i] = best
        residual -= hessian[:, :, block] @ (weight * (bit[:, block] - old))
    return bit


def _best_scale(
    hessian: np.ndarray, wanted: np.ndarray, codes: np.ndarray, scale: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The scale of least error for given codes, per output; as it was where every code is 0."""
    square = (codes * (hessian @ codes)).sum(axis=1, keepdims=True)
    product = (codes * wanted).sum(axis=1, keepdims=True)
    usable = (square > 0) & (product > 0)
    best = np.where(usable, product / np.where(usable, square, 1.0), scale)
    return np.clip(best, start / LARGEST_FACTOR, start * LARGEST_FACTOR)
