"""Step 4: what moves, that the output error falls, and what is left."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras
from networks import chain

from keras_lowbit import PTQConfig
from keras_lowbit.callbacks import Callback, CallbackList, History
from keras_lowbit.finetune import end_to_end
from keras_lowbit.finetune.augmentation import Augmentation
from keras_lowbit.finetune.end_to_end import finetune, hold_out
from keras_lowbit.finetune.losses import squared_error
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.reconstruct.reconstructor import Reconstructor

STEPS = 60


def calibrated(bits: int = 3, network: networks.Network = networks.residual) -> QuantizedModel:
    config = pipelines.ranges_only(bits, weight_grid="narrow")
    return pipelines.quantized(networks.randomize(network(tf_keras)), config)


def tune(qmodel: QuantizedModel, *callbacks: Callback, **fields: Any) -> dict[str, Any]:
    data = networks.samples(qmodel.model, 96)
    inputs = dict(zip(qmodel.student.graph.inputs, data, strict=True))
    config = pipelines.ranges_only(3, **{"tune_steps": STEPS, **fields})
    learnt, held_out = hold_out(inputs, config, seed=0)
    return finetune(
        qmodel.student, qmodel.teacher, learnt, held_out, config, CallbackList(callbacks)
    )


def changed(qmodel: QuantizedModel, before: dict[str, np.ndarray]) -> set[str]:
    """The kinds of values that differ: "bias", "kernel", "kernel_scale" ..."""
    after = qmodel.student.values()
    return {name.split("/")[1] for name in before if not np.array_equal(before[name], after[name])}


def test_bias_tuning_moves_biases_only() -> None:
    qmodel = calibrated()
    before = qmodel.student.values()
    record = tune(qmodel, tune="bias")
    assert changed(qmodel, before) == {"bias"}
    assert record["error_after"] < 0.95 * record["error_before"]
    after = qmodel.student.values()
    for name in qmodel.student.biases:
        assert not np.array_equal(before[f"{name}/bias"], after[f"{name}/bias"]), name


def test_the_wide_form_moves_the_network_and_keeps_kernels_on_the_grid() -> None:
    qmodel = calibrated()
    before = qmodel.student.values()
    record = tune(qmodel)
    assert changed(qmodel, before) >= {"bias", "kernel", "kernel_scale", "output_scale"}
    assert record["error_after"] < 0.95 * record["error_before"]
    for name, quantizer in qmodel.student.weight_quantizers.items():
        spec, scale = quantizer.spec, quantizer.scale().numpy()
        kernel = qmodel.student.kernels[name].numpy()
        zero = quantizer.variables["zero_point"].numpy()
        codes = np.rint(kernel / scale + zero)
        np.testing.assert_array_equal(kernel, np.float32(codes - zero) * scale, name)
        assert spec.qmin <= codes.min() <= codes.max() <= spec.qmax
        assert quantizer.rule is None
    assert all(q.rule is None for q in qmodel.student.activation_quantizers.values())


class Roundings(Callback):
    """How far rounding moves the values from 0 to 1 at most, in every step, by bits."""

    def __init__(self, qmodel: QuantizedModel) -> None:
        self.seen: dict[int, list[float]] = {}
        self.quantizers = list(qmodel.student.activation_quantizers.values())

    def on_step_end(self, step: int, logs: Any = None) -> None:
        for quantizer in self.quantizers:
            if quantizer.rule is None:
                continue
            levels = quantizer.rule(tf.linspace(0.0, 1.0, 513)).numpy()
            far = np.abs(levels - np.linspace(0.0, 1.0, 513)).max()
            self.seen.setdefault(quantizer.spec.bits, []).append(float(far))


@pytest.mark.parametrize(
    ("bits", "tuned", "first"),
    [(3, "activation_range", 0.5), (4, "activation_range", 1.0), (3, "bias", None)],
)
def test_few_bits_of_activations_come_little_by_little(
    bits: int, tuned: str, first: float | None
) -> None:
    config = pipelines.ranges_only(bits, linear_activation_bits=8, input_bits=8)
    network = chain(
        (6,), lambda k: k.Dense(8, activation="relu", name="one"), lambda k: k.Dense(4, name="two")
    )
    qmodel = pipelines.quantized(networks.randomize(network(tf_keras)), config)
    watch = Roundings(qmodel)
    tune(qmodel, watch, tune=tuned, tune_steps=11, tune_learning_rate=1e-9)
    if first is None:  # the paper's form rounds as ever
        assert not watch.seen
        return
    few, eight = (np.array(watch.seen[width]).reshape(11, -1)[:, 0] for width in (bits, 8))
    shares = [first, (first + 1) / 2, 1.0, 1.0]
    np.testing.assert_allclose(few[[0, 3, 6, 10]] / few[-1], shares, rtol=1e-3)
    np.testing.assert_allclose(eight, eight[-1], rtol=1e-3)


def test_what_makes_it_worse_is_undone() -> None:
    qmodel = calibrated()
    before = qmodel.student.values()
    record = tune(qmodel, tune="bias", tune_steps=3, tune_learning_rate=100.0)
    assert record["error_after"] == record["error_before"]
    assert record["undone"]
    assert changed(qmodel, before) == set()


@pytest.mark.parametrize(
    ("harm", "tune", "kept"),
    [
        ([-1.0, -1.0, 0.5], ("bias", "kernel"), True),
        ([-1.0, 0.1, 0.1, 1.2] * 8, ("bias", "kernel"), True),  # 0.1 on average, known to 0.14
        ([-1.0, 0.1, 0.1, 1.2] * 8, ("bias",), False),
        ([-1.0, 0.1, 0.1, 1.2] * 7, ("bias", "kernel"), False),  # so few tell nothing of chance
        ([0.1, 0.2, 0.1, 0.2], ("bias", "kernel"), False),
        ([0.1], ("bias", "kernel"), False),
        ([0.0, 0.0], ("bias", "kernel"), False),  # it did nothing
        ([-1.0, np.nan], ("bias", "kernel"), False),
    ],
)
def test_worse_by_more_than_chance(harm: list[float], tune: tuple[str, ...], kept: bool) -> None:
    assert end_to_end._is_kept(np.array(harm), PTQConfig(tune=tune)) is kept


def test_losses_of_samples_average_to_that_of_all() -> None:
    outputs, wanted = (
        [tf.constant(x, tf.float32) for x in np.random.default_rng(k).normal(size=(2, 7, 3))]
        for k in range(2)
    )
    loss = squared_error([2.0, 3.0])
    found = end_to_end._by_sample(loss, outputs, wanted)
    assert found.shape == (7,)
    assert found.mean() == pytest.approx(float(loss(outputs, wanted)), rel=1e-5)


def test_what_is_held_out_is_the_rest_and_only_where_something_is_tuned() -> None:
    inputs = {"x": np.arange(80.0), "y": np.arange(80.0) + 100}
    learnt, held_out = hold_out(inputs, PTQConfig(), seed=3)
    assert len(learnt["x"]) == 70
    assert sorted([*learnt["x"], *held_out["x"]]) == list(inputs["x"])
    for part in (learnt, held_out):  # samples of several inputs stay together
        np.testing.assert_array_equal(part["y"], part["x"] + 100)
    other, _ = hold_out(inputs, PTQConfig(), seed=4)
    assert not np.array_equal(other["x"], learnt["x"])
    for config in (PTQConfig(tune_steps=0), PTQConfig(tune=())):
        assert hold_out(inputs, config, seed=3) == (inputs, inputs)
    one = {"x": np.zeros(1)}
    assert hold_out(one, PTQConfig(), seed=3) == (one, one)


def test_a_sample_and_its_mirror_image_are_on_one_side() -> None:
    """Photographs and their mirror images in one calibration set. Copies are only seen more often."""
    images = np.random.default_rng(0).normal(size=(40, 4, 4, 3)).astype(np.float32)
    both = np.concatenate([images, images[:, :, ::-1]])

    def split(x: np.ndarray, **fields: Any) -> tuple[np.ndarray, np.ndarray]:
        learnt, held_out = hold_out({"x": x}, PTQConfig(**fields), seed=3)
        return learnt["x"], held_out["x"]

    learnt, held_out = split(both)
    assert (len(learnt), len(held_out)) == (70, 10)
    seen = {x.tobytes() for x in learnt}
    assert not any(image[:, ::-1].tobytes() in seen for image in held_out)
    apart, _ = split(both, augment="mixup")
    assert len(apart) == 70
    assert not np.array_equal(apart, learnt)
    np.testing.assert_array_equal(split(both.reshape(80, 16, 3))[0].reshape(apart.shape), apart)
    assert len(split(np.ones((16, 4, 4, 3), np.float32))[0]) == 16


def test_the_reconstruction_does_not_see_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the end-to-end stage is judged against samples that were fitted."""
    seen = []
    run = Reconstructor.run

    def watched(self: Reconstructor, student: Any, teacher: Any, inputs: Any) -> Any:
        seen.append(inputs)
        return run(self, student, teacher, inputs)

    monkeypatch.setattr(Reconstructor, "run", watched)
    model = networks.randomize(chain((6,), lambda k: k.Dense(4, name="only"))(tf_keras))
    data = networks.samples(model, 40)[0]
    config = PTQConfig(3, steps=1, tune_steps=1)
    (name,) = pipelines.quantized(model, config, data).student.graph.inputs
    learnt, _ = hold_out({name: data}, config, seed=0)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0][name], learnt[name])


