"""The QuantizeConfig, used by hand through tfmot, and the ranges it gets."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
import tf_keras

from keras_lowbit._keras import tfmot_imported_quietly
from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.calibrate import calibrate
from keras_lowbit.quantizers.quantize_configs import LowBitQuantizeConfig, quantizers_of
from keras_lowbit.quantizers.ranges import kernel_range
from keras_lowbit.quantizers.tensor_quantizers import ActivationQuantizer, WeightQuantizer

with tfmot_imported_quietly():
    from tensorflow_model_optimization.quantization.keras import (
        quantize_annotate_layer,
        quantize_apply,
        quantize_scope,
    )


def annotated(config: Any = LowBitQuantizeConfig) -> Any:
    """A conv, a depthwise and a dense layer, annotated by hand; random weights."""
    layers = tf_keras.layers
    calls = [
        quantize_annotate_layer(
            layers.Conv2D(5, 3, activation="relu", name="conv"),
            config(weight_bits=3, unsigned=True),
        ),
        quantize_annotate_layer(
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"), config(weight_bits=4)
        ),
        layers.Flatten(),
        quantize_annotate_layer(layers.Dense(3, name="dense"), config(2, None)),
    ]
    return networks.randomize(tf_keras.Sequential([tf_keras.Input((8, 8, 2)), *calls]))


@pytest.fixture(scope="module")
def applied() -> Any:
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        model = quantize_apply(annotated())
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype(np.float32)
    calibrate(model, [20 * x])
    return model


def test_every_kernel_has_its_own_grid(applied: Any) -> None:
    weights, activations = quantizers_of(applied)
    assert [q.spec for _, q in weights] == [
        TensorSpec(3, True, (3,)), TensorSpec(4, True, (2, 3)), TensorSpec(2, True, (1,)),
    ]  # fmt: skip
    assert len({id(q) for _, q in weights}) == 3
    assert [q.spec for q in activations] == [
        TensorSpec(8, False, unsigned=True), TensorSpec(8, False),
    ]  # fmt: skip


def test_the_wrapped_layers_use_codes_times_scales(applied: Any) -> None:
    weights, _ = quantizers_of(applied)
    for kernel, quantizer in weights:
        scale = quantizer.variables["scale"].numpy()
        assert scale.shape == quantizer.spec.scale_shape(tuple(kernel.shape))
        np.testing.assert_array_equal(scale, kernel_range(kernel.numpy(), quantizer.spec, "mse")[0])
        codes = quantizer(kernel, False, quantizer.variables).numpy() / scale
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        assert np.abs(np.rint(codes)).max() <= quantizer.spec.qmax
        assert len(np.unique(np.rint(codes))) > 2


def test_the_output_is_on_the_grid(applied: Any) -> None:
    _, activations = quantizers_of(applied)
    part = tf_keras.Model(applied.input, applied.get_layer("quant_conv").output)
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype(np.float32)
    codes = part(20 * x).numpy() / activations[0].variables["scale"].numpy()
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert codes.min() == 0
    assert 50 < codes.max() <= 255


def test_the_network_input_is_calibrated_too(applied: Any) -> None:
    x = 20 * np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype(np.float32)
    part = tf_keras.Model(applied.input, applied.layers[0].output)
    np.testing.assert_allclose(part(x), x, atol=(x.max() - x.min()) / 255)


def test_one_configuration_given_to_several_layers_is_not_shared() -> None:
    shared = LowBitQuantizeConfig(4, 8)
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        model = quantize_apply(annotated(lambda *a, **k: shared))
    weights, activations = quantizers_of(model)
    assert len({id(q) for _, q in weights}) == len(weights) == 3
    assert [q.spec.axis for _, q in weights] == [(3,), (2, 3), (1,)]
    assert len({id(q.variables["scale"]) for _, q in weights}) == 3
    assert len(activations) == len({id(q.variables["scale"]) for q in activations}) == 3


def test_models_of_wrapped_layers_are_rebuilt_from_their_configuration(applied: Any) -> None:
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        again = tf_keras.models.clone_model(applied)
    again.set_weights(applied.get_weights())
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype(np.float32)
    np.testing.assert_array_equal(again(x), applied(x))


def test_configurations_round_trip() -> None:
    for config in (LowBitQuantizeConfig(), LowBitQuantizeConfig(None, 3, True),
                   LowBitQuantizeConfig(2, None)):  # fmt: skip
        again = LowBitQuantizeConfig.from_config(config.get_config())
        assert again.get_config() == config.get_config()
    numpys = LowBitQuantizeConfig(np.int64(3), np.int64(5))
    assert repr(numpys.get_config()) == repr(LowBitQuantizeConfig(3, 5).get_config())
    for quantizer in (WeightQuantizer(3, (2, 3)), ActivationQuantizer(5, True)):
        again = type(quantizer).from_config(quantizer.get_config())
        assert again == quantizer
        assert again.spec == quantizer.spec
    assert WeightQuantizer(3, (3,)) != WeightQuantizer(4, (3,))
    assert WeightQuantizer(3, (3,)) != ActivationQuantizer(3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="bits=9"):
        LowBitQuantizeConfig(weight_bits=9)
    with pytest.raises(ValueError, match="bits=1"):
        LowBitQuantizeConfig(activation_bits=1)
    lstm = tf_keras.layers.LSTM(2, name="memory")
    lstm.build((None, 3, 2))
    with pytest.raises(ValueError, match=r"LSTM layers is not known.*'memory'"):
        LowBitQuantizeConfig().get_weights_and_quantizers(lstm)


def test_an_uncalibrated_model_fails_loudly() -> None:
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        model = quantize_apply(annotated())
    assert np.isnan(model(np.zeros((1, 8, 8, 2), np.float32))).all()


def test_non_finite_activations_are_refused() -> None:
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        model = quantize_apply(annotated())
    kernel, _ = quantizers_of(model)[0][0]
    kernel.assign(np.full(kernel.shape, np.inf))
    with pytest.raises(ValueError, match="NaN or infinite"):
        calibrate(model, [np.ones((4, 8, 8, 2), np.float32)])
    with pytest.raises(ValueError, match=r"Ranges need samples.*\(0, 8, 8, 2\)"):
        calibrate(model, [np.ones((0, 8, 8, 2), np.float32)])
    weights, activations = quantizers_of(model)
    assert all(np.isnan(q.scale().numpy()).all() for q in [*(w for _, w in weights), *activations])
