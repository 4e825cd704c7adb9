"""``quantize`` and the model it returns, from every kind of input to the bytes of the file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import keras as keras3
import networks
import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from networks import chain

import keras_lowbit
from keras_lowbit import PTQConfig, UnsupportedModelError, variables
from keras_lowbit.callbacks import Callback
from keras_lowbit.finetune import end_to_end
from keras_lowbit.preflight import PARTS
from keras_lowbit.reconstruct.activations import UnitFunction
from keras_lowbit.reconstruct.reconstructor import warn_if_useless
from keras_lowbit.reconstruct.units import find_units

SHORT = PTQConfig(weight_bits=3, activation_bits=4, steps=4, tune_steps=4)
RANGES = pipelines.ranges_only(4)

small = chain(
    (5, 5, 2), lambda k: k.Conv2D(4, 3, name="first"), lambda k: k.BatchNormalization(name="norm"),
    lambda k: k.ReLU(name="first_relu"), lambda k: k.Flatten(name="flat"),
    lambda k: k.Dense(3, activation="softmax", name="last"),
)  # fmt: skip


def make(network: networks.Network = small, keras: Any = tf_keras) -> Any:
    return networks.randomize(network(keras))


def exported(qmodel: keras_lowbit.QuantizedModel, folder: Path) -> bytes:
    qmodel.export(folder / "bytes.tflite", overwrite=True)
    return (folder / "bytes.tflite").read_bytes()


# ---- the same result


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    files = [exported(pipelines.quantized(make(), SHORT, seed=s), tmp_path) for s in (5, 5, 6)]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("network", [small, networks.residual])
def test_both_flavours_of_keras_give_the_same_bytes(
    network: networks.Network, tmp_path: Path
) -> None:
    data = networks.samples(make(network), 48)[0]
    files = [
        exported(pipelines.quantized(make(network, keras), SHORT, data), tmp_path)
        for keras in (tf_keras, keras3)
    ]
    assert files[0] == files[1]


def test_how_the_samples_come_makes_no_difference(tmp_path: Path) -> None:
    model = make()
    x = networks.samples(model, 50)[0]
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(50)))
    kinds = [x, dataset.batch(7), dataset.batch(50), list(x), iter(x), {"image": x}]
    files = {exported(pipelines.quantized(model, SHORT, kind), tmp_path) for kind in kinds}
    assert len(files) == 1


@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "keras3"])
def test_the_callers_model_is_left_alone(keras: Any) -> None:
    model = make(networks.residual, keras)
    model.compile("sgd", "mse")
    image = networks.samples(model)
    before = [np.array(w) for w in model.get_weights()], networks.outputs(model, image)
    config, layers = model.get_config(), [id(layer) for layer in model.layers]
    pipelines.quantized(model, SHORT)
    after = [np.array(w) for w in model.get_weights()], networks.outputs(model, image)
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b)
    assert model.get_config() == config
    assert [id(layer) for layer in model.layers] == layers
    assert model.trainable
    assert all(layer.trainable for layer in model.layers)


def test_callbacks_do_not_decide(tmp_path: Path) -> None:
    alone = pipelines.quantized(make(), SHORT)
    watched = pipelines.quantized(make(), SHORT, callbacks=[keras_lowbit.callbacks.History()])
    assert exported(alone, tmp_path) == exported(watched, tmp_path)


# ---- what comes in


@pytest.mark.parametrize(
    ("keras", "name"),
    [(tf_keras, "m.h5"), (tf_keras, "m.keras"), (tf_keras, "folder"), (keras3, "m.keras")],
)
def test_a_path(keras: Any, name: str, tmp_path: Path) -> None:
    model = make(keras=keras)
    model.save(tmp_path / name)
    loaded = pipelines.quantized(tmp_path / name, RANGES, networks.samples(model, 40)[0])
    direct = pipelines.quantized(model, RANGES, networks.samples(model, 40)[0])
    assert exported(loaded, tmp_path) == exported(direct, tmp_path)


def test_bits_as_arguments() -> None:
    model = make()
    x = networks.samples(model, 40)[0]
    config = {"optimize": (), "tune_steps": 0}
    default = pipelines.quantized(model, PTQConfig(**config), x)
    assert (default.config.weight_bits, default.config.activation_bits) == (4, 8)
    with pytest.raises(ValueError, match="Bits are given twice.*weight_bits=4"):
        keras_lowbit.quantize(model, x, 4, config=PTQConfig())
    with pytest.raises(ValueError, match="`weight_bits` must be.*weight_bits=9"):
        keras_lowbit.quantize(model, x, weight_bits=9)
    with pytest.raises(ValueError, match="must be a PTQConfig. Received: dict"):
        keras_lowbit.quantize(model, x, config={"weight_bits": 4})


class NeverCalled(Callback):
    def on_reconstruct_begin(self, logs: Any = None) -> None:
        raise RuntimeError("work has begun")


def test_mistakes_show_before_any_work() -> None:
    def unread() -> Any:
        raise RuntimeError("the data were read")
        yield

    network = chain(
        (5, 5, 2), lambda k: k.Conv2DTranspose(2, 3, name="up"), lambda k: k.ELU(name="elu")
    )
    with pytest.raises(UnsupportedModelError, match=r"(?s)2 layer.*up: Conv2DTranspose.*elu: ELU"):
        keras_lowbit.quantize(make(network), unread())
    x = networks.samples(make(), 40)[0]
    for optimize in (("adaround", "adaquant"), ("nonsense",)):
        config = PTQConfig(optimize=optimize)
        with pytest.raises(ValueError, match="optimiz"):
            pipelines.quantized(make(), config, x, callbacks=[NeverCalled()])


def test_calls_that_are_not_eager_or_on_several_devices_are_refused() -> None:
    model, x = make(), networks.samples(make(), 40)[0]
    for scope, where in (
        (tf.Graph().as_default(), "in a graph"),
        (tf.distribute.OneDeviceStrategy("/cpu:0").scope(), "tf.distribute strategy"),
    ):
        with scope, pytest.raises(ValueError, match=f"eagerly and on one device.*{where}"):
            keras_lowbit.quantize(model, x)


@pytest.mark.parametrize("given", [3, "History", [3], NeverCalled(), [NeverCalled]])
def test_what_is_no_list_of_callbacks_is_refused_before_any_work(given: Any) -> None:
    with pytest.raises(ValueError, match="`callbacks` must be a list of .*Received: callbacks="):
        keras_lowbit.quantize("no model is here", callbacks=given)


def test_blocks_of_a_layerwise_variable_are_refused_before_any_work() -> None:
    config = PTQConfig(optimize=("bitsplit",), units="block")
    x = networks.samples(make(), 40)[0]
    with pytest.raises(ValueError, match="'bitsplit'.*one layer.*units='block'"):
        pipelines.quantized(make(), config, x, callbacks=[NeverCalled()])


def test_wide_activations_lose_nothing_and_are_not_exported(tmp_path: Path) -> None:
    """16 bits are as good as float; no int8 container holds them."""
    model = make()
    x = networks.samples(model, 64)[0]
    wide = dict.fromkeys(("activation_bits", "input_bits", "linear_activation_bits"), 16)
    config = dataclasses.replace(RANGES, weight_bits=8, activation_range="minmax", **wide)
    qmodel = pipelines.quantized(model, config, x)
    narrow = pipelines.quantized(model, dataclasses.replace(RANGES, weight_bits=8), x)

    def error(quantized: keras_lowbit.QuantizedModel) -> float:
        """With the teacher's weights, so that only activations are rounded."""
        student = quantized.student
        with contextlib.ExitStack() as floats:
            for quantizer in student.weight_quantizers.values():
                floats.enter_context(quantizer.following(lambda kernel: kernel))
            logits = tf_keras.Model(student.model.inputs, student.tensor("last"))(x)
        wanted = tf_keras.Model(
            quantized.teacher.inputs, quantized.teacher.get_layer("last").output
        )(x)
        return float(np.mean((logits - wanted) ** 2) / np.mean(np.square(wanted)))

    assert error(qmodel) < 1e-7 < error(narrow)
    with pytest.raises(ValueError, match="simulation only.*16 bits for \\['image'"):
        qmodel.export(tmp_path / "wide.tflite")
    assert not (tmp_path / "wide.tflite").exists()
    assert qmodel.cost().bops == 4 * narrow.cost().bops


