"""AdaQuant: learn the weights themselves, straight through the rounding (Hubara et al. 2020).

``w_hat = quantize(w + scale * shift)`` with a trainable ``shift`` in units of the scale and, as in
the paper (eq. 3 optimises V and the scale together), a trainable relative scale.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from keras_lowbit.reconstruct.variables.base import Grid, OptimizationVariable, State


class AdaQuant(OptimizationVariable):
    """Optimises weights through the straight-through estimator (opt_weights of the study).

    Args:
      learning_rate: of the shift, in units of the scale.
      scale_learning_rate: of the relative scale; 0 keeps the scale.
    """

    name: ClassVar[str] = "adaquant"
    targets: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, learning_rate: float = 1e-2, scale_learning_rate: float = 1e-3) -> None:
        self.learning_rate = learning_rate
        self.scale_learning_rate = scale_learning_rate

    def init(self, tensor: tf.Tensor | None, grid: Grid) -> State:
        state = {"shift": tf.Variable(tf.zeros_like(tensor))}
        if self.scale_learning_rate > 0:
            state["log_factor"] = tf.Variable(tf.zeros_like(grid.scale))
        return state

    def quantize(self, tensor: tf.Tensor, grid: Grid, state: State) -> tf.Tensor:
        return self._moved(grid, state).nearest(tensor + grid.scale * state["shift"])

    def harden(
        self, tensor: tf.Tensor | None, grid: Grid, state: State
    ) -> tuple[tf.Tensor | None, Grid]:
        moved = self._moved(grid, state)
        return moved.nearest(tensor + grid.scale * state["shift"]), moved

    def _moved(self, grid: Grid, state: State) -> Grid:
        if "log_factor" not in state:
            return grid
        relative = self.scale_learning_rate / self.learning_rate
        return dataclasses.replace(grid, scale=grid.scale * tf.exp(relative * state["log_factor"]))
