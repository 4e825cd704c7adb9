"""LSQ: learn the scale, and for asymmetric grids the zero point (Esser et al. 2020; LSQ+,
Bhalgat et al. 2020).

The gradients are those of :mod:`keras_lowbit.quantizers.numerics`. The scale is trained as a factor
of its initial value, ``scale = scale_0 * factor``, so no step-size gradient scale is needed: Adam is
indifferent to it, as the loss is relative to its start and gradients are far above its epsilon. The
learning rate is relative in every layer.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from keras_lowbit.checks import as_rate
from keras_lowbit.quantizers.numerics import round_ste
from keras_lowbit.reconstruct.variables.base import Grid, OptimizationVariable, State

SMALLEST_FACTOR = 1e-2


class LSQ(OptimizationVariable):
    """Optimises quantizer parameters (opt_qparam of the study).

    Listed behind a variable that owns the weights, it trains activation ranges only.

    Args:
      learning_rate: of the relative scale; the zero point moves ``qmax - qmin`` times as fast, in codes.
    """

    name: ClassVar[str] = "lsq"
    targets: ClassVar[tuple[str, ...]] = ("weight", "activation")

    def __init__(self, learning_rate: float = 1e-2) -> None:
        self.learning_rate = as_rate("learning_rate", learning_rate)

    def init(self, tensor: tf.Tensor | None, grid: Grid) -> State:
        state = {"factor": tf.Variable(tf.ones_like(grid.scale))}
        if not grid.spec.symmetric and not grid.spec.unsigned:
            state["offset"] = tf.Variable(0.0)  # of the zero point, in shares of the grid
        return state

    def quantize(self, tensor: tf.Tensor, grid: Grid, state: State) -> tf.Tensor:
        return self._moved(grid, state).nearest(tensor)

    def harden(
        self, tensor: tf.Tensor | None, grid: Grid, state: State
    ) -> tuple[tf.Tensor | None, Grid]:
        moved = self._moved(grid, state)
        return (None if tensor is None else moved.nearest(tensor)), moved

    @staticmethod
    def _moved(grid: Grid, state: State) -> Grid:
        scale = grid.scale * tf.maximum(state["factor"], SMALLEST_FACTOR)
        zero_point = grid.zero_point
        if "offset" in state:
            lowest, highest = float(grid.spec.qmin), float(grid.spec.qmax)
            moved = zero_point + state["offset"] * (highest - lowest)
            zero_point = round_ste(tf.clip_by_value(moved, lowest, highest))
        return dataclasses.replace(grid, scale=scale, zero_point=zero_point)