def test_a_callback_sees_the_model_between_the_steps() -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.outputs: dict[str, np.ndarray] = {}

        def on_reconstruct_begin(self, logs: Any = None) -> None:
            self.outputs["ranges"] = self.model(x).numpy()

        def on_reconstruct_end(self, logs: Any = None) -> None:
            self.outputs["reconstruction"] = self.model(x).numpy()

    model = make()
    x = networks.samples(model, 64)[0]
    look = Look()
    config = PTQConfig(2, 4, units="layer", steps=20, tune_steps=20)
    qmodel = pipelines.quantized(model, config, x, callbacks=[look])
    only_ranges = dataclasses.replace(config, optimize=(), tune_steps=0)
    np.testing.assert_array_equal(
        look.outputs["ranges"], pipelines.quantized(model, only_ranges, x).model(x)
    )
    assert look.model is qmodel.model
    # All samples reconstruct where none has to judge the end-to-end stage.
    untuned = pipelines.quantized(
        model, dataclasses.replace(config, tune_steps=0), x, callbacks=[look]
    )
    np.testing.assert_array_equal(look.outputs["reconstruction"], untuned.model(x))


def test_few_samples_warn_when_calibrating_only(tmp_path: Path) -> None:
    model = make()
    x = networks.samples(model, 8)[0]
    with pytest.warns(UserWarning, match="only 8 calibration samples") as caught:
        qmodel = keras_lowbit.quantize(model, x, config=RANGES, verbose=0)
    assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qmodel.export(tmp_path / "m.tflite")
        qmodel.verify(tmp_path / "m.tflite", x[:2])
        qmodel.quantize_input(x[:1])


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    pipelines.quantized(make(networks.residual), SHORT)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress(verbose: int, capsys: pytest.CaptureFixture[str]) -> None:
    pipelines.quantized(make(), SHORT, verbose=verbose)
    shown = capsys.readouterr().out
    for line in ("Unit 1/3: first", "Unit 2/3: last", "end to end", "error_after"):
        assert line in shown


