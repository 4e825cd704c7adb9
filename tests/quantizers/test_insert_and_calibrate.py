"""The student: its structure, its variables, and the ranges it gets from data."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import build
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm
from keras_lowbit.quantizers import calibrate as calibrate_module
from keras_lowbit.quantizers.calibrate import calibrate
from keras_lowbit.quantizers.insert import Student, insert_quantizers
from keras_lowbit.quantizers.placement import insert_requantization, place
from keras_lowbit.quantizers.ranges import activation_range, kernel_range
from keras_lowbit.reader import read

X = np.random.default_rng(0).normal(size=(300, 8, 8, 3)).astype(np.float32)


def make_student(model: Any, config: PTQConfig) -> Student:
    graph = insert_requantization(fold_batch_norm(read(model))[0], config)
    return insert_quantizers(graph, place(graph, config))


@pytest.fixture(scope="module")
def float_model() -> Any:
    return networks.randomize(networks.residual(tf_keras))


@pytest.fixture(scope="module")
def student(float_model: Any) -> Student:
    result = make_student(float_model, PTQConfig(weight_bits=4, activation_bits=5))
    calibrate(result.model, [X], "mse", "minmax")
    return result


def test_scales_are_unknown_before_calibration(float_model: Any) -> None:
    fresh = make_student(float_model, PTQConfig())
    unknown = {name for name, value in fresh.values().items() if np.isnan(value).any()}
    assert unknown == {
        name for name in fresh.values() if "_scale" in name or "output_zero_point" in name
    } - {"classifier_softmax/output_scale", "classifier_softmax/output_zero_point"}


def test_ranges_are_those_of_the_float_activations(student: Student) -> None:
    teacher = build(student.graph)
    for name, quantizer in student.activation_quantizers.items():
        values = quantizer.variables
        scale, zero_point = values["scale"].numpy(), values["zero_point"].numpy()
        if name == "classifier_softmax":
            assert (scale, zero_point) == (1 / 256, 0)
            continue
        seen = [tf_keras.Model(teacher.input, teacher.get_layer(n).output)(X).numpy()
                for n, group in student.placement.groups.items() if group == name]  # fmt: skip
        low, high = min(s.min() for s in seen), max(s.max() for s in seen)
        expected = activation_range(np.zeros(0), low, high, quantizer.spec, "minmax")
        np.testing.assert_allclose(scale, expected[0], rtol=1e-5)
        assert zero_point == expected[1]
    for name, weight in student.weight_quantizers.items():
        kernel = student.graph[name].weights["kernel"]
        np.testing.assert_array_equal(
            weight.variables["scale"], kernel_range(kernel, weight.spec, "mse")[0]
        )


def test_the_sample_of_values_is_bounded_and_from_all_batches(
    float_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    original = calibrate_module.activation_range

    def spying(values: np.ndarray, *arguments: Any) -> Any:
        lengths.append(len(values))
        return original(values, *arguments)

    monkeypatch.setattr(calibrate_module, "activation_range", spying)
    monkeypatch.setattr(calibrate_module, "SAMPLED_VALUES", 3000)
    fresh = make_student(float_model, PTQConfig())
    calibrate(fresh.model, [X])
    pooled = 2  # a pool and its input pass the same quantizer
    assert max(lengths) <= pooled * (3000 + 3)
    assert min(lengths) >= 300 * 4  # the logits, all of them


def test_calibration_is_reproducible(float_model: Any) -> None:
    values = []
    for _ in range(2):
        fresh = make_student(float_model, PTQConfig.uniform(4))
        calibrate(fresh.model, [X], seed=3)
        values.append(fresh.values())
    assert values[0].keys() == values[1].keys()
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name])


@pytest.mark.parametrize(
    ("inputs", "seed", "message"),
    [
        ({"image": X}, 0, "per input of the model.*Received: .*dict"),
        (tf.data.Dataset.from_tensor_slices(X), 0, "Received: .*Dataset"),
        (None, 0, "Received: .*NoneType"),
        ([], 0, r"Received: \[\]"),
        ([X, X], 0, "per input of the model"),
        (X[:0], 0, "one at least"),
        (X[..., 0], 0, r"Received: \[\(300"),
        (X, -1, "`seed` must be an integer of at least 0"),
    ],
    ids=["dict", "dataset", "none", "empty", "two", "no samples", "flat", "seed"],
)  # fmt: skip
def test_samples_that_do_not_fit(float_model: Any, inputs: Any, seed: int, message: str) -> None:
    fresh = make_student(float_model, PTQConfig())
    with pytest.raises(ValueError, match=message):
        calibrate(fresh.model, inputs, seed=seed)
    assert all(np.isnan(q.scale()).all() for q in fresh.weight_quantizers.values())


def test_a_model_without_quantizers_is_not_calibrated(float_model: Any) -> None:
    for model in (float_model, "model.keras"):
        with pytest.raises(ValueError, match="annotated with .*LowBitQuantizeConfig.*Received: "):
            calibrate(model, X)


def test_eight_bits_are_close_to_float(float_model: Any) -> None:
    fresh = make_student(float_model, PTQConfig(weight_bits=8, activation_bits=8))
    calibrate(fresh.model, [X])
    expected = networks.outputs(float_model, [X])[0]
    np.testing.assert_allclose(fresh.model(X), expected, atol=0.05)
    coarse = make_student(float_model, PTQConfig.uniform(2, weight_grid="narrow"))
    calibrate(coarse.model, [X])
    error = np.abs(coarse.model(X) - expected).mean()
    assert error > 5 * np.abs(fresh.model(X) - expected).mean()


def test_every_quantized_tensor_is_on_its_grid(student: Student) -> None:
    for name, group in student.placement.groups.items():
        values = tf_keras.Model(student.model.input, student.tensor(name))(X[:32]).numpy()
        quantizer = student.activation_quantizers[group]
        scale, zero_point = (quantizer.variables[k].numpy() for k in ("scale", "zero_point"))
        codes = values / scale + zero_point
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
        assert quantizer.spec.qmin <= np.rint(codes.min())
        assert np.rint(codes.max()) <= quantizer.spec.qmax


def test_values_are_copied_out_and_assigned(student: Student) -> None:
    before = student.values()
    expected = student.model(X[:8]).numpy()
    assert {"stem/kernel", "stem/bias", "stem/kernel_scale", "stem_relu/output_scale"} <= set(
        before
    )
    student.assign({name: value * 2 for name, value in before.items()})
    assert np.abs(student.model(X[:8]).numpy() - expected).max() > 1e-3
    student.assign(before)
    np.testing.assert_array_equal(student.model(X[:8]), expected)


def test_a_quantizer_follows_a_rule_only_inside_the_context(student: Student) -> None:
    quantizer = student.activation_quantizers["stem_relu"]
    expected = student.model(X[:8]).numpy()
    with quantizer.following(lambda x: 0.0 * x):
        assert np.abs(student.model(X[:8]).numpy() - expected).max() > 1e-3
    np.testing.assert_array_equal(student.model(X[:8]), expected)
    with pytest.raises(RuntimeError), quantizer.following(lambda x: 0.0 * x):
        raise RuntimeError
    np.testing.assert_array_equal(student.model(X[:8]), expected)


@pytest.mark.parametrize("argument", ["weight_range", "activation_range_method"])
@pytest.mark.parametrize("method", ["output", "maximum"])
def test_ranges_that_no_tensor_alone_can_tell_are_refused(
    argument: str, method: str, student: Student
) -> None:
    with pytest.raises(ValueError, match=f"use `quantize`.*Received: '{method}'"):
        calibrate_module.calibrate(student.model, X[:8], **{argument: method})


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_a_global_dtype_policy_changes_nothing(
    float_model: Any, student: Student, policy: str
) -> None:
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        again = make_student(float_model, PTQConfig(weight_bits=4, activation_bits=5))
        calibrate(again.model, [X], "mse", "minmax")
        actual = again.model(X[:8])
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    assert actual.dtype == "float32"
    np.testing.assert_array_equal(actual, student.model(X[:8]))


def test_concatenated_tensors_pass_one_quantizer() -> None:
    def network(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((8, 8, 3), name="image")
        left = layers.Conv2D(3, 1, activation="relu", name="left")(image)
        right = layers.Conv2D(3, 1, name="right")(image)
        joined = layers.Concatenate(name="joined")([left, right])
        return keras.Model(image, layers.Conv2D(2, 1, name="last")(joined))

    model = networks.randomize(network(tf_keras))
    fresh = make_student(model, PTQConfig(activation_bits=8, weight_bits=8))
    calibrate(fresh.model, [X])
    assert set(fresh.activation_quantizers) == {"image", "left_relu", "last"}
    np.testing.assert_allclose(fresh.model(X[:8]), networks.outputs(model, [X[:8]])[0], atol=0.1)


def test_several_inputs() -> None:
    def network(keras: Any) -> Any:
        first, second = keras.Input((4,), name="first"), keras.Input((6,), name="second")
        hidden = keras.layers.Dense(4, name="dense")(second)
        return keras.Model([first, second], keras.layers.Add(name="sum")([first, hidden]))

    model = networks.randomize(network(tf_keras))
    inputs = networks.samples(model, 200)
    fresh = make_student(model, PTQConfig(weight_bits=8))
    calibrate(fresh.model, inputs)
    expected = networks.outputs(model, inputs)[0]
    np.testing.assert_allclose(fresh.model(inputs), expected, atol=0.15)
