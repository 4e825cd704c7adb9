"""AdaRound: learn whether each weight is rounded up or down (Nagel et al. 2020).

``w_hat = scale * (clip(floor(w / scale + z) + h(v), qmin, qmax) - z)`` with the rectified sigmoid
``h(v) = clip(1.2 * sigmoid(v) - 0.1, 0, 1)`` (eq. 21 to 23), started so that ``w_hat = w``, and
the penalty ``mean(1 - |2 h(v) - 1|^beta)`` (eq. 24), whose annealed beta drives h to 0 or 1.

Deviation: the penalty is a mean, not a sum, and the loss it is added to is relative to the unit's
error before optimisation, so that one ``regularization`` fits layers of every size.
"""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf

from keras_lowbit.checks import as_rate
from keras_lowbit.quantizers.numerics import dequantize
from keras_lowbit.reconstruct.variables.base import Grid, OptimizationVariable, State

_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1


class AdaRound(OptimizationVariable):
    """Optimises the rounding of weights (opt_round of the study).

    Args:
      learning_rate: of the logits v.
      regularization: weight of the penalty against a relative loss that starts near 1.
      warmup: share of the steps before the penalty sets in.
      beta_start: exponent when it sets in.
      beta_end: exponent at the end.
    """

    name: ClassVar[str] = "adaround"
    targets: ClassVar[tuple[str, ...]] = ("weight",)
    essential: ClassVar[tuple[str, ...]] = ("weight",)
    decays: ClassVar[bool] = False  # the penalty decides late, and must still be able to move

    def __init__(
        self,
        learning_rate: float = 0.1,
        regularization: float = 30.0,
        warmup: float = 0.2,
        beta_start: float = 20.0,
        beta_end: float = 2.0,
    ) -> None:
        self.learning_rate = as_rate("learning_rate", learning_rate)
        self.regularization = as_rate("regularization", regularization, zero=True)
        self.warmup = as_rate("warmup", warmup, zero=True)
        self.beta_start = as_rate("beta_start", beta_start)
        self.beta_end = as_rate("beta_end", beta_end)
        if self.warmup > 1:
            raise ValueError(
                f"`warmup` must be a share of the steps, 1 at most. Received: warmup={warmup!r}"
            )

    def init(self, tensor: tf.Tensor | None, grid: Grid) -> State:
        ratio = tensor / grid.scale + grid.zero_point
        fraction = tf.clip_by_value(ratio - tf.floor(ratio), 1e-4, 1.0 - 1e-4)
        sigmoid = (fraction - _STRETCH_LOW) / (_STRETCH_HIGH - _STRETCH_LOW)
        return {"logits": tf.Variable(tf.math.log(sigmoid / (1.0 - sigmoid)))}

    def quantize(self, tensor: tf.Tensor, grid: Grid, state: State) -> tf.Tensor:
        return _between(tensor, grid, _rectified_sigmoid(state["logits"]))

    def penalty(self, state: State, progress: tf.Tensor) -> tf.Tensor:
        annealed = tf.maximum(0.0, (progress - self.warmup) / max(1.0 - self.warmup, 1e-6))
        cosine = 0.5 * (1.0 + tf.cos(annealed * 3.14159265))
        beta = self.beta_end + (self.beta_start - self.beta_end) * cosine
        undecided = 1.0 - tf.abs(2.0 * _rectified_sigmoid(state["logits"]) - 1.0) ** beta
        on = tf.cast(progress >= self.warmup, tf.float32)
        return on * self.regularization * tf.reduce_mean(undecided)

    def harden(
        self, tensor: tf.Tensor | None, grid: Grid, state: State
    ) -> tuple[tf.Tensor | None, Grid]:
        up = tf.cast(_rectified_sigmoid(state["logits"]) >= 0.5, tf.float32)
        return _between(tensor, grid, up), grid


def _between(tensor: tf.Tensor, grid: Grid, up: tf.Tensor) -> tf.Tensor:
    """The level below each weight, plus the share ``up`` of a step."""
    codes = tf.floor(tensor / grid.scale + grid.zero_point) + up
    codes = tf.clip_by_value(codes, float(grid.spec.qmin), float(grid.spec.qmax))
    return dequantize(codes, grid.scale, grid.zero_point)


def _rectified_sigmoid(logits: tf.Tensor) -> tf.Tensor:
    stretched = tf.sigmoid(logits) * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW
    return tf.clip_by_value(stretched, 0.0, 1.0)