@pytest.mark.parametrize("normalised", [True, False])
def test_one_warning_of_a_useless_result(
    normalised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A column of another range takes all codes of the input."""
    network = chain(
        (3,),
        lambda k: k.Dense(8, activation="relu", name="first"),
        lambda k: k.Dense(2, name="last"),
    )
    model = make(network)
    x = networks.samples(model, 64)[0]
    if not normalised:
        kernel, *others = model.get_weights()
        kernel[0] /= 1e4
        x[:, 0] *= 1e4
        kernel[1:] *= 10
        model.set_weights([kernel, *others])
    with caplog.at_level("WARNING", logger="absl"):
        qmodel = pipelines.quantized(model, dataclasses.replace(RANGES, weight_bits=8), x)
    useless = [record["error_after"] >= 0.5 for record in qmodel.history]
    assert useless == [not normalised] * 3
    assert caplog.text.count("the first unit that is so far off is 'first'") == sum(useless[:1])
    assert ("normalised one by one" in caplog.text) is not normalised


def test_a_result_that_is_no_number_is_useless_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="absl"):
        warn_if_useless([{"name": "first", "error_after": float("nan")}])
    assert "the first unit that is so far off is 'first'" in caplog.text


# ---- what comes out


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_several_inputs_and_outputs(bits: int, tmp_path: Path) -> None:
    def network(keras: Any) -> Any:
        layers = keras.layers
        image, speed = keras.Input((6, 6, 2), name="image"), keras.Input((3,), name="speed")
        seen = layers.Conv2D(4, 3, activation="relu", name="see")(image)
        seen = layers.GlobalAveragePooling2D(name="pool")(seen)
        joined = layers.Concatenate(name="join")([seen, layers.Dense(4, name="feel")(speed)])
        outputs = [layers.Dense(3, name="steer")(joined), layers.Dense(2, name="brake")(speed)]
        return keras.Model([speed, image], outputs)

    qmodel = pipelines.quantized(make(network), PTQConfig.uniform(bits, steps=3, tune_steps=3))
    pipelines.prove(qmodel, tmp_path)
    speed, image = networks.samples(qmodel.model, 4)
    assert (speed.shape, image.shape) == ((4, 3), (4, 6, 6, 2))
    verification = qmodel.verify(tmp_path / "model.tflite", {"image": image, "speed": speed})
    assert verification.ok
    assert [o.shape for o in qmodel.model.predict([speed, image], verbose=0)] == [(4, 3), (4, 2)]


def test_verify_reads_a_generator_once(tmp_path: Path) -> None:
    qmodel = pipelines.quantized(make(), RANGES)
    qmodel.export(tmp_path / "m.tflite")
    verification = qmodel.verify(tmp_path / "m.tflite", iter(networks.samples(qmodel.model, 5)[0]))
    assert verification.ok
    assert verification.samples == 5
    for wrong in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match="`max_samples` must be an integer of at least 1"):
            qmodel.verify(tmp_path / "m.tflite", networks.samples(qmodel.model, 5)[0], wrong)
    with pytest.raises(ValueError, match=r"No such file.*none\.tflite"):
        qmodel.verify(tmp_path / "none.tflite", networks.samples(qmodel.model, 5)[0])


def test_samples_of_a_quantized_model_are_not_called_calibration_data(tmp_path: Path) -> None:
    qmodel = pipelines.quantized(make(), RANGES)
    qmodel.export(tmp_path / "m.tflite")
    x = networks.samples(qmodel.model, 5)[0]
    for wrong in (np.where(x == x.max(), np.nan, x), x[..., :1], x[:0]):
        for use in (qmodel.quantize_input, lambda x: qmodel.verify(tmp_path / "m.tflite", x)):
            with pytest.raises(ValueError, match="^The data .*(NaN|shape|empty)"):
                use(wrong)


def test_the_model_is_a_keras_model(tmp_path: Path) -> None:
    """It predicts, evaluates and learns; what it has learned is what is exported."""
    qmodel = pipelines.quantized(make(), RANGES)
    x = networks.samples(qmodel.model, 64)[0]
    labels = (x.sum((1, 2, 3)) > 0).astype(int)
    assert isinstance(qmodel.model, tf_keras.Model)
    qmodel.model.compile(tf_keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    before, first = qmodel.model.evaluate(x, labels, verbose=0), exported(qmodel, tmp_path)
    qmodel.model.fit(x, labels, epochs=4, batch_size=16, verbose=0)
    assert qmodel.model.evaluate(x, labels, verbose=0) < before
    second = exported(qmodel, tmp_path)
    assert first != second
    (tmp_path / "old.tflite").write_bytes(first)
    stale = qmodel.verify(tmp_path / "old.tflite", x[:2])
    assert not stale.ok
    assert "first/kernel" in stale.other_values
    assert "Export it again" in str(stale)
    pipelines.prove(qmodel, tmp_path)
    np.testing.assert_allclose(
        qmodel.model.predict(x, verbose=0), networks.outputs(qmodel.model, [x])[0], atol=1 / 256
    )
    simulated, reference = pipelines.codes_by_tensor(qmodel)["first_relu"]
    assert np.abs(simulated - reference).max() <= 1


def heads(keras: Any, as_dict: bool) -> Any:
    """A classifier and a regression; the layers of the dict are not named like its keys."""
    image = keras.Input((8,), name="image")
    trunk = keras.layers.Dense(4, activation="relu", name="trunk")(image)
    value = keras.layers.Dense(1, name="a_value")(trunk)
    label = keras.layers.Dense(3, activation="softmax", name="the_label")(trunk)
    return keras.Model(image, {"value": value, "label": label} if as_dict else [value, label])


@pytest.mark.parametrize("keras", networks.FLAVOURS.values(), ids=networks.FLAVOURS)
@pytest.mark.parametrize(
    ("as_dict", "label", "value"), [(True, "label", "value"), (False, "the_label", "a_value")]
)
def test_outputs_keep_their_names(
    keras: Any, as_dict: bool, label: str, value: str, tmp_path: Path
) -> None:
    """In the signature of the file and for the labels of `fit`; after loading as well."""
    model = networks.randomize(heads(keras, as_dict))
    pipelines.quantized(model, RANGES).save(tmp_path / "saved")
    qmodel = keras_lowbit.load(tmp_path / "saved")
    x, known = networks.samples(model, 64)[0], {label: np.arange(64) % 3, value: np.zeros((64, 1))}
    losses = {label: "sparse_categorical_crossentropy", value: "mse"}
    qmodel.model.compile(keras_lowbit.RelativeAdam(qmodel, 0.05), losses)
    history = qmodel.model.fit(x, known, epochs=5, verbose=0).history
    assert history[f"{value}_loss"][-1] < history[f"{value}_loss"][0]
    qmodel.export(tmp_path / "m.tflite")
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    assert interpreter.get_signature_list()["serving_default"]["outputs"] == sorted([label, value])
    codes = qmodel.quantize_input(x[:1])[0]
    outputs = interpreter.get_signature_runner("serving_default")(image=codes)
    assert {name: codes.shape for name, codes in outputs.items()} == {label: (1, 3), value: (1, 1)}


# ---- files


@pytest.mark.parametrize(
    "optimize",
    [("adaround", "lsq"), (), [variables.AdaQuant(learning_rate=0.02), variables.LSQ(2e-3)]],
    ids=["names", "none", "instances"],
)
def test_saved_and_loaded_is_the_same(optimize: Any, tmp_path: Path) -> None:
    config = PTQConfig(
        weight_bits=3, activation_bits=4, layer_bits={"classifier": (5, 6)}, optimize=optimize, steps=3,
        tune_steps=3,
    )  # fmt: skip
    qmodel = pipelines.quantized(make(networks.residual), config)
    qmodel.save(tmp_path / "deep" / "saved")
    loaded = keras_lowbit.load(tmp_path / "deep" / "saved")
    assert exported(loaded, tmp_path) == exported(qmodel, tmp_path)
    image = networks.samples(qmodel.model)
    for a, b in ((qmodel.model, loaded.model), (qmodel.teacher, loaded.teacher)):
        np.testing.assert_array_equal(networks.outputs(a, image), networks.outputs(b, image))
    assert loaded.config == config
    assert loaded.history == qmodel.history
    assert str(loaded.report()) == str(qmodel.report())
    loaded.save(tmp_path / "again")
    for name in ("model.json", "values.npz", "float_weights.npz"):
        first, second = (tmp_path / folder / name for folder in ("deep/saved", "again"))
        assert name == "model.json" or first.stat().st_size == second.stat().st_size
    assert json.loads((tmp_path / "again" / "model.json").read_text()) == json.loads(
        (tmp_path / "deep" / "saved" / "model.json").read_text()
    )


def test_nothing_is_overwritten_without_being_asked(tmp_path: Path) -> None:
    qmodel = pipelines.quantized(make(), RANGES)
    folder, file = tmp_path / "saved", tmp_path / "m.tflite"
    qmodel.save(folder)
    (folder / "values.npz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already.*overwrite=True"):
        qmodel.save(folder)
    assert (folder / "values.npz").read_bytes() == b"mine"
    qmodel.save(folder, overwrite=True)
    assert (folder / "values.npz").read_bytes() != b"mine"
    file.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already.*overwrite=True"):
        qmodel.export(file)
    assert file.read_bytes() == b"mine"
    for write in (qmodel.export, qmodel.save):
        with pytest.raises(ValueError, match="`overwrite` must be True or False.*'no'"):
            write(file, overwrite="no")
    assert file.read_bytes() == b"mine"
    qmodel.export(file, overwrite=True)
    assert file.read_bytes() != b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "m.tflite"}


def test_a_save_that_fails_keeps_the_model_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qmodel, folder, replace = pipelines.quantized(make(), RANGES), tmp_path / "saved", os.replace
    qmodel.save(folder)
    (folder / "values.npz").write_bytes(b"mine")

    def full(source: Path, target: Path) -> None:
        if Path(target) == folder and (Path(source) / "values.npz").read_bytes() != b"mine":
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        qmodel.save(folder, overwrite=True)
    assert (folder / "values.npz").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("others", "named"),
    [(["notes.txt"], "notes.txt"), (["group1-shard1of1.bin", "model.json"], "group1-shard"), ([], "model.json")],
    ids=["ours and a file", "TensorFlow.js", "empty"],
)  # fmt: skip
def test_only_a_folder_of_ours_is_replaced(others: list[str], named: str, tmp_path: Path) -> None:
    qmodel, folder = pipelines.quantized(make(), RANGES), tmp_path / "saved"
    if others == ["notes.txt"]:
        qmodel.save(folder)
    folder.mkdir(exist_ok=True)
    for name in others:
        (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=f"Only a folder with a quantized model.*{named}"):
        qmodel.save(folder, overwrite=True)
    assert all((folder / name).read_text() == "mine" for name in others)


def test_hyperparameters_of_numpy_are_saved(tmp_path: Path) -> None:
    config = dataclasses.replace(
        SHORT, optimize=(variables.AdaRound(learning_rate=np.float32(0.5)),)
    )
    pipelines.quantized(make(), config).save(tmp_path / "saved")
    [again] = keras_lowbit.load(tmp_path / "saved").config.optimize
    assert variables.get(again).learning_rate == 0.5


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No quantized model can be read here.*No such file"):
        keras_lowbit.load(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="another format. Expected format 1.*Received: 99"):
        keras_lowbit.load(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ValueError, match="another format"):
        keras_lowbit.load(tmp_path)
    pipelines.quantized(make(), RANGES).save(tmp_path / "saved")
    (tmp_path / "saved" / "values.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="No quantized model can be read here"):
        keras_lowbit.load(tmp_path / "saved")
    document = json.loads((tmp_path / "saved" / "model.json").read_text())
    del document["nodes"]
    (tmp_path / "saved" / "model.json").write_text(json.dumps(document))
    pipelines.quantized(make(), RANGES).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "values.npz", tmp_path / "saved" / "values.npz")
    with pytest.raises(ValueError, match="can be read here: 'nodes' is missing"):
        keras_lowbit.load(tmp_path / "saved")


@pytest.mark.parametrize("change", ["missing", "strange", "another shape"])
def test_values_of_another_model_are_refused(change: str, tmp_path: Path) -> None:
    pipelines.quantized(make(), RANGES).save(tmp_path / "saved")
    file = tmp_path / "saved" / "values.npz"
    values = dict(np.load(file))
    name = next(name for name in values if name.endswith("/kernel_scale"))
    scale = values.pop(name)
    if change == "strange":
        values |= {name: scale, "strange/bias": scale}
    if change == "another shape":
        values[name] = np.append(scale, scale[..., :1], axis=-1)
    np.savez(file, **values)
    named = "strange/bias" if change == "strange" else name
    with pytest.raises(ValueError, match=rf"values.npz is not that of model.json: \['{named}'\]"):
        keras_lowbit.load(tmp_path / "saved")


@pytest.mark.parametrize("weight_bits", [2, 3])
def test_a_channel_of_bias_alone_is_exported(weight_bits: int, tmp_path: Path) -> None:
    """Training has switched its weights off: on their scale its bias would need a code beyond int32."""
    model = make(networks.residual)
    norm = model.get_layer("stem_norm")
    weights = norm.get_weights()
    weights[0][2], weights[1][2] = 1e-6, 5.0
    norm.set_weights(weights)
    config = PTQConfig(weight_bits, weight_grid="midrise", **keras_lowbit.RECIPES["fast"])
    qmodel = pipelines.quantized(model, config)
    assert qmodel.notes["stem"] == "scales raised in the end, or biases would overflow"
    assert "stem: scales raised" in str(qmodel.report())
    qmodel.export(tmp_path / "m.tflite")
    assert qmodel.verify(tmp_path / "m.tflite", networks.samples(model)).ok


# ---- what is told about it


def test_the_report_is_text_and_json() -> None:
    qmodel = pipelines.quantized(make(networks.residual), SHORT)
    report = qmodel.report()
    content = json.loads(json.dumps(report.to_dict()))
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["stem"]["weight_bits"] == 3
    assert rows["stem"]["output_bits"] is None
    assert rows["stem_relu"]["runs_in"] == "stem"
    assert rows["stem_relu"]["output_bits"] == 4
    assert rows["second"]["output_bits"] == 8  # feeds only the add
    assert rows["classifier_softmax"]["output_scale"] == 1 / 256
    assert content["notes"]["stem_norm"] == "folded into stem"
    assert [unit["name"] for unit in content["units"]][-1] == "end to end"
    assert content["cost"]["weight_bytes"] == qmodel.cost().weight_bytes
    for words in ("stem_norm: folded into stem", "3 bit", "end to end", "parameters", "(in stem)"):
        assert words in str(report)


def test_the_reports_columns_stand_below_each_other() -> None:
    name = "a_name_that_is_longer_than_any_column_of_fixed_width"
    network = chain((4,), lambda k: k.Dense(3, activation="relu", name=name))
    header, *rows = (
        str(pipelines.quantized(make(network), RANGES).report()).split("\n\n")[0].splitlines()
    )
    assert len(rows) == 3
    assert all(row[: header.index("kind")].endswith("  ") for row in rows)


def test_units_of_several_layers_stand_in_the_report_by_all_their_names() -> None:
    """However long: before the numbers there are two spaces, and these end below each other."""
    name = "a_depthwise_convolution_with_a_name_that_goes_on_for_longer_than_that"
    network = chain(
        (4, 4, 3), lambda k: k.DepthwiseConv2D(3, name=name), lambda k: k.Conv2D(2, 1, name="mix"),
        lambda k: k.Flatten(name="flat"), lambda k: k.Dense(3, name="last"),
    )  # fmt: skip
    config = dataclasses.replace(SHORT, units="block", tune_steps=0)
    shown = str(pipelines.quantized(make(network), config).report()).split("\n\n")
    header, *rows = next(part for part in shown if part.startswith("unit (")).splitlines()
    assert [row.split("  ")[0] for row in rows[:2]] == [f"{name} + mix", "last"]
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_metadata_agree_with_the_flatbuffer(bits: int, tmp_path: Path) -> None:
    """Codes lie where the metadata say, and there are at most 2^bits of them."""
    qmodel = pipelines.quantized(make(networks.residual), pipelines.ranges_only(bits))
    told = qmodel.export(tmp_path / "m.tflite")
    blob = (tmp_path / "m.tflite").read_bytes()
    metadata = keras_lowbit.read_metadata(tmp_path / "m.tflite")
    assert metadata == json.loads(json.dumps(told))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    tensors = model.subgraphs[0].tensors
    kernels = 0
    for name, entry in metadata["tensors"].items():
        tensor = tensors[entry["index"]]
        assert tensor.name.decode() == name
        zero_points = set(np.ravel(tensor.quantization.zeroPoint).tolist())
        if name.endswith("/kernel"):
            kernels += 1
            assert entry["bits"] == bits
            zero = np.float64(entry["zero_point_b"])
            assert set(np.ravel(zero)) <= ({-1.0, -0.5, 0.0} if bits < 4 else {0.0})
            np.testing.assert_array_equal(entry["shift"], 8 - bits - (zero == -1))
            np.testing.assert_array_equal(entry["offset"], -zero * 2.0 ** np.array(entry["shift"]))
            codes = np.asarray(model.buffers[tensor.buffer].data).view(np.int8).astype(int)
            codes = np.moveaxis(codes.reshape(tensor.shape), entry["axis"], -1)
            for channel in codes.reshape(-1, codes.shape[-1]).T:
                assert len(set(channel)) <= 2**bits - (bits > 3)  # "centred" up to 3 bits
            assert not np.any((codes - entry["offset"]) % 2 ** np.array(entry["shift"]))
            assert zero_points == {0}
            assert len(tensor.quantization.scale) == tensor.shape[entry["axis"]]
        else:
            assert zero_points == {entry["offset"] + entry["zero_point_b"]}
    assert kernels == len(qmodel.student.kernels) == 6
    activations = {n: e for n, e in metadata["tensors"].items() if "kernel" not in n}
    codes = [e["qmax"] - e["qmin"] + 1 for e in activations.values() if e["bits"] == bits]
    assert 2**bits in codes


@pytest.mark.parametrize(
    ("fields", "weight", "activation"),
    [
        ({}, "mse+adaround+end to end", "mse+lsq+end to end"),
        ({"tune": "bias"}, "mse+adaround", "mse+lsq"),
        ({"tune": "weight_scale"}, "mse+adaround+end to end", "mse+lsq"),
        ({"tune": "activation_range"}, "mse+adaround", "mse+lsq+end to end"),
        ({"optimize": (), "tune_steps": 0, "weight_range": "minmax"}, "minmax", "mse"),
        ({"steps": 0, "tune_steps": 0}, "mse", "mse"),
    ],
)
@pytest.mark.parametrize("kept", [True, False])
def test_metadata_tell_how_values_were_found(
    fields: dict[str, Any], weight: str, activation: str, kept: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(end_to_end, "_is_kept", lambda harm, config: kept)
    if not kept:  # what was undone is not told
        weight, activation = (text.replace("+end to end", "") for text in (weight, activation))
    config = PTQConfig(**{"steps": 2, "tune_steps": 2, **fields})
    tensors = pipelines.quantized(make(), config).export(tmp_path / "m.tflite")["tensors"]
    assert tensors["first/kernel"]["method"] == weight
    assert tensors["first_relu"]["method"] == activation
    low = pipelines.quantized(make(), dataclasses.replace(config, activation_bits=4))
    tensors = low.export(tmp_path / "m.tflite", overwrite=True)["tensors"]
    assert tensors["first_relu"]["method"] == activation.replace("mse", "output")


def test_metadata_do_not_call_trained_what_did_not_move(tmp_path: Path) -> None:
    """The range of the logits is no unit's; a network of pools has nothing to train."""
    config = PTQConfig(steps=2, tune_steps=2)
    qmodel = pipelines.quantized(make(), config)
    qmodel.save(tmp_path / "saved")
    graph = qmodel.student.graph
    logits = graph[graph.outputs[0]].inputs[0]
    assert qmodel.methods["activation"] == "mse+lsq+end to end"
    for of in (qmodel, keras_lowbit.load(tmp_path / "saved")):
        tensors = of.export(tmp_path / "m.tflite", overwrite=True)["tensors"]
        assert tensors[logits]["method"] == "mse"
    model = chain((8, 8, 3), lambda k: k.MaxPooling2D())(tf_keras)
    pools = pipelines.quantized(model, config).export(tmp_path / "pools.tflite")["tensors"]
    assert {tensor["method"] for tensor in pools.values()} == {"mse"}


# ---- importing


def imports(statement: str) -> tuple[float, str]:
    """Seconds that a statement takes in a new process, and the modules it loaded."""
    code = f"import sys, time\n{statement}\nprint(*sys.modules)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.monotonic() - started, done.stdout


def test_importing_is_cheap_and_leaves_keras_3_alone() -> None:
    """No slower than what it stands on, and of Keras 3 only what TensorFlow imports anyway."""
    _, of_tensorflow = imports("import tensorflow")
    alone, _ = imports("import tf_keras, tensorflow_model_optimization")
    ours, modules = imports("import keras_lowbit")
    assert keras_modules(modules) <= keras_modules(of_tensorflow)
    assert "ai_edge_litert" not in modules.split()
    assert ours < 1.5 * alone + 2.0


def keras_modules(modules: str) -> set[str]:
    return {name for name in modules.split() if name.split(".")[0] == "keras"}


def test_importing_changes_no_environment() -> None:
    imports(
        "import os; before = dict(os.environ); import keras_lowbit, tensorflow as tf; "
        "assert os.environ.get('TF_USE_LEGACY_KERAS') == before.get('TF_USE_LEGACY_KERAS'); "
        "assert tf.keras.__version__.startswith('3')"
    )


def test_dead_channels_with_a_bias_are_exported(tmp_path: Path) -> None:
    keras = tf_keras
    image = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    output = keras.layers.Dense(3, name="dense")(keras.layers.Flatten()(x))
    model = networks.randomize(keras.Model(image, output))
    gamma, beta, mean, variance = model.get_layer("norm").get_weights()
    gamma[0], beta[0], gamma[1], beta[1] = 0.0, 5.0, 1e-9, 3.0
    model.get_layer("norm").set_weights([gamma, beta, mean, variance])
    kernel, bias = model.get_layer("dense").get_weights()
    model.get_layer("dense").set_weights([kernel * 0.0, bias + 100.0])
    qmodel = pipelines.quantized(model, RANGES)
    pipelines.prove(qmodel, tmp_path)
    x = networks.samples(model, 8)[0]
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(qmodel.model.predict(x, verbose=0), expected, rtol=0.01)


def test_an_activation_that_only_bears_the_name_of_one_is_refused() -> None:
    def relu(x: Any) -> Any:
        return tf.nn.leaky_relu(x, 0.5)

    keras = tf_keras
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, relu, name="mine")])
    with pytest.raises(keras_lowbit.UnsupportedModelError, match="mine: the activation"):
        pipelines.quantized(model, RANGES)


