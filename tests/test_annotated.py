"""Annotated through tfmot, applied, calibrated, trained, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras

import keras_lowbit
from keras_lowbit import LowBitQuantizeConfig
from keras_lowbit._keras import tfmot_imported_quietly
from keras_lowbit.export.constants import kernel_codes

with tfmot_imported_quietly():
    from tensorflow_model_optimization.quantization.keras import (
        quantize_annotate_layer,
        quantize_apply,
        quantize_scope,
    )

layers = tf_keras.layers


def applied(*calls: Any) -> Any:
    model = networks.randomize(tf_keras.Sequential([tf_keras.Input((8, 8, 2)), *calls]))
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        return quantize_apply(model)


def lowbit(layer: Any, *bits: Any, unsigned: bool = False, grid: str = "narrow") -> Any:
    config = LowBitQuantizeConfig(*bits, unsigned, weight_grid=grid)
    return quantize_annotate_layer(layer, config)


def calls(grid: str = "narrow") -> list[Any]:
    return [
        lowbit(layers.Conv2D(5, 3, use_bias=False, name="conv"), 3, None, grid=grid),
        lowbit(layers.BatchNormalization(name="norm"), None, None),
        lowbit(layers.ReLU(name="relu"), None, 4, unsigned=True),
        lowbit(
            layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            4,
            8,
            unsigned=True,
            grid=grid,
        ),
        layers.Flatten(name="flat"),
        lowbit(layers.Dense(3, activation="softmax", name="dense"), 2, None, grid=grid),
    ]


@pytest.fixture(scope="module", params=["narrow", "midrise", "centred"])
def trained(request: pytest.FixtureRequest) -> tuple[Any, np.ndarray]:
    model = applied(*calls(request.param))
    model.get_layer("quant_norm").layer.gamma.assign([-1.2, 0.7, 1.5, 0.0, -0.3])
    x = networks.samples(model, 96)[0]
    keras_lowbit.calibrate(model, x)
    model.compile(tf_keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x, (x.mean((1, 2, 3)) > 0).astype(int), epochs=2, batch_size=32, verbose=0)
    return model, x


def test_what_was_trained_is_exported(trained: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    model, x = trained
    before = model.get_weights()
    qmodel = keras_lowbit.from_annotated(model, x)
    assert [q.spec.bits for q in qmodel.student.weight_quantizers.values()] == [3, 4, 2]
    values = qmodel.student.values()
    signs = np.sign(model.get_layer("quant_norm").layer.gamma.numpy())
    for wrapper in model.layers:
        for kernel, quantizer, variables in getattr(wrapper, "_weight_vars", ()):
            name = wrapper.layer.name
            levels = quantizer(kernel, False, variables).numpy() / quantizer.scale().numpy()
            levels *= signs if name == "conv" else 1
            codes = kernel_codes(name, quantizer.spec, values)
            zero = values[f"{name}/kernel_zero_point"]
            kept = (levels != 0) | (zero % 1 == 0)
            expected = np.rint(levels + zero)
            np.testing.assert_array_equal(codes[kept], expected[kept])
    known = model.get_layer("quant_relu").quantize_config.output_quantizer
    assert values["relu/output_scale"] == known.scale().numpy()
    assert qmodel.student.placement.activations["relu"].bits == 4
    assert qmodel.notes["relu"] == qmodel.notes["depthwise_relu"] == "range as trained"
    assert "not annotated" in qmodel.notes["dense"]
    pipelines.prove(qmodel, tmp_path)
    np.testing.assert_allclose(
        qmodel.model.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.03
    )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    qmodel.save(tmp_path / "saved")
    loaded = keras_lowbit.load(tmp_path / "saved")
    np.testing.assert_array_equal(*(networks.outputs(q.model, [x])[0] for q in (loaded, qmodel)))


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_ranges_that_one_grid_has_to_hold(factor: float) -> None:
    """Behind a Concatenate there is one grid: the trained range of one branch would clip the other."""
    left, right = tf_keras.Input((4,), name="left"), tf_keras.Input((4,), name="right")
    branches = [
        lowbit(layers.Dense(3, activation="relu", name=f"{side}_branch"), 4, 8, unsigned=True)(x)
        for side, x in (("left", left), ("right", right))
    ]
    joined = lowbit(layers.Dense(2, name="head"), 4, None)(layers.Concatenate()(branches))
    plain = networks.randomize(tf_keras.Model([left, right], joined))
    inner = [getattr(layer, "layer", layer) for layer in plain.layers]
    [right_branch] = [layer for layer in inner if layer.name == "right_branch"]
    right_branch.kernel.assign(right_branch.kernel * factor)
    with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
        model = quantize_apply(plain)
    x = networks.samples(model, 96)
    keras_lowbit.calibrate(model, x)
    qmodel = keras_lowbit.from_annotated(model, x)
    assert "tensors of other ranges share it" in qmodel.notes["left_branch_relu"]
    # Not beside the annotated model: tfmot's own quantizer of a Concatenate clips it at 6.
    received, expected = (of.predict(x, verbose=0) for of in (qmodel.model, qmodel.teacher))
    np.testing.assert_allclose(received, expected, atol=0.1 * np.abs(expected).max())


def test_what_cannot_be_exported_is_refused() -> None:
    x = np.random.default_rng(1).normal(size=(64, 8, 8, 2)).astype(np.float32)
    with pytest.raises(ValueError, match="quantize_apply returned is expected.*Sequential"):
        keras_lowbit.from_annotated(tf_keras.Sequential([layers.Dense(2)]), x)
    with pytest.raises(ValueError, match=r"no range yet: call keras_lowbit.calibrate.*'conv'"):
        keras_lowbit.from_annotated(applied(*calls()), x)
    model = applied(lowbit(layers.Conv2D(3, 3, name="float"), None, 8))
    keras_lowbit.calibrate(model, x)
    with pytest.raises(ValueError, match="`seed` must be.*seed=-1"):
        keras_lowbit.from_annotated(model, x, seed=-1)
    with pytest.raises(ValueError, match=r"must be annotated.*Received: \['float'\]"):
        keras_lowbit.from_annotated(model, x)
    other = layers.Conv2D(3, 3, name="other")
    for call in (quantize_annotate_layer(other), other):
        model = applied(call, lowbit(layers.Conv2D(3, 3, name="four"), 4, 8))
        with pytest.raises(ValueError, match="'other' is quantized by tfmot's own configuration"):
            keras_lowbit.from_annotated(model, x)
    model = applied(
        lowbit(layers.ReLU(name="relu"), None, 8),
        lowbit(layers.BatchNormalization(name="norm"), None, None),
        lowbit(layers.Conv2D(3, 1, name="conv"), 4, 8),
    )
    keras_lowbit.calibrate(model, x)
    with pytest.raises(ValueError, match="batch norm before a layer.*'conv'"):
        keras_lowbit.from_annotated(model, x)
    model = applied(
        lowbit(layers.Conv2D(3, 3, name="first"), 4, 8),
        lowbit(layers.Conv2D(3, 3, name="second"), 4, 8, grid="full"),
    )
    keras_lowbit.calibrate(model, x)
    with pytest.raises(ValueError, match=r"one `weight_grid`.*\['full', 'narrow'\]"):
        keras_lowbit.from_annotated(model, x)
    model = applied(
        lowbit(layers.Conv2D(3, 3, name="conv"), 4, None, grid="full"),
        lowbit(layers.BatchNormalization(name="norm"), None, 8),
    )
    model.get_layer("quant_norm").layer.gamma.assign([1.0, -1.0, 1.0])
    keras_lowbit.calibrate(model, x)
    with pytest.raises(ValueError, match=r"negative gamma.*'conv'"):
        keras_lowbit.from_annotated(model, x)


def test_the_range_before_a_batch_norm_is_not_that_behind_it() -> None:
    model = applied(
        lowbit(layers.Conv2D(4, 3, name="front"), 4, 8),
        lowbit(layers.BatchNormalization(name="norm"), None, None),
        lowbit(layers.Conv2D(3, 3, name="back"), 4, 8),
    )
    model.get_layer("quant_norm").layer.moving_variance.assign([1e-4] * 4)
    x = networks.samples(model, 64)[0]
    keras_lowbit.calibrate(model, x)
    qmodel = keras_lowbit.from_annotated(model, x)
    assert "a batch norm follows" in qmodel.notes["front"]
    received, expected = (of.predict(x, verbose=0) for of in (qmodel.model, qmodel.teacher))
    np.testing.assert_allclose(received, expected, atol=0.2 * np.abs(expected).max())


def test_layers_that_were_not_annotated_keep_their_weights() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (64, 8, 8, 2)).astype("float32")

    def model() -> Any:
        standard = layers.Normalization(axis=None, name="standard")
        standard.adapt(x)
        annotated = tf_keras.Sequential([
            tf_keras.Input((8, 8, 2)), standard,
            lowbit(layers.Conv2D(5, 3, name="conv"), 8, None),
            layers.BatchNormalization(name="norm"),
            lowbit(layers.ReLU(name="relu"), None, 8, unsigned=True),
            layers.Flatten(), lowbit(layers.Dense(3, name="dense"), 8, None),
        ])  # fmt: skip
        statistics = [np.full(5, value) for value in (1.7, -0.4, 0.3, 2.5)]
        annotated.get_layer("norm").set_weights(statistics)
        with quantize_scope({"LowBitQuantizeConfig": LowBitQuantizeConfig}):
            return quantize_apply(annotated)

    idle, used = model(), model()
    used.get_layer("standard").finalize_state()  # tfmot does not
    for one in (idle, used):
        keras_lowbit.calibrate(one, x)
    with pytest.raises(ValueError, match=r"not in use.*'standard'\).finalize_state.*Received: "):
        keras_lowbit.from_annotated(idle, x)
    qmodel = keras_lowbit.from_annotated(used, x)
    received, expected = (of.predict(x, verbose=0) for of in (qmodel.model, used))
    np.testing.assert_allclose(received, expected, atol=0.05 * np.abs(expected).max())


def test_a_layer_named_like_the_one_before_it_keeps_its_range() -> None:
    model = applied(
        layers.Flatten(name="flat"),
        lowbit(layers.Dense(5, name="dense"), 4, 4),
        lowbit(layers.Dense(3, name="dense_1"), 4, None),
    )
    x = networks.samples(model, 64)[0]
    keras_lowbit.calibrate(model, x)
    qmodel = keras_lowbit.from_annotated(model, x)
    assert qmodel.notes["dense"] == "range as trained"
    assert qmodel.student.placement.activations["dense"].bits == 4


def test_a_rescaling_before_what_was_annotated() -> None:
    """One that becomes a layer gets a range of its own; a negative factor of some inputs is refused."""
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")

    def model(padding: str, scale: list[float]) -> Any:
        annotated = applied(
            layers.Rescaling(scale, offset=-1.0),
            lowbit(layers.Conv2D(3, 3, padding=padding, name="conv"), 2, 8, grid="centred"),
        )
        keras_lowbit.calibrate(annotated, x)
        return annotated

    behind = model("same", [0.5, 0.25])
    qmodel = keras_lowbit.from_annotated(behind, x)
    expected = behind.predict(x, verbose=0)
    received = qmodel.model.predict(x, verbose=0)
    assert np.abs(received - expected).max() < 0.05 * np.abs(expected).max()
    with pytest.raises(
        ValueError, match="rescaling by a negative factor.*the layer 'conv'.*'centred'"
    ):
        keras_lowbit.from_annotated(model("valid", [-0.5, 0.5]), x)
