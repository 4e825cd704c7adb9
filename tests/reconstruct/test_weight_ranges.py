"""Weight scales by the error of the layer's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras
from networks import chain, randomize, residual, samples

from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.ranges import kernel_range
from keras_lowbit.reader import read
from keras_lowbit.reconstruct.activations import evenly
from keras_lowbit.reconstruct.moments import Moments, input_covariance
from keras_lowbit.reconstruct.weight_ranges import FRACTIONS, input_covariances, output_scale

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


@pytest.mark.parametrize("kind", LAYERS)
def test_the_error_it_minimises_is_that_of_the_output(kind: str) -> None:
    """The layer itself is run with what rounding changes of its kernel; a bias makes up for the mean."""
    qmodel, model, x = one_layer(kind)
    student = qmodel.student
    ((name, covariance),) = input_covariances(
        student.graph, student.placement, qmodel.teacher, {student.graph.inputs[0]: x}
    )
    layer = model.get_layer("layer")
    kernel, *bias = layer.get_weights()
    spec = student.weight_quantizers[name].spec
    start = kernel_range(kernel, spec, "mse")
    found = output_scale(kernel, *start, spec, covariance)
    assert found.dtype == np.float32
    assert found.shape == start[0].shape
    zero = start[1].astype(np.float64)

    def error(scale: np.ndarray) -> np.ndarray:
        codes = np.clip(np.rint(kernel / scale + zero), spec.qmin, spec.qmax)
        layer.set_weights([kernel - (codes - zero) * scale, *(0 * b for b in bias)])
        off = layer(x).numpy().astype(np.float64)
        off = off.reshape(-1, off.shape[-1])
        return off.var(axis=0) if bias else np.square(off).mean(axis=0)

    axes = tuple(i for i in range(kernel.ndim) if i not in spec.axis)
    largest = np.abs(kernel).max(axis=axes, keepdims=True).astype(np.float64)
    widest = largest / np.minimum(spec.qmax - zero, zero - spec.qmin)
    tried = [error((f * widest).astype(np.float32)) for f in FRACTIONS]
    least = np.minimum(np.min(tried, axis=0), error(start[0]))
    np.testing.assert_allclose(error(found), least, rtol=0.02)
    assert (error(found) < 0.99 * error(start[0])).any()


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
    start = kernel_range(kernel, spec, "mse")
    assert start[0].item() > 0.9
    scale = output_scale(kernel, *start, spec, Moments(only_second, only_second)).item()
    nearest = FRACTIONS[np.argmin(np.abs(FRACTIONS - 0.3))]
    assert scale == pytest.approx(nearest)


def test_nothing_varies() -> None:
    """A constant input leaves no error that a bias could not take: the scales stay."""
    spec = TensorSpec(3, True, (1,))
    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    start = kernel_range(kernel, spec, "mse")
    nothing = np.zeros((1, 4, 4))
    np.testing.assert_array_equal(
        output_scale(kernel, *start, spec, Moments(nothing, nothing)), start[0]
    )


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


@pytest.mark.parametrize("grid", ["midrise", "narrow"])
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

    def off(name: str, scale: np.ndarray) -> float:
        """Relative squared error of the layer's output, but for its mean."""
        kernel, spec = model.get_layer(name).kernel.numpy(), student.weight_quantizers[name].spec
        zero = spec.zero_points[0]
        codes = np.clip(np.rint(kernel / scale + zero), spec.qmin, spec.qmax)
        arrived = tf_keras.Model(model.inputs, model.get_layer(name).input).predict(x, verbose=0)
        change = arrived @ ((codes - zero) * scale - kernel)
        return float((change - change.mean(0)).var() / (arrived @ kernel).var())

    for name, quantizer in student.weight_quantizers.items():
        kernel, found = model.get_layer(name).kernel.numpy(), quantizer.scale().numpy()
        own, _ = kernel_range(kernel, quantizer.spec, "mse")
        if name == "misled" and grid == "midrise":
            assert off(name, found) < 0.7 * off(name, own)
        else:
            np.testing.assert_array_equal(found, own)