def test_a_layer_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(model.get_layer("first_relu"), "call", lambda x: tf.nn.leaky_relu(x, 0.5))
    with pytest.raises(ValueError, match="computes something else than its layers say"):
        pipelines.quantized(model, RANGES)
    layer = tf_keras.layers.ReLU()
    image = tf_keras.Input((4,), dtype="int32")
    model = tf_keras.Model(image, layer(tf_keras.layers.Dense(3)(image)))
    model.set_weights([np.eye(4, 3), np.zeros(3)])  # so that some outputs are below zero
    monkeypatch.setattr(layer, "call", lambda x: tf.nn.leaky_relu(x, 0.5))
    with pytest.raises(ValueError, match="computes something else than its layers say"):
        pipelines.quantized(model, RANGES, np.arange(64 * 4).reshape(64, 4) - 128)


@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "Keras 3"])
def test_an_input_that_nothing_reads_is_refused(keras: Any) -> None:
    image, idle = keras.Input((4,), name="image"), keras.Input((2,), name="idle")
    model = keras.Model([image, idle], keras.layers.Dense(2)(image))
    for config in (RANGES, dataclasses.replace(RANGES, input_bits=4)):
        with pytest.raises(
            ValueError, match="make the model without them. Received: inputs=.*idle"
        ):
            pipelines.quantized(model, config)


