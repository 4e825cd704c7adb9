"""The quantization formula against NumPy, exhaustively, and its gradients by hand."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers import numerics

SPECS = [
    TensorSpec(bits, symmetric, axis)
    for bits, symmetric, axis in itertools.product(range(2, 9), (True, False), ((), (1,), (1, 2)))
]


def twin(
    x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, qmin: int, qmax: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values, in NumPy."""
    codes = np.clip(np.floor(x / scale + np.float32(0.5)) + zero_point, qmin, qmax)
    return codes, scale * (codes - zero_point)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_codes_and_values(spec: TensorSpec) -> None:
    generator = np.random.default_rng(spec.bits)
    x = generator.normal(size=(40, 3, 4)).astype(np.float32)
    shape = spec.scale_shape(x.shape)
    scale = generator.uniform(0.01, 2.0, shape).astype(np.float32)
    zero_point = np.zeros(shape, np.float32)
    if not spec.symmetric:
        zero_point = generator.integers(spec.qmin, spec.qmax + 1, shape).astype(np.float32)
    codes, values = twin(x, scale, zero_point, spec.qmin, spec.qmax)
    arguments = (tf.constant(x), tf.constant(scale), tf.constant(zero_point), spec.qmin, spec.qmax)
    np.testing.assert_array_equal(numerics.quantize(*arguments), codes)
    np.testing.assert_array_equal(numerics.fake_quantize(*arguments), values)
    again = numerics.fake_quantize(tf.constant(values), *arguments[1:])
    np.testing.assert_array_equal(again, values)  # values on the grid stay


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.axis], ids=str)
def test_every_code_is_reached_and_zero_is_exact(spec: TensorSpec) -> None:
    zero_points = [0] if spec.symmetric else range(spec.qmin, spec.qmax + 1)
    for zero_point in zero_points:
        values = (np.arange(spec.qmin - 3, spec.qmax + 4) - zero_point) * np.float32(0.125)
        codes = numerics.quantize(
            tf.constant(values, tf.float32), 0.125, float(zero_point), spec.qmin, spec.qmax
        )
        assert set(np.unique(codes)) == set(range(spec.qmin, spec.qmax + 1))
        zero = numerics.fake_quantize(
            tf.constant(0.0), 0.125, float(zero_point), spec.qmin, spec.qmax
        )
        assert float(zero) == 0.0


def test_levels_around_zero() -> None:
    """Zero point -1/2: two bits are the levels -1.5, -0.5, 0.5 and 1.5; what is between them goes up."""
    x = tf.constant([-9.0, -1.1, -1.0, -0.4, 0.0, 0.4, 1.0, 1.1, 9.0])
    arguments = tf.constant(1.0), tf.constant(-0.5), -2, 1
    np.testing.assert_array_equal(numerics.quantize(x, *arguments), [-2, -2, -1, -1, 0, 0, 1, 1, 1])
    with tf.GradientTape() as tape:
        tape.watch([x, arguments[0]])
        values = numerics.fake_quantize(x, *arguments)
    np.testing.assert_array_equal(values, [-1.5, -1.5, -0.5, -0.5, 0.5, 0.5, 1.5, 1.5, 1.5])
    to_x, to_scale = tape.gradient(values, [x, arguments[0]])
    np.testing.assert_array_equal(to_x, [0, 1, 1, 1, 1, 1, 1, 1, 0])
    # By LSQ: the level less x inside the grid, the level where it was clipped.
    inside = (values.numpy() - x.numpy())[1:-1].sum()
    assert float(to_scale) == pytest.approx(inside - 1.5 + 1.5, abs=1e-5)


def test_halves_are_rounded_up() -> None:
    x = tf.constant([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_array_equal(numerics.round_ste(x), [-2, -1, 0, 1, 2, 3])


def test_an_uncalibrated_scale_fails_loudly() -> None:
    result = numerics.fake_quantize(tf.constant([1.0]), float("nan"), 0.0, 0, 15)
    assert np.isnan(result).all()


def test_gradients_are_those_of_lsq_and_lsq_plus() -> None:
    x = tf.Variable([-9.0, -1.3, 0.2, 2.6, 50.0])
    scale, zero_point = tf.Variable(0.5), tf.Variable(4.0)
    with tf.GradientTape(persistent=True) as tape:
        values = numerics.fake_quantize(x, scale, zero_point, 0, 15)
        parts = tf.unstack(values)
    inside = np.float32([0, 1, 1, 1, 0])
    np.testing.assert_allclose(tape.gradient(values, x), inside)
    ratio = x.numpy() / 0.5
    by_hand = np.where(inside, np.rint(ratio) - ratio, np.float32([0 - 4, 0, 0, 0, 15 - 4]))
    actual = [float(tape.gradient(part, scale)) for part in parts]
    np.testing.assert_allclose(actual, by_hand, rtol=1e-5, atol=1e-6)
    actual = [float(tape.gradient(part, zero_point)) for part in parts]
    np.testing.assert_allclose(actual, -0.5 * (1 - inside), atol=1e-6)
