"""LSQ: gradients of scale and zero point by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from test_variables import Toy, VariableContract

from keras_lowbit.config import TensorSpec
from keras_lowbit.reconstruct.variables import LSQ, Grid
from keras_lowbit.reconstruct.variables.lsq import SMALLEST_FACTOR


class TestLSQ(VariableContract):
    variable = LSQ(learning_rate=5e-3)

    def wanted(self, kernel: tf.Tensor, grid: Grid) -> tf.Tensor:
        return kernel

    def spoil(self, toy: Toy) -> None:
        """A grid so narrow that most weights lie outside of it."""
        quantizer = toy.qmodel.student.weight_quantizers["layer"]
        quantizer.variables["scale"].assign(0.3 * toy.grid.scale)


SCALE = 0.5


@pytest.mark.parametrize(
    ("x", "by_scale"),
    [
        (0.6, 1.0 - 0.6 / SCALE),  # code 1: round(x/s) - x/s
        (-0.9, -2.0 + 0.9 / SCALE),
        (1.75, 4.0 - 3.5),  # halves up, to the last code but one... of 8: still inside
        (9.0, 7.0),  # clipped at the largest code
        (-9.0, -7.0),
        (0.0, 0.0),
    ],
)
def test_gradient_of_the_scale(x: float, by_scale: float) -> None:
    """Esser et al. 2020, eq. 3; the factor's is that times the first scale."""
    grid = Grid(TensorSpec(4, symmetric=True), tf.constant(SCALE))
    state = LSQ().init(tf.constant(x), grid)
    assert set(state) == {"factor"}
    with tf.GradientTape() as tape:
        quantized = LSQ().quantize(tf.constant(x), grid, state)
    gradient = tape.gradient(quantized, state["factor"])
    assert float(gradient) == pytest.approx(SCALE * by_scale, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "by_zero_point", "by_scale"),
    [
        (0.6, 0.0, 1.0 - 1.2),  # inside: the zero point cancels
        (9.0, -SCALE, 15.0 - 6.0),  # above: s * (qmax - z)
        (-9.0, -SCALE, -6.0),  # below: s * (qmin - z)
    ],
)
def test_gradients_of_an_asymmetric_grid(x: float, by_zero_point: float, by_scale: float) -> None:
    """Bhalgat et al. 2020, eq. 5; the offset counts in shares of the grid's 15 steps."""
    grid = Grid(TensorSpec(4, symmetric=False), tf.constant(SCALE), tf.constant(6.0))
    state = LSQ().init(None, grid)
    with tf.GradientTape() as tape:
        quantized = LSQ().quantize(tf.constant(x), grid, state)
    gradients = tape.gradient(quantized, state)
    assert float(gradients["factor"]) == pytest.approx(SCALE * by_scale, abs=1e-6)
    assert float(gradients["offset"]) == pytest.approx(15 * by_zero_point, abs=1e-6)


def test_a_grid_after_a_relu_keeps_its_zero() -> None:
    grid = Grid(TensorSpec(4, False, (), unsigned=True), tf.constant(SCALE), tf.constant(0.0))
    state = LSQ().init(None, grid)
    assert set(state) == {"factor"}
    state["factor"].assign(1.5)
    tensor, moved = LSQ().harden(None, grid, state)
    assert tensor is None
    assert float(moved.scale) == 0.75
    assert float(moved.zero_point) == 0.0


@pytest.mark.parametrize(("offset", "expected"), [(0.1, 8.0), (-9.0, 0.0), (9.0, 15.0), (0.0, 6.0)])
def test_the_zero_point_stays_an_integer_on_the_grid(offset: float, expected: float) -> None:
    grid = Grid(TensorSpec(4, symmetric=False), tf.constant(SCALE), tf.constant(6.0))
    state = LSQ().init(None, grid)
    state["offset"].assign(offset)
    assert float(LSQ().harden(None, grid, state)[1].zero_point) == expected


def test_the_scale_stays_positive() -> None:
    grid = Grid(TensorSpec(4, symmetric=True), tf.constant([[SCALE, SCALE]]))
    state = LSQ().init(None, grid)
    state["factor"].assign([[-3.0, 2.0]])
    scale = LSQ().harden(None, grid, state)[1].scale
    np.testing.assert_allclose(scale, [[SCALE * SMALLEST_FACTOR, 2 * SCALE]], rtol=1e-6)