def test_an_input_named_as_a_layer_will_be_is_refused() -> None:
    image = tf_keras.Input((4,), name="quantized_a")
    model = tf_keras.Model(image, tf_keras.layers.Dense(2, name="a")(image))
    with pytest.raises(ValueError, match=r"rename one. Received: inputs=\['quantized_a'\]"):
        pipelines.quantized(model, RANGES)


@pytest.mark.parametrize("part", ["kernel", "output"])
def test_a_layer_named_as_a_tensor_will_be_is_refused(part: str) -> None:
    image = tf_keras.Input((4,))
    inner = tf_keras.layers.Dense(3, name=f"a/{part}")(image)
    model = tf_keras.Model(image, tf_keras.layers.Dense(2, name="a")(inner))
    with pytest.raises(ValueError, match=rf"rename one. Received: layers=\['a/{part}'\]"):
        pipelines.quantized(model, RANGES)


def test_tensors_are_named_as_layers_or_their_known_parts() -> None:
    layers = tf_keras.layers
    series, image = tf_keras.Input((16, 3), name="series"), tf_keras.Input((9, 9, 2), name="image")
    first = layers.Conv1D(4, 3, padding="causal", name="first")(series)
    left = layers.GlobalAveragePooling1D(name="left")(layers.Conv1D(6, 3, name="second")(first))
    padded = layers.ZeroPadding2D(1, name="padded")(layers.Conv2D(6, 3, name="third")(image))
    capped = layers.ReLU(6.0, name="relu")(layers.MaxPooling2D(name="pool")(padded))
    right = layers.GlobalAveragePooling2D(name="right")(capped)
    both = layers.Concatenate(name="both")([left, right])
    outputs = [layers.Dense(3, name="last")(both), layers.Reshape((4, 4), name="shaped")(
        layers.Flatten(name="flat")(layers.Conv1D(1, 1, name="single")(series)))]  # fmt: skip
    model = networks.randomize(tf_keras.Model([series, image], outputs))
    parts = set()
    for bits in (4, 8):
        qmodel = pipelines.quantized(model, pipelines.ranges_only(bits))
        nodes, program = qmodel.student.graph, qmodel.to_program()
        for name in program.tensors:
            layer, _, part = name.partition("/")
            assert layer in nodes
            parts |= {part} - {""}
    assert parts <= {*PARTS}
    assert len(parts) >= 10, parts


