"""AdaQuant: weights and scale, straight through the rounding."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from test_variables import VariableContract

from keras_lowbit.config import TensorSpec
from keras_lowbit.reconstruct.variables import AdaQuant, Grid

GRID = Grid(TensorSpec(3, symmetric=True), tf.constant([[0.5]]))


class TestAdaQuant(VariableContract):
    variable = AdaQuant(learning_rate=0.05)


class TestAdaQuantWithFixedScale(VariableContract):
    variable = AdaQuant(learning_rate=0.05, scale_learning_rate=0.0)


def test_weights_may_leave_their_cell() -> None:
    weights = tf.constant([[0.6], [-0.2]])
    state = AdaQuant().init(weights, GRID)
    state["shift"].assign([[1.0], [-2.0]])  # in scales
    hard, grid = AdaQuant().harden(weights, GRID, state)
    np.testing.assert_array_equal(hard, [[1.0], [-1.0]])
    np.testing.assert_array_equal(grid.scale, GRID.scale)


def test_gradients_by_hand() -> None:
    """Straight through inside of the grid: d w_hat / d shift is the scale; none outside."""
    weights = tf.constant([[0.6], [5.0]])  # codes 1 and, clipped, 3
    state = AdaQuant().init(weights, GRID)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(AdaQuant().quantize(weights, GRID, state))
    np.testing.assert_allclose(tape.gradient(total, state["shift"]), [[0.5], [0.0]])


def test_the_scale_learns_at_its_own_rate() -> None:
    """A step of the optimizer, ``learning_rate`` long, changes the scale by its own rate."""
    variable = AdaQuant(learning_rate=1e-2, scale_learning_rate=2e-3)
    weights = tf.constant([[0.6]])
    state = variable.init(weights, GRID)
    state["log_factor"].assign([[1e-2]])
    _, grid = variable.harden(weights, GRID, state)
    np.testing.assert_allclose(grid.scale, [[0.5 * np.exp(2e-3)]], rtol=1e-6)
    assert "log_factor" not in AdaQuant(scale_learning_rate=0.0).init(weights, GRID)
