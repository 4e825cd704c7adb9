"""Weight scales and zero points by the error of the layer's output."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras
from networks import chain, randomize, residual, samples

from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.ranges import MANY_WEIGHTS, kernel_range
from keras_lowbit.reader import read
from keras_lowbit.reconstruct.activations import evenly
from keras_lowbit.reconstruct.moments import Moments, input_covariance
from keras_lowbit.reconstruct.weight_ranges import FRACTIONS, input_covariances, output_grid

LAYERS = {
    "Dense": ((6,), lambda k: k.Dense(4, name="layer")),
    "Dense without bias": ((6,), lambda k: k.Dense(4, use_bias=False, name="layer")),
    "Conv1D": ((12, 3), lambda k: k.Conv1D(4, 3, strides=2, padding="same", name="layer")),
    "causal Conv1D": (
        (12, 3),
        lambda k: k.Conv1D(4, 3, dilation_rate=2, padding="causal", name="layer"),
    ),
    "Conv2D": ((9, 8, 3), lambda k: k.Conv2D(4, (3, 2), padding="same", name="layer")),
    "DepthwiseConv2D": (
        (9, 8, 3),
        lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="layer"),
    ),
}


def one_layer(kind: str) -> tuple[Any, Any, np.ndarray]:
    """A quantized network of one layer, its layer in float, and inputs far from zero mean."""
    model = randomize(chain(*LAYERS[kind])(tf_keras))
    x = samples(model, 64)[0] * 3 + 50
    return pipelines.quantized(model, pipelines.ranges_only(3), data=x), model, x


@pytest.mark.parametrize("grid", ["midrise", "centred"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_error_it_minimises_is_that_of_the_output(kind: str, grid: str) -> None:
    """The layer itself is run with what rounding changes of its kernel; a bias makes up for the mean."""
    qmodel, model, x = one_layer(kind)
    student = qmodel.student
    ((name, covariance),) = input_covariances(
        student.graph, student.placement, qmodel.teacher, {student.graph.inputs[0]: x}
    )
    layer = model.get_layer("layer")
    kernel, *bias = layer.get_weights()
    spec = dataclasses.replace(student.weight_quantizers[name].spec, grid=grid)
    start, own_zero = kernel_range(kernel, spec, "mse")
    scale, zero_point = output_grid(kernel, start, spec, covariance)
    assert scale.dtype == zero_point.dtype == np.float32
    assert scale.shape == zero_point.shape == start.shape

    def error(scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        codes = np.clip(np.rint(kernel / scale + zero), spec.qmin, spec.qmax)
        layer.set_weights([kernel - (codes - zero) * scale, *(0 * b for b in bias)])
        off = layer(x).numpy().astype(np.float64)
        off = off.reshape(-1, off.shape[-1])
        return off.var(axis=0) if bias else np.square(off).mean(axis=0)

    axes = tuple(i for i in range(kernel.ndim) if i not in spec.axis)
    largest = np.abs(kernel).max(axis=axes, keepdims=True).astype(np.float64)
    tried = []
    for zero in (np.full(start.shape, z) for z in spec.zero_points):
        widest = largest / np.minimum(spec.qmax - zero, zero - spec.qmin)
        tried += [error(start, zero), *(error(f * widest, zero) for f in FRACTIONS)]
    np.testing.assert_allclose(error(scale, zero_point), np.min(tried, axis=0), rtol=0.02)
    assert (error(scale, zero_point) < 0.99 * error(start, own_zero)).any()


def test_covariance_of_a_large_mean() -> None:
    """In float32, squares of ten thousand leave nothing of variances of one to 25."""
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(512, 5)) * [1, 2, 3, 4, 5] + 10_000).astype(np.float32)
    node = read(chain((5,), lambda k: k.Dense(2, name="layer"))(tf_keras))["layer"]
    batches = [tf.constant(x[:200]), tf.constant(x[200:])]
    found = input_covariance(node, batches).quantized[0]
    np.testing.assert_allclose(found, np.cov(x.astype(np.float64).T, bias=True), atol=2e-3)


@pytest.mark.parametrize(
    "layer",
    [
        lambda k: k.Conv2D(3, 3, padding="same", name="layer"),
        lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="layer"),
        lambda k: k.Conv2D(3, 2, use_bias=False, name="layer"),
    ],
    ids=["convolution", "depthwise", "no bias"],
)
def test_the_mean_of_an_output(layer: Any) -> None:
    model = randomize(chain((6, 5, 4), layer)(tf_keras))
    x = (np.random.default_rng(0).normal(size=(20, 6, 5, 4)) + 3.0).astype(np.float32)
    node, built = read(model)["layer"], model.get_layer("layer")
    found = input_covariance(node, [tf.constant(x[:8]), tf.constant(x[8:])])
    kernel = built.weights[0].numpy()
    if not built.use_bias:
        np.testing.assert_array_equal(found.mean_output(kernel), np.zeros(3))
        return
    built.bias.assign(np.zeros_like(built.bias))
    wanted = model.predict(x, verbose=0).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(found.mean_output(kernel), wanted, rtol=1e-4, atol=1e-4)


def test_samples_are_taken_from_all_over() -> None:
    x, y = np.arange(1000), np.arange(1000)[::-1]
    few, others = evenly([x, y], 5)
    np.testing.assert_array_equal(few, [0, 249, 499, 749, 999])
    np.testing.assert_array_equal(others, y[few])
    np.testing.assert_array_equal(evenly([x], 5000)[0], x)
    np.testing.assert_array_equal(evenly([x[:1]], 5)[0], [0])


def test_by_hand() -> None:
    """One output, weights 1 and 0.3, levels -1, 0 and 1 times the scale; only the second input varies.

    The kernel's own error wants a scale near 1. The output does not see the first weight, so the
    scale is the least that may be tried, 0.3 at best: there the second weight is exact.
    """
    spec = TensorSpec(2, True, (1,), grid="narrow")
    kernel = np.array([[1.0], [0.3]], np.float32)
    only_second = np.array([[[0.0, 0.0], [0.0, 1.0]]])
    start, _ = kernel_range(kernel, spec, "mse")
    assert start.item() > 0.9
    scale, _ = output_grid(kernel, start, spec, Moments(only_second, only_second))
    nearest = FRACTIONS[np.argmin(np.abs(FRACTIONS - 0.3))]
    assert scale.item() == pytest.approx(nearest)


def test_nothing_varies() -> None:
    """A constant input leaves no error that a bias could not take: the scales stay."""
    spec = TensorSpec(3, True, (1,))
    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    start, _ = kernel_range(kernel, spec, "mse")
    nothing = np.zeros((1, 4, 4))
    scale, _ = output_grid(kernel, start, spec, Moments(nothing, nothing))
    np.testing.assert_array_equal(scale, start)


@pytest.mark.parametrize("weights", [63, 64])
def test_outputs_of_many_weights_have_the_usual_zero_point(weights: int) -> None:
    """Half of the outputs want zero on a level, the other half between two."""
    spec = TensorSpec(2, True, (1,), grid="centred")
    levels = np.array([[-2.0, -1.0, 0.0, 1.0], [-1.5, -0.5, 0.5, 1.5], [-1.0, 0.0, 1.0, 2.0]])
    random = np.random.default_rng(0)
    kernel = np.stack([random.choice(of, weights) for of in levels[[0, 1, 1, 2]]], axis=1)
    kernel[0] = levels[[0, 1, 1, 2], [0, 0, 0, 3]]  # the widest is there
    start, _ = kernel_range(kernel, spec, "mse")
    scale, zero_point = output_grid(kernel, start, spec, Moments(np.eye(weights)[None], 0.0))  # type: ignore[arg-type]
    wanted = [0.0, -0.5, -0.5, -1.0] if weights < MANY_WEIGHTS else [-0.5] * 4
    np.testing.assert_array_equal(zero_point, [wanted])
    if weights < MANY_WEIGHTS:
        np.testing.assert_allclose(scale, 1.0, rtol=0.02)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_device_agrees(bits: int, tmp_path: Any) -> None:
    model = randomize(residual(tf_keras))
    config = pipelines.ranges_only(bits, weight_range="output", activation_bits=8, input_bits=8)
    qmodel = pipelines.quantized(model, config)
    for name, scale in qmodel.student.values().items():
        if name.endswith("kernel_scale"):
            assert np.isfinite(scale).all()
            assert (scale > 0).all()
    pipelines.prove(qmodel, tmp_path)


@pytest.mark.parametrize("grid", ["midrise", "centred", "narrow"])
def test_weights_of_dead_inputs_do_not_mislead(grid: str) -> None:
    """Half of the hidden units never open. Their weights are small, and no level is near on a grid without zero."""
    network = chain(
        (6,), lambda k: k.Dense(16, activation="relu", name="hidden"), lambda k: k.Dense(8, name="misled"),
        lambda k: k.Dense(3, name="last"),
    )  # fmt: skip
    model = randomize(network(tf_keras))
    dead = np.arange(16) % 2 == 1
    hidden, misled = model.get_layer("hidden"), model.get_layer("misled")
    hidden.bias.assign(np.where(dead, -1e3, 0.0))
    misled.kernel.assign(np.where(dead[:, None], 1e-3, 1.0) * misled.kernel)
    x = samples(model, 64)[0]
    qmodel = pipelines.quantized(model, pipelines.ranges_only(2, weight_grid=grid), data=x)
    student = qmodel.student

    def off(name: str, scale: np.ndarray, zero: np.ndarray) -> float:
        """Relative squared error of the layer's output, but for its mean."""
        kernel, spec = model.get_layer(name).kernel.numpy(), student.weight_quantizers[name].spec
        codes = np.clip(np.rint(kernel / scale + zero), spec.qmin, spec.qmax)
        arrived = tf_keras.Model(model.inputs, model.get_layer(name).input).predict(x, verbose=0)
        change = arrived @ ((codes - zero) * scale - kernel)
        return float((change - change.mean(0)).var() / (arrived @ kernel).var())

    for name, quantizer in student.weight_quantizers.items():
        kernel = model.get_layer(name).kernel.numpy()
        found = quantizer.scale().numpy(), quantizer.variables["zero_point"].numpy()
        own = kernel_range(kernel, quantizer.spec, "mse")
        if name == "misled" and grid != "narrow":
            assert off(name, *found) < 0.7 * off(name, *own)
        else:
            np.testing.assert_array_equal(found, own)