def test_an_output_may_be_given_twice(tmp_path: Path) -> None:
    series = tf_keras.Input((8, 3))
    tensor = tf_keras.layers.Conv1D(4, 3, name="series")(series)
    model = tf_keras.Model(series, [tensor, tf_keras.layers.Dropout(0.1)(tensor)])
    qmodel = pipelines.quantized(model, RANGES)
    assert len(set(qmodel.to_program().outputs)) == 1
    pipelines.prove(qmodel, tmp_path)


def test_samples_without_an_axis_are_not_altered(tmp_path: Path) -> None:
    number = tf_keras.Input(())
    model = tf_keras.Model(number, tf_keras.layers.Dense(3)(tf_keras.layers.Reshape((1,))(number)))
    data = np.linspace(-1, 1, 64, dtype=np.float32)
    pipelines.prove(pipelines.quantized(model, PTQConfig(steps=2, tune_steps=2), data), tmp_path)
    with pytest.raises(ValueError, match="Use 'auto', which fits all.*augment='mixup'"):
        pipelines.quantized(model, PTQConfig(augment="mixup"), data)


def test_a_model_made_with_a_variable_of_ones_own_is_loaded(tmp_path: Path) -> None:
    class Mine(variables.AdaQuant):
        name = "mine"

    config = keras_lowbit.PTQConfig(optimize=[Mine()], steps=2, tune_steps=0)
    qmodel = pipelines.quantized(make(), config)
    qmodel.save(tmp_path / "saved")
    again = keras_lowbit.load(tmp_path / "saved")
    assert exported(again, tmp_path) == exported(qmodel, tmp_path)


