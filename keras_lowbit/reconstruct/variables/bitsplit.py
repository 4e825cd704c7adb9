"""Bit-Split and Stitching: optimise the integer weights bit by bit (Wang et al. 2020).

A b-bit weight is split into b - 1 ternary bits, ``w_hat = scale * sum_k 2^k t_k`` with ``t_k`` in
{-1, 0, 1}, on the grids that are not "narrow" into b binary ones above the lowest level. ``|W x - W_hat x_hat|^2`` is
minimised over one bit at a time with all others fixed: the best bit and the best scale both have a
closed form. The bits are stitched to integers again, in place.

Deviation: a bit is solved for all output channels of a layer at once, and a sweep's updates reach
the gradient block by block, which changes nothing but the time.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np

from keras_lowbit.checks import check_count
from keras_lowbit.config import TensorSpec
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
        check_count("sweeps", sweeps, least=1)
        self.sweeps = sweeps

    def solve(
        self, tensor: np.ndarray, grid: Grid, moments: Moments
    ) -> tuple[np.ndarray, np.ndarray]:
        start = moments.to_matrix(np.asarray(grid.scale, np.float64))
        weights = moments.to_matrix(np.asarray(tensor, np.float64))
        wanted = moments.cross @ weights
        scale = start
        spec = grid.spec
        zero_point = np.broadcast_to(np.float64(grid.zero_point), grid.scale.shape)
        zero = moments.to_matrix(zero_point)
        codes = np.clip(np.floor(weights / scale + zero + 0.5), spec.qmin, spec.qmax)
        kinds, bits = _split(codes, spec)
        levels = codes - zero
        for _ in range(self.sweeps):
            before = levels
            for k in reversed(range(len(bits))):
                others = levels - kinds[k].weight * bits[k]
                bits[k] = _best_bit(moments.quantized, wanted / scale, others, bits[k], kinds[k])
                levels = others + kinds[k].weight * bits[k]
            scale = _best_scale(moments.quantized, wanted, levels, scale, start)
            if np.array_equal(levels, before):
                break
        rounded = moments.from_matrix(scale, tuple(grid.scale.shape)).astype(np.float32)
        return rounded * moments.from_matrix(levels, tensor.shape).astype(np.float32), rounded


class _Kind(NamedTuple):
    """What a bit counts, a power of two, and what it may be: from ``low`` to 1."""

    weight: float
    low: int

    def nearest(self, value: np.ndarray) -> np.ndarray:
        """The admissible entries nearest to ``value``."""
        return np.clip(np.rint(value), self.low, 1)


def _split(codes: np.ndarray, spec: TensorSpec) -> tuple[list[_Kind], list[np.ndarray]]:
    """The bits of the codes, lowest first: of their magnitude, signed, or of their distance from the lowest."""
    narrow = spec.grid == "narrow"
    above = np.abs(codes if narrow else codes - spec.qmin).astype(np.int64)
    sign = np.sign(codes) if narrow else 1.0
    places = range(spec.bits - narrow)
    kinds = [_Kind(2.0**k, low=-1 if narrow else 0) for k in places]
    return kinds, [sign * (above >> k & 1) for k in places]


def _best_bit(
    hessian: np.ndarray, wanted: np.ndarray, others: np.ndarray, bit: np.ndarray, kind: _Kind
) -> np.ndarray:
    """One sweep over one bit, input by input: the admissible entry of least error, all else fixed.

    Args:
      hessian: (groups, inputs, inputs).
      wanted: the cross moment in units of the scale, (groups, inputs, outputs).
      others: levels without this bit, (groups, inputs, outputs).
      bit: its present entries, (groups, inputs, outputs).
      kind: what the bit counts and may be.
    """
    weight, bit = kind.weight, bit.copy()
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    residual = wanted - hessian @ (others + weight * bit)
    for start in range(0, bit.shape[1], BLOCK):
        block, rest = slice(start, start + BLOCK), slice(start + BLOCK, None)
        old = bit[:, block].copy()
        inside = hessian[:, block, block]
        local = residual[:, block].copy()
        for i in range(old.shape[1]):
            square = diagonal[:, start + i, None]
            now = bit[:, start + i]
            ideal = now + local[:, i] / (weight * np.where(square > 0, square, np.inf))
            best = np.where(square > 0, kind.nearest(ideal), now)
            change = (weight * (best - now))[:, None]
            local[:, i + 1 :] -= inside[:, i + 1 :, i, None] * change  # of those still to come
            bit[:, start + i] = best
        residual[:, rest] -= hessian[:, rest, block] @ (weight * (bit[:, block] - old))
    return bit


def _best_scale(
    hessian: np.ndarray,
    wanted: np.ndarray,
    levels: np.ndarray,
    scale: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """The scale of least error for given levels, per output; as it was where every level is 0."""
    square = (levels * (hessian @ levels)).sum(axis=1, keepdims=True)
    product = (levels * wanted).sum(axis=1, keepdims=True)
    usable = (square > 0) & (product > 0)
    best = np.where(usable, product / np.where(usable, square, 1.0), scale)
    return np.clip(best, start / LARGEST_FACTOR, start * LARGEST_FACTOR)
