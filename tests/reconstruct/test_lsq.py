"""LSQ: gradients of scale and zero point by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from test_variables import Toy, VariableContract

from keras_lowbit.config import TensorSpec
from keras_lowbit.reconstruct.activations import UnitFunction
from keras_lowbit.reconstruct.reconstructor import relative_error
from keras_lowbit.reconstruct.training import attach, train
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


def trained_factors(bits: int, first: float, factor: float) -> np.ndarray:
    """The scales' factors after training on ``factor`` times the loss, relative to its start as in
    the pipeline; the first scales are ``first`` times the calibrated ones."""
    toy = Toy.of("Dense", bits)
    student, arrived = toy.qmodel.student, [tf.constant(toy.x)]
    function = UnitFunction(toy.unit, student.model, student)
    wanted = UnitFunction(toy.unit, toy.qmodel.teacher, None).map(arrived)
    start = first * toy.grid.scale
    student.weight_quantizers["layer"].set_scale(start)
    before = float(relative_error(function.map(arrived), wanted, [1.0]))
    train(
        function, attach(student, toy.unit.layers, [], LSQ(), None), [], arrived, wanted,
        lambda outputs, batch: factor * relative_error(outputs, batch, [before]),
        steps=100, batch_size=64, bias_learning_rate=0.0, generator=np.random.default_rng(0),
    )  # fmt: skip
    return (toy.grid.scale / start).numpy()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("first", [0.5, 2.0])
def test_a_factor_on_the_gradient_changes_nothing(bits: int, first: float) -> None:
    """Why Esser's gradient scale ``1 / sqrt(n qmax)`` is left out: Adam divides it away again."""
    plain = trained_factors(bits, first, 1.0)
    assert (np.abs(plain - 1.0) > 0.2).all()
    for factor in (1e-2, 1e-3):
        np.testing.assert_allclose(trained_factors(bits, first, factor), plain, rtol=1e-2)