def test_results_that_are_read_inside_are_targets_too() -> None:
    keras = tf_keras
    inputs = keras.Input((12,))
    features = keras.layers.Dense(8, name="features")(inputs)
    hidden = keras.layers.ReLU()(keras.layers.Dense(8)(features))
    model = networks.randomize(keras.Model(inputs, [features, keras.layers.Dense(2)(hidden)]))
    qmodel = pipelines.quantized(model, RANGES)
    student = qmodel.student
    network = find_units(student.graph, student.placement, "network")[0]
    assert "features" in network.outputs
    assert "features" in network.inner
    x = networks.samples(model, 16)[0]
    simulated = UnitFunction(network, student.model, student)([tf.constant(x)])
    for received, expected in zip(simulated, model.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(received, expected, atol=0.2 * np.abs(expected).max())


def test_only_a_folder_with_a_model_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="Only a folder with a quantized model"):
        pipelines.quantized(make(), RANGES).save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "Keras 3"])
@pytest.mark.parametrize(
    "kind",
    ["dict", "OrderedDict", "one in a dict", "lists in a dict", "lists in an OrderedDict", "tuple"],
)
def test_outputs_in_a_dict_or_tuple(keras: Any, kind: str, tmp_path: Path) -> None:
    """Those of one shape, so that it would not show if they were taken for each other."""
    image = keras.Input((6,), name="image")
    outputs = {name: keras.layers.Dense(2, name=f"dense_{name}")(image) for name in ("z", "a")}
    if kind == "one in a dict":
        outputs.pop("a")
    structures = {
        "OrderedDict": OrderedDict(outputs),
        "lists in a dict": {name: [outputs[name]] for name in outputs},
        "lists in an OrderedDict": OrderedDict({name: [outputs[name]] for name in outputs}),
        "tuple": tuple(outputs.values()),
    }
    model = networks.randomize(keras.Model(image, structures.get(kind, outputs)))
    flat = {"lists in a dict": sorted(outputs), "tuple": list(outputs)}.get(kind)
    if kind == "lists in an OrderedDict":  # flat too, in the order of the flavour
        flat = sorted(outputs) if keras is tf_keras else list(outputs)
    x = networks.samples(model, 64)[0]
    expected = {
        name: x @ np.asarray(layer.get_weights()[0]) + np.asarray(layer.get_weights()[1])
        for name in outputs
        for layer in [model.get_layer(f"dense_{name}")]
    }
    qmodel = pipelines.quantized(model, pipelines.ranges_only(8), x)
    qmodel.save(tmp_path / "saved")
    qmodel.export(tmp_path / "model.tflite")
    for of in (qmodel, keras_lowbit.load(tmp_path / "saved")):
        results = of.model.predict(x, verbose=0)
        if flat:
            results = dict(zip(flat, results, strict=True))
        assert sorted(results) == sorted(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(results[name], values, atol=0.1)
        assert of.verify(tmp_path / "model.tflite", x).ok
    qmodel.model.compile("sgd", "mse")
    labels = [expected[name] for name in flat] if flat else expected
    before = qmodel.model.evaluate(x, labels, verbose=0, return_dict=True)
    assert before["loss"] < 0.01
    if len(outputs) > 1 and not flat:  # each loss bears the name of its own output
        wrong = {**expected, "a": expected["a"] + 10}
        losses = qmodel.model.evaluate(x, wrong, verbose=0, return_dict=True)
        assert losses["a_loss"] > 90 and losses["z_loss"] < 0.01
    qmodel.model.fit(x, labels, verbose=0)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "Keras 3"])
def test_one_tensor_by_two_names(keras: Any, dtype: str) -> None:
    image = keras.Input((6,), name="image", dtype=dtype)
    first, second = keras.layers.Dense(2)(image), keras.layers.Dense(2)(image)
    model = networks.randomize(keras.Model(image, {"z": first, "a": first, "m": second}))
    x = np.random.default_rng(0).integers(-3, 4, (64, 6))
    expected = model.predict(x, verbose=0)
    received = pipelines.quantized(model, pipelines.ranges_only(8), x).model.predict(x, verbose=0)
    for name, values in expected.items():
        np.testing.assert_allclose(received[name], values, atol=0.2)