@pytest.mark.parametrize(
    ("named", "moved"),
    [
        ("kernel", {"kernel"}),
        ("weight_scale", {"kernel", "kernel_scale"}),  # kernels stay on their grids
        ("activation_range", {"output_scale", "output_zero_point"}),
        (("activation_range", "bias"), {"output_scale", "output_zero_point", "bias"}),
    ],
)
def test_only_what_is_named_moves(named: Any, moved: set[str]) -> None:
    qmodel = calibrated()
    before = qmodel.student.values()
    tune(qmodel, tune=named)
    assert changed(qmodel, before) <= moved
    assert changed(qmodel, before) >= moved - {"output_zero_point"}


@pytest.mark.parametrize(
    ("named", "distils"), [("bias", False), ("kernel", True), (("activation_range", "bias"), True)]
)
def test_only_the_papers_form_takes_outputs_and_samples_as_they_are(
    named: Any, distils: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = set()
    divergence, augment = end_to_end.divergence, Augmentation.__call__

    def watched_divergence(*arguments: Any) -> Any:
        called.add("divergence")
        return divergence(*arguments)

    def watched_augmentation(*arguments: Any) -> Any:
        called.add("augmentation")
        return augment(*arguments)

    monkeypatch.setattr(end_to_end, "divergence", watched_divergence)
    monkeypatch.setattr(Augmentation, "__call__", watched_augmentation)
    tune(calibrated(), tune=named, tune_steps=2)
    assert called == ({"divergence", "augmentation"} if distils else set())


@pytest.mark.parametrize("fields", [{"tune_steps": 0}, {"tune": ()}])
def test_nothing_to_do(fields: dict[str, Any]) -> None:
    qmodel, history = calibrated(), History()
    before = qmodel.student.values()
    record = tune(qmodel, history, **fields)
    assert record["error_before"] == record["error_after"] > 0
    assert changed(qmodel, before) == set()
    assert history.units == []


def test_a_range_that_is_also_that_of_an_output_moves() -> None:
    """The input is concatenated behind the only layer, and shares its range with what comes out."""

    def network(keras: Any) -> Any:
        image = keras.Input((6,), name="image")
        dense = keras.layers.Dense(6, name="only")(image)
        return keras.Model(image, keras.layers.Concatenate(name="both")([image, dense]))

    qmodel = calibrated(network=network)
    before = qmodel.student.values()
    record = tune(qmodel, tune="activation_range", tune_steps=20)
    assert "output_scale" in changed(qmodel, before)
    assert 0 < record["error_after"] < record["error_before"]


def test_a_classifier_is_judged_behind_its_average() -> None:
    """What a global average makes of errors of opposite sign is what the stage sees."""
    layers = (
        lambda k: k.Conv2D(4, 3, name="last"),
        lambda k: k.GlobalAveragePooling2D(name="mean"),
    )
    with_softmax, without = (
        tune(calibrated(network=chain((6, 6, 2), *layers, *more)), tune_steps=0)
        for more in ((lambda k: k.Softmax(),), ())
    )
    alone = tune(calibrated(network=chain((6, 6, 2), layers[0])), tune_steps=0)
    assert with_softmax["error_before"] == without["error_before"]
    assert without["error_before"] != alone["error_before"]


def test_a_network_without_biases() -> None:
    """No bias to tune: nothing happens, and nothing breaks."""
    network = chain((6,), lambda k: k.Dense(4, use_bias=False, name="only"))
    qmodel = calibrated(network=network)
    before = qmodel.student.values()
    record = tune(qmodel, tune="bias")
    assert record["error_before"] == record["error_after"]
    assert changed(qmodel, before) == set()


def test_the_record_is_what_the_model_gives() -> None:
    """Before its softmax, relative to the float model's mean square."""
    qmodel = calibrated(network=networks.two_outputs)
    history = History()
    record = tune(qmodel, history)
    assert {**history.units[0]} == {"unit": 0, **record}
    student, data = qmodel.student, networks.samples(qmodel.model, 96)
    inputs = dict(zip(student.graph.inputs, data, strict=True))
    data = list(hold_out(inputs, PTQConfig(), seed=0)[0].values())
    wanted = networks.outputs(qmodel.teacher, data)
    model = tf_keras.Model(student.model.inputs, [student.tensor(n) for n in ("left", "right")])
    error = sum(
        float(np.mean((output - target) ** 2) / np.mean(target**2))
        for output, target in zip(networks.outputs(model, data), wanted, strict=True)
    )
    # The record looks at the outputs before their own 8-bit quantizers.
    assert record["error_after"] == pytest.approx(error, rel=0.05)


def test_two_runs_are_the_same() -> None:
    network = chain(
        (5, 5, 2), lambda k: k.Conv2D(4, 3, name="a"), lambda k: k.Conv2D(2, 3, name="b")
    )
    first, second = calibrated(network=network), calibrated(network=network)
    assert tune(first) == tune(second)
    assert changed(first, second.student.values()) == set()


def test_sigmoids_inside_keep_their_range() -> None:
    network = chain(
        (6,), lambda k: k.Dense(8, activation="sigmoid", name="gate"),
        lambda k: k.Dense(4, name="last"),
    )  # fmt: skip
    qmodel = calibrated(network=network)
    tune(qmodel)
    assert qmodel.student.values()["gate_sigmoid/output_scale"] == np.float32(1 / 256)
