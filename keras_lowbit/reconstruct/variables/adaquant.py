"""AdaQuant: learn the weights themselves, straight through the rounding (Hubara et al. 2020).

``w_hat = quantize(w + scale_0 * shift)`` with a trainable ``shift`` in units of the initial scale.
As in the paper (eq. 3 optimises V and both scales together), the weight scales and the activation
ranges move too, the way :class:`LSQ` moves them, at a learning rate of their own.
"""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf

from keras_lowbit.checks import as_rate
from keras_lowbit.reconstruct.variables.base import Grid, State
from keras_lowbit.reconstruct.variables.lsq import LSQ


class AdaQuant(LSQ):
    """Optimises weights through the straight-through estimator (opt_weights of the study).

    Args:
      learning_rate: of the shift, in units of the scale.
      scale_learning_rate: of the relative scales and the zero points; 0 keeps them.
    """

    name: ClassVar[str] = "adaquant"
    essential: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, learning_rate: float = 1e-2, scale_learning_rate: float = 1e-3) -> None:
        super().__init__(learning_rate)
        self.scale_learning_rate = as_rate("scale_learning_rate", scale_learning_rate, zero=True)

    def learning_rate_of(self, name: str) -> float:
        return self.learning_rate if name == "shift" else self.scale_learning_rate

    def init(self, tensor: tf.Tensor | None, grid: Grid) -> State:
        state = super().init(tensor, grid)
        if tensor is not None:
            state["shift"] = tf.Variable(tf.zeros_like(tensor))
        return state

    def quantize(self, tensor: tf.Tensor, grid: Grid, state: State) -> tf.Tensor:
        shift = grid.scale * state["shift"] if "shift" in state else 0.0
        return self._moved(grid, state).nearest(tensor + shift)

    def harden(
        self, tensor: tf.Tensor | None, grid: Grid, state: State
    ) -> tuple[tf.Tensor | None, Grid]:
        hard = None if tensor is None else self.quantize(tensor, grid, state)
        return hard, self._moved(grid, state)
