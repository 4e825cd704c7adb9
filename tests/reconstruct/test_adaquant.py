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


def test_scales_learn_at_their_own_rate() -> None:
    variable = AdaQuant(learning_rate=1e-2, scale_learning_rate=2e-3)
    state = variable.init(tf.constant([[0.6]]), GRID)
    rates = {name: variable.learning_rate_of(name) for name in state}
    assert rates == {"shift": 1e-2, "factor": 2e-3}


def test_activation_ranges_move_too() -> None:
    """Eq. 3 of the paper is over the scales of weights and inputs; here as LSQ moves them."""
    grid = Grid(TensorSpec(3, symmetric=False), tf.constant(0.5), tf.constant(2.0))
    variable = AdaQuant(scale_learning_rate=2e-3)
    state = variable.init(None, grid)
    assert {name: variable.learning_rate_of(name) for name in state} == {
        "factor": 2e-3, "offset": 2e-3,
    }  # fmt: skip
    x = tf.constant([0.1, 0.9, 3.0])
    np.testing.assert_array_equal(variable.quantize(x, grid, state), grid.nearest(x))
    state["factor"].assign(2.0)
    tensor, moved = variable.harden(None, grid, state)
    assert tensor is None
    assert float(moved.scale) == 1.0
    np.testing.assert_array_equal(variable.quantize(x, grid, state), moved.nearest(x))