@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "Keras 3"])
def test_inputs_in_a_dict_of_other_names_than_their_layers(keras: Any, tmp_path: Path) -> None:
    """One of the keys is the name of the other input, and means what it means to Keras."""
    first, second = keras.Input((4,), name="b"), keras.Input((4,), name="other")
    joined = keras.layers.Concatenate()([first, second])
    model = keras.Model({"a": first, "b": second}, keras.layers.Dense(2)(joined))
    left, right = networks.samples(networks.randomize(model), 64)
    data = {"a": left, "b": right}
    dataset = tf.data.Dataset.from_tensor_slices((data, np.zeros((64, 2)))).batch(16)
    qmodel = pipelines.quantized(model, pipelines.ranges_only(8), dataset)
    expected = model.predict(data, verbose=0)
    qmodel.save(tmp_path / "saved")
    qmodel.export(tmp_path / "m.tflite")
    for of in (qmodel, keras_lowbit.load(tmp_path / "saved")):
        np.testing.assert_allclose(of.model.predict(data, verbose=0), expected, atol=0.1)
        np.testing.assert_allclose(of.model.predict([left, right], verbose=0), expected, atol=0.1)
        assert of.verify(tmp_path / "m.tflite", data).ok
    qmodel.model.compile("sgd", "mse")
    qmodel.model.fit(dataset, verbose=0)
    names = {"b": left, "other": right}
    by_name = pipelines.quantized(model, pipelines.ranges_only(8), names)
    np.testing.assert_allclose(by_name.model.predict(data, verbose=0), expected, atol=0.1)
    with pytest.raises(ValueError, match=r"Expected the keys \['a', 'b'\]"):
        pipelines.quantized(model, RANGES, {"a": left})
    if keras is keras3:
        ends = keras.layers.Dense(2)(joined)
        unsorted = keras.Model(OrderedDict(z=first, a=second), ends)
        with pytest.raises(UnsupportedModelError, match=r"sort them.*Received: \['z', 'a'\]"):
            pipelines.quantized(unsorted, RANGES, [left, right])


@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "Keras 3"])
@pytest.mark.parametrize("kind", ["dict", "OrderedDict", "nested"])
def test_inputs_in_a_dict(keras: Any, kind: str) -> None:
    """The two have one shape, so that it would not show if they were taken for each other."""
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    joined = keras.layers.Concatenate()([zeta, alpha])
    structures = {
        "dict": {"zeta": zeta, "alpha": alpha},
        "OrderedDict": OrderedDict(zeta=zeta, alpha=alpha),
        "nested": [zeta, {"alpha": alpha}],
    }
    model = keras.Model(structures[kind], keras.layers.Dense(2)(joined))
    names = [tensor._keras_history[0].name for tensor in networks.randomize(model).inputs]
    data = dict(zip(names, networks.samples(model, 64), strict=True))
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(16)
    x = np.concatenate([data["zeta"], data["alpha"]], axis=1)
    kernel, bias = model.get_weights()
    for samples in (data, dataset):
        qmodel = pipelines.quantized(model, pipelines.ranges_only(8), samples)
        received = qmodel.model.predict(data, verbose=0)
        np.testing.assert_allclose(received, x @ kernel + bias, atol=0.1)


def test_heads_of_probabilities_are_joined(tmp_path: Path) -> None:
    """As detectors do: all have the range that TFLite fixes."""
    layers, image = tf_keras.layers, tf_keras.Input((8, 8, 3), name="image")
    coarse = layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    heads = [
        layers.Reshape((-1, 2))(layers.Conv2D(2, 1, activation="sigmoid")(x))
        for x in (image, coarse)
    ]
    model = networks.randomize(tf_keras.Model(image, layers.Concatenate(axis=1)(heads)))
    qmodel = pipelines.quantized(model, PTQConfig(optimize=(), tune_steps=0))
    pipelines.prove(qmodel, tmp_path)
    [joined] = [o for o in qmodel.to_program().ops if o.kind == "CONCATENATION"]
    tensors = qmodel.to_program().tensors
    assert {float(tensors[name].scale[0]) for name in (*joined.inputs, *joined.outputs)} == {
        1 / 256
    }


@pytest.mark.parametrize("bits", [4, 8])
def test_batch_norms_of_sequences_and_vectors(bits: int, tmp_path: Path) -> None:
    network = chain(
        (16, 3), lambda k: k.BatchNormalization(name="first"),
        lambda k: k.Conv1D(5, 3, padding="same", activation="relu"), lambda k: k.BatchNormalization(),
        lambda k: k.ReLU(), lambda k: k.MaxPooling1D(2), lambda k: k.Flatten(),
        lambda k: k.Dense(6, activation="relu"), lambda k: k.BatchNormalization(name="last"),
    )  # fmt: skip
    qmodel = pipelines.quantized(networks.randomize(network(tf_keras)), pipelines.ranges_only(bits))
    assert qmodel.notes["last"] == "became a 1x1 depthwise convolution"
    pipelines.prove(qmodel, tmp_path)


def test_the_global_data_format_does_not_matter(tmp_path: Path) -> None:
    model = networks.randomize(networks.residual(tf_keras))
    expected = pipelines.quantized(model, RANGES)
    tf_keras.backend.set_image_data_format("channels_first")
    try:
        found = pipelines.quantized(model, RANGES)
    finally:
        tf_keras.backend.set_image_data_format("channels_last")
    expected.export(tmp_path / "expected")
    found.export(tmp_path / "found")
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


@pytest.mark.parametrize("keras", [tf_keras, keras3], ids=["tf_keras", "keras3"])
@pytest.mark.parametrize("offset", [0.0, -1.0])
def test_images_rescaled_inside_the_model(keras: Any, offset: float, tmp_path: Path) -> None:
    """Without an offset, padding stays zero, and the factor is part of the first kernel."""
    layers, image = keras.layers, keras.Input((12, 12, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=offset, name="scale")(image)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu", name="second")(x))
    x = layers.Dense(3, name="last")(x)
    outputs = layers.Normalization(mean=[1.0, 2, 3], variance=[0.1, 0.2, 4], invert=True)(x)
    model = networks.randomize(keras.Model(image, outputs))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 12, 12, 3)).astype(np.uint8)
    qmodel = pipelines.quantized(model, PTQConfig.edge8(4, optimize=(), tune_steps=0), pixels)
    place = "became a 1x1 depthwise convolution" if offset else "folded into first"
    assert qmodel.notes["scale"] == place
    bits = {name: spec.bits for name, spec in qmodel.student.placement.weights.items()}
    assert bits == {"first": 8, "second": 4, "last": 8} | ({"scale": 8} if offset else {})
    expected, received = np.asarray(model(pixels)), qmodel.model.predict(pixels, verbose=0)
    assert np.abs(received - expected).max() < 0.1 * np.abs(expected).max()
    pipelines.prove(qmodel, tmp_path)
