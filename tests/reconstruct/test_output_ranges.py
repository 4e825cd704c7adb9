"""Ranges by the error of the network's output."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pipelines
import pytest
import tf_keras
from networks import chain, randomize, residual, samples

from keras_lowbit import PTQConfig
from keras_lowbit.reconstruct.activations import unchanged
from keras_lowbit.reconstruct.output_ranges import match_output


def one_loud_feature() -> tuple[Any, np.ndarray]:
    """Eight features; the first is a hundred times as large as the others and hardly counts."""
    model = chain((8,), lambda k: k.Dense(4, name="layer"))(tf_keras)
    randomize(model)
    kernel, bias = model.get_layer("layer").get_weights()
    kernel[0] = 1e-4
    model.get_layer("layer").set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    x[:, 0] *= 100
    return model, x


def output_error(qmodel: Any, x: np.ndarray) -> float:
    wanted = qmodel.teacher.predict(x, verbose=0)
    return float(((qmodel.model.predict(x, verbose=0) - wanted) ** 2).mean() / (wanted**2).mean())


def errors_alone(qmodel: Any, x: list[np.ndarray]) -> dict[str, float]:
    """By activation tensor: the squared error of the outputs where everything else is float."""
    student = qmodel.student
    quantizers = student.activation_quantizers
    wanted = qmodel.teacher(x).numpy()
    errors = {}
    for name, own in quantizers.items():
        with contextlib.ExitStack() as floats:
            for other in (*student.weight_quantizers.values(), *quantizers.values()):
                if other is not own:
                    floats.enter_context(other.following(unchanged))
            errors[name] = float(((student.model(x).numpy() - wanted) ** 2).mean())
    return errors


def config(**fields: Any) -> PTQConfig:
    return pipelines.ranges_only(4, weight_bits=8, **fields)


def test_a_loud_feature_that_does_not_count() -> None:
    """The MSE range keeps the loud feature and loses all others; the output says what counts."""
    model, x = one_loud_feature()
    by_tensor = pipelines.quantized(model, config(), data=x)
    by_output = pipelines.quantized(model, config(activation_range="output"), data=x)
    (name,) = by_tensor.student.graph.inputs
    ends = [
        15 * float(qmodel.student.values()[f"{name}/output_scale"])
        for qmodel in (by_tensor, by_output)
    ]
    assert ends[0] > 100
    assert ends[1] < 12
    assert output_error(by_tensor, x) > 0.3
    assert output_error(by_output, x) < 0.05


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_only_low_bit_ranges_move_and_never_for_the_worse(bits: int) -> None:
    model = randomize(residual(tf_keras))
    x = samples(model, 64)
    fields = {"input_bits": bits, "linear_activation_bits": 8, "weight_bits": 8}
    start = pipelines.quantized(model, pipelines.ranges_only(bits, **fields), data=x[0])
    before, worst = start.student.values(), errors_alone(start, x)
    match_output(start.student, dict(zip(start.student.graph.inputs, x, strict=True)))
    for name, error in errors_alone(start, x).items():
        assert error <= worst[name] * (1 + 1e-6), name
    for name, value in start.student.values().items():
        group, _, what = name.rpartition("/")
        low = what.startswith("output") and start.student.placement.activations[group].bits < 8
        assert low or np.array_equal(value, before[name]), name
        assert np.isfinite(value).all()
        if what == "output_scale":
            assert value > 0
    moved = any(
        not np.array_equal(value, before[name]) for name, value in start.student.values().items()
    )
    assert moved == (bits < 8)
    quantizers = start.student
    assert all(q.rule is None for q in quantizers.activation_quantizers.values())
    assert all(q.rule is None for q in quantizers.weight_quantizers.values())


def test_zero_points_stay_on_the_grid_and_the_device_agrees(tmp_path: Any) -> None:
    model = randomize(residual(tf_keras))
    qmodel = pipelines.quantized(model, pipelines.ranges_only(3, activation_range="output"))
    for name, spec in qmodel.student.placement.activations.items():
        zero_point = float(qmodel.student.variables()[f"{name}/output_zero_point"])
        assert zero_point == round(zero_point)
        assert spec.qmin <= zero_point <= spec.qmax
        if spec.unsigned:
            assert zero_point == 0
    pipelines.prove(qmodel, tmp_path)


def test_a_constant_network_keeps_its_ranges() -> None:
    """Dead channels: no output error anywhere, nothing to walk to."""
    model = chain((4,), lambda k: k.Dense(3, name="layer"))(tf_keras)
    model.get_layer("layer").set_weights([np.zeros((4, 3), np.float32), np.ones(3, np.float32)])
    x = samples(model, 32)[0]
    first, second = (
        pipelines.quantized(model, config(activation_range=method), data=x).student.values()
        for method in ("mse", "output")
    )
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], name)
