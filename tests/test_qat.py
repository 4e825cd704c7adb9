"""``fit`` with labels after ``quantize``: what it trains, and that what it has learned is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras

import keras_lowbit
from keras_lowbit.export.constants import kernel_codes

network = networks.chain(
    (6, 6, 2), lambda k: k.Conv2D(4, 3, use_bias=False, name="first"),
    lambda k: k.BatchNormalization(name="norm"), lambda k: k.ReLU(name="first_relu"),
    lambda k: k.AveragePooling2D(name="pool"), lambda k: k.Flatten(name="flat"),
    lambda k: k.Dense(2, activation="softmax", name="last"),
)  # fmt: skip


def quantized(bits: int = 3) -> tuple[keras_lowbit.QuantizedModel, np.ndarray, np.ndarray]:
    """A small classifier, and samples with labels that it does not know yet."""
    model = networks.randomize(network(tf_keras))
    x = networks.samples(model, 64)[0]
    return (
        pipelines.quantized(model, pipelines.ranges_only(bits), data=x),
        x,
        (x[:, :3].mean((1, 2, 3)) > x[:, 3:].mean((1, 2, 3))).astype(int),
    )


def fitted(optimizer: Any) -> tuple[Any, np.ndarray, dict[str, np.ndarray], float]:
    qmodel, x, labels = quantized()
    before = qmodel.student.values()
    qmodel.model.compile(optimizer, "sparse_categorical_crossentropy")
    first = qmodel.model.evaluate(x, labels, verbose=0)
    qmodel.model.fit(x, labels, epochs=8, batch_size=16, shuffle=False, verbose=0)
    return qmodel, x, before, qmodel.model.evaluate(x, labels, verbose=0) - first


def test_kernels_biases_and_scales_learn_and_the_file_has_them(tmp_path: Path) -> None:
    teacher = networks.outputs(quantized()[0].teacher, [quantized()[1]])[0]
    qmodel, x, before, change = fitted(tf_keras.optimizers.Adam(0.01))
    assert change < -0.02
    student, after = qmodel.student, qmodel.student.values()
    for name, value in after.items():
        learns = not name.endswith("zero_point") and name != "last_softmax/output_scale"
        assert np.any(value != before[name]) == learns, name
        assert not name.endswith("_scale") or (value > 0).all()
    assert after["last_softmax/output_scale"] == np.float32(1 / 256)
    # The kernels are off their grids, and the file has the codes that the simulation rounds them to.
    for name, quantizer in student.weight_quantizers.items():
        codes = kernel_codes(name, quantizer.spec, after).astype(np.float32)
        levels = codes - after[f"{name}/kernel_zero_point"]
        assert np.abs(after[f"{name}/kernel"] / quantizer.scale() - levels).max() > 0.01
        rounded = quantizer(student.kernels[name], False, quantizer.variables).numpy()
        np.testing.assert_array_equal(rounded, levels * quantizer.scale().numpy())
    pipelines.prove(qmodel, tmp_path)
    for name, (simulated, reference) in pipelines.codes_by_tensor(qmodel).items():
        if name.startswith("last"):  # logits add up what differs before, and so do probabilities
            assert (simulated.argmax(-1) == reference.argmax(-1)).mean() > 0.9
            continue
        # The simulation rounds once, kernels twice.
        assert (simulated == reference).mean() > 0.8, name
        assert np.abs(simulated - reference).max() <= 1, name
    np.testing.assert_array_equal(networks.outputs(qmodel.teacher, [x])[0], teacher)


def test_saved_and_loaded_after_training(tmp_path: Path) -> None:
    qmodel, x, _, _ = fitted(tf_keras.optimizers.SGD(0.1, momentum=0.9))
    qmodel.save(tmp_path / "saved")
    loaded = keras_lowbit.load(tmp_path / "saved")
    for name, value in loaded.student.values().items():
        np.testing.assert_array_equal(value, qmodel.student.values()[name])
    np.testing.assert_array_equal(*(networks.outputs(q.model, [x])[0] for q in (qmodel, loaded)))
    files = []
    for q in (qmodel, loaded):
        q.export(tmp_path / "m.tflite", overwrite=True)
        files.append((tmp_path / "m.tflite").read_bytes())
    assert files[0] == files[1]


def test_metadata_and_report_say_what_was_changed_since(tmp_path: Path) -> None:
    qmodel, x, labels = quantized()
    qmodel.save(tmp_path / "saved")
    qmodel = keras_lowbit.load(tmp_path / "saved")

    def methods() -> dict[str, str]:
        tensors = qmodel.export(tmp_path / "m.tflite", overwrite=True)["tensors"]
        return {name: tensors[name]["method"] for name in ("first/kernel", "first_relu", "last")}

    made = methods()
    assert qmodel.changed_since == () and "since" not in str(qmodel.report())
    kernel = qmodel.student.kernels["first"]
    kernel.assign(kernel + 0.1)
    assert qmodel.changed_since == ("weight",)
    assert methods() == made | {"first/kernel": made["first/kernel"] + "+changed since"}
    qmodel.model.compile(tf_keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    qmodel.model.fit(x, labels, verbose=0)
    assert qmodel.changed_since == ("weight", "bias", "activation")
    assert methods() == {name: f"{method}+changed since" for name, method in made.items()}
    assert qmodel.report().to_dict()["changed_since"] == ("weight", "bias", "activation")
    assert "every activation were trained or set since" in str(qmodel.report())


def test_changed_biases_are_told(tmp_path: Path) -> None:
    qmodel, _, _ = quantized()
    bias = qmodel.student.biases["last"]
    bias.assign(bias + 1.0)
    assert qmodel.changed_since == ("bias",)
    assert "every bias were trained or set since" in str(qmodel.report())
    tensors = qmodel.export(tmp_path / "m.tflite")["tensors"]
    assert not any("since" in tensor["method"] for tensor in tensors.values())


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "folder"])
def test_files_that_keras_could_not_load_are_not_written(name: str, tmp_path: Path) -> None:
    qmodel, x, labels = quantized()
    with pytest.raises(ValueError, match="QuantizedModel.save.*Received: model.save"):
        qmodel.model.save(tmp_path / name)
    keep = tf_keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True)
    qmodel.model.compile("sgd", "sparse_categorical_crossentropy")
    qmodel.model.fit(x, labels, verbose=0, callbacks=[keep])
    trained = qmodel.student.values()
    again, _, _ = quantized()
    again.model.load_weights(tmp_path / "best.weights.h5")
    for key, value in again.student.values().items():
        np.testing.assert_array_equal(value, trained[key])


def test_relative_adam_of_another_model_is_refused() -> None:
    qmodel, x, labels = quantized()
    other, _, _ = quantized()
    qmodel.model.compile(keras_lowbit.RelativeAdam(other), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="made for another quantized model.*Received: .*kernel"):
        qmodel.model.fit(x, labels, verbose=0)
    with pytest.raises(ValueError, match="what `quantize` or `load` returned.*Functional"):
        keras_lowbit.RelativeAdam(qmodel.model)


@pytest.mark.parametrize(
    "made", [lambda qmodel: "sgd", lambda qmodel: keras_lowbit.RelativeAdam(qmodel)]
)
def test_what_is_frozen_stays(made: Any) -> None:
    qmodel, x, labels = quantized()
    names, values = [weight.name for weight in qmodel.model.weights], qmodel.model.get_weights()
    qmodel.model.get_layer("quantized_first").trainable = False
    assert not any(w.name.startswith("first/") for w in qmodel.model.trainable_weights)
    assert [weight.name for weight in qmodel.model.weights] == names
    qmodel.model.set_weights(values)
    before = qmodel.student.values()
    qmodel.model.compile(made(qmodel), "sparse_categorical_crossentropy")
    qmodel.model.fit(x, labels, verbose=0)
    after = qmodel.student.values()
    moved = {name for name, value in after.items() if np.any(value != before[name])}
    assert {"last/kernel", "last/bias", "last/kernel_scale"} <= moved
    assert not {"first/kernel", "first/bias", "first/kernel_scale"} & moved


def test_relative_adam_trains_a_new_head_alone() -> None:
    qmodel, x, labels = quantized()
    base = tf_keras.Model(qmodel.model.input, qmodel.student.tensor("flat"), trainable=False)
    head = tf_keras.layers.Dense(2, activation="softmax", name="head")
    model = tf_keras.Sequential([base, head])
    model.build(x.shape)
    before, start = qmodel.student.values(), head.get_weights()[0]
    model.compile(keras_lowbit.RelativeAdam(qmodel, 0.01), "sparse_categorical_crossentropy")
    model.fit(x, labels, batch_size=len(x), verbose=0)
    assert np.abs(head.get_weights()[0] - start).max() == pytest.approx(
        0.01, rel=1e-3
    )  # as by Adam
    for name, value in qmodel.student.values().items():
        np.testing.assert_array_equal(value, before[name], name)


def test_relative_adam_counts_every_value_in_its_own_unit() -> None:
    qmodel, x, labels = quantized()
    before = qmodel.student.values()
    optimizer = keras_lowbit.RelativeAdam(qmodel, 0.01)
    qmodel.model.compile(optimizer, "sparse_categorical_crossentropy")
    qmodel.model.fit(x, labels, batch_size=len(x), verbose=0)
    after = qmodel.student.values()
    # The first step of Adam is as long as the learning rate, and shorter where there is hardly a gradient.
    for layer in ("first", "last"):
        moved = (
            np.abs(after[f"{layer}/kernel"] - before[f"{layer}/kernel"])
            / before[f"{layer}/kernel_scale"]
        )
        assert moved.max() == pytest.approx(0.01, rel=1e-3)
        factors = after[f"{layer}/kernel_scale"] / before[f"{layer}/kernel_scale"]
        assert np.abs(np.log(factors)).max() == pytest.approx(0.001, rel=2e-2)
    span = before["first_relu/output_scale"] * 7  # of 3 bits
    moved = np.abs(after["first/bias"] - before["first/bias"])
    assert moved.max() == pytest.approx(0.001 * span, rel=2e-2)


def test_relative_adam_does_not_care_how_large_the_inputs_are() -> None:
    """Adam itself moves small kernels by as much as large ones, and a small first kernel is lost."""
    losses: dict[Any, list[float]] = {keras_lowbit.RelativeAdam: [], tf_keras.optimizers.Adam: []}
    for factor in (1.0, 256.0):
        model = networks.randomize(network(tf_keras))
        x = networks.samples(model, 64)[0]
        labels = (x[:, :3].mean((1, 2, 3)) > x[:, 3:].mean((1, 2, 3))).astype(int)
        kernel = model.get_layer("first").kernel
        kernel.assign(kernel / factor)
        for optimizer, found in losses.items():
            qmodel = pipelines.quantized(model, pipelines.ranges_only(3), data=x * factor)
            own = optimizer is keras_lowbit.RelativeAdam
            chosen = optimizer(qmodel, 0.05) if own else optimizer(0.05)
            qmodel.model.compile(chosen, "sparse_categorical_crossentropy")
            qmodel.model.fit(x * factor, labels, epochs=8, batch_size=16, shuffle=False, verbose=0)
            found.append(qmodel.model.evaluate(x * factor, labels, verbose=0))
    relative, plain = losses.values()
    assert relative[1] == pytest.approx(relative[0], rel=1e-3)
    assert plain[1] > 1.5 * plain[0]


def test_relative_adam_trains_a_new_head_as_adam_does() -> None:
    qmodel, x, labels = quantized()
    head = tf_keras.layers.Dense(2)
    model = tf_keras.Model(qmodel.model.input, head(qmodel.student.tensor("pool")[:, 0, 0]))
    before = head.kernel.numpy()
    model.compile(
        keras_lowbit.RelativeAdam(qmodel, 0.01), tf_keras.losses.SparseCategoricalCrossentropy(True)
    )
    model.fit(x, labels, batch_size=len(x), verbose=0)
    moved = np.abs(head.kernel.numpy() - before)
    assert moved.max() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("step", [1e6, -1e6])
def test_no_step_makes_a_scale_negative_or_infinite(step: float, tmp_path: Path) -> None:
    qmodel, x, _ = quantized()
    before = qmodel.student.values()
    for quantizer in qmodel.student.scales().values():
        if quantizer.log_factor is not None:
            quantizer.log_factor.assign_add(tf.fill(quantizer.log_factor.shape, step))
    after = qmodel.student.values()
    name = "first/kernel_scale"
    np.testing.assert_allclose(after[name], before[name] * np.exp(4 * np.sign(step)), rtol=1e-5)
    assert np.isfinite(networks.outputs(qmodel.model, [x])[0]).all()
    qmodel.export(tmp_path / "m.tflite")


def test_averages_stay_on_the_grid_that_is_trained() -> None:
    qmodel, x, _ = quantized()
    quantizer = qmodel.student.activation_quantizers["first_relu"]
    quantizer.log_factor.assign(0.3)
    part = tf_keras.Model(qmodel.model.inputs, qmodel.student.tensor("pool"))
    codes = part(x).numpy() / quantizer.scale().numpy()
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)


def test_probabilities_are_rounded_at_inference_only() -> None:
    """A probability of 1/1000 becomes 0, whose logarithm has no gradient to learn from."""
    qmodel, _, _ = quantized()
    quantizer = qmodel.student.activation_quantizers["last_softmax"]
    faint = tf.constant([[0.999, 0.001]])
    for training, expected in ((True, [[0.999, 0.001]]), (False, [[255 / 256, 0.0]])):
        probabilities = quantizer(faint, training, quantizer.variables)
        np.testing.assert_array_equal(probabilities, np.float32(expected))
