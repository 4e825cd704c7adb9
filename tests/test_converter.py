"""The converter with TFLiteConverter's interface: its bytes are ours, what it cannot do is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras as keras3
import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import chain

import keras_lowbit
from keras_lowbit import Budget, Converter, PTQConfig
from keras_lowbit.export import runtimes

SHORT = PTQConfig(weight_bits=3, steps=3, tune_steps=3)
RANGES = PTQConfig(weight_bits=3, optimize=(), tune_steps=0)
COUNT = 40

small = chain(
    (5, 5, 2), lambda k: k.Conv2D(4, 3, activation="relu", name="first"), lambda k: k.Flatten(),
    lambda k: k.Dense(3, name="last"),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return networks.randomize(small(tf_keras))


@pytest.fixture(scope="module")
def samples(model: Any) -> np.ndarray:
    return networks.samples(model, COUNT)[0]


def build_script(converter_class: Any, model: Any, samples: np.ndarray, **own: Any) -> bytes:
    """What a build that uses tf.lite.TFLiteConverter does."""

    def representative_dataset() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample[np.newaxis].astype(np.float32)]

    converter = converter_class.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.target_spec.supported_types = [tf.int8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    converter.experimental_new_converter = True
    for name, value in own.items():
        setattr(converter, name, value)
    return converter.convert()


def exported(model: Any, samples: Any, folder: Path, config: PTQConfig, **options: str) -> bytes:
    path = folder / "expected.tflite"
    qmodel = keras_lowbit.quantize(model, samples, config=config, verbose=0)
    qmodel.export(path, overwrite=True, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    "options", [{}, {"packing": "auto", "strip": "micro"}, {"packing": "int4", "target": "litert"}]
)
def test_the_bytes_of_quantize_and_export(
    model: Any, samples: np.ndarray, tmp_path: Path, options: dict[str, str]
) -> None:
    blob = build_script(Converter, model, samples, config=RANGES, verbose=0, **options)
    assert blob == exported(model, samples, tmp_path, RANGES, **options)


def test_a_script_for_tf_lites_converter_runs_with_either() -> None:
    model = networks.randomize(small(keras3))
    samples = networks.samples(model, COUNT)[0]
    own = build_script(Converter, model, samples, config=RANGES, verbose=0)
    incumbent = build_script(tf.lite.TFLiteConverter, model, samples)
    codes = [np.zeros((2, 5, 5, 2), np.int8)]
    shapes = [runtimes.run(blob, "litert", codes)[0].shape for blob in (own, incumbent)]
    assert shapes == [(2, 3), (2, 3)]


class Noted(keras_lowbit.callbacks.Callback):
    """Notes the names of the units."""

    def __init__(self) -> None:
        self.units: list[str] = []

    def on_unit_begin(self, unit: int, logs: Any = None) -> None:
        self.units.append(logs["name"])


def configured(model: Any, dataset: Any) -> Converter:
    converter = Converter.from_keras_model(model)
    converter.representative_dataset = dataset
    converter.config, converter.verbose = RANGES, 0
    return converter


def test_results_and_the_arguments_of_quantize(
    model: Any, samples: np.ndarray, tmp_path: Path
) -> None:
    dataset = tf.lite.RepresentativeDataset(lambda: [[x[None]] for x in samples])
    converter = configured(model, dataset)
    noted = Noted()
    converter.config, converter.callbacks, converter.strip = SHORT, [noted], "names"
    converter.checkpoint_dir, converter.seed = tmp_path / "checkpoint", 3
    path = tmp_path / "model.tflite"
    path.write_bytes(converter.convert())
    path.with_name("model.tflite.json").write_text(json.dumps(converter.metadata))
    assert "first" in noted.units
    assert any((tmp_path / "checkpoint").iterdir())
    assert converter.quantized_model.verify(path, samples[:4]).ok
    assert converter.metadata["tensors"]["first/kernel"]["bits"] == 3
    seeded = keras_lowbit.quantize(model, samples, config=SHORT, seed=3, verbose=0)
    seeded.export(tmp_path / "seeded.tflite", strip="names")
    assert path.read_bytes() == (tmp_path / "seeded.tflite").read_bytes()


def test_bits_reach_quantize(model: Any, samples: np.ndarray) -> None:
    converter = configured(model, lambda: [[samples]])
    converter.weight_bits, converter.activation_bits = 2, 5
    with pytest.raises(ValueError, match="twice.*weight_bits=2, activation_bits=5"):
        converter.convert()


@pytest.mark.parametrize("form", ["dict", "signature", "tuple", "batches"])
def test_forms_of_representative_data(
    model: Any, samples: np.ndarray, tmp_path: Path, form: str
) -> None:
    elements: Callable[[], Any] = {
        "dict": lambda: ({"image": x[None]} for x in samples),
        "signature": lambda: (("serving_default", {"image": x[None]}) for x in samples),
        "tuple": lambda: ((x[None],) for x in samples),
        "batches": lambda: [[tf.constant(samples[:8])], [samples[8:]]],
    }[form]
    assert configured(model, elements).convert() == exported(model, samples, tmp_path, RANGES)


def test_several_inputs(tmp_path: Path) -> None:
    left, right = tf_keras.Input((3,), name="left"), tf_keras.Input((2,), name="right")
    dense = [tf_keras.layers.Dense(4, name=f"{name}_dense") for name in ("left", "right")]
    joined = tf_keras.layers.Add(name="sum")([dense[0](left), dense[1](right)])
    model = networks.randomize(tf_keras.Model([left, right], joined))
    data = networks.samples(model, COUNT)
    expected = exported(model, data, tmp_path, RANGES)
    pairs = [(a[None], b[None]) for a, b in zip(*data, strict=True)]
    assert configured(model, lambda: [[a, b] for a, b in pairs]).convert() == expected
    named = [{"right": b, "left": a} for a, b in pairs]
    assert configured(model, lambda: named).convert() == expected


def test_a_saved_model(model: Any, samples: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    model.save(folder)
    converter = Converter.from_saved_model(folder, ["serving_default"], {"serve"})
    converter.representative_dataset = lambda: [[samples]]
    converter.config, converter.verbose = RANGES, 0
    assert converter.convert() == exported(model, samples, tmp_path, RANGES)
    with pytest.raises(ValueError, match="`signature_keys` chooses nothing.*Received: .*'other'"):
        Converter.from_saved_model(folder, signature_keys=["other"])
    with pytest.raises(ValueError, match="no model at this path"):
        Converter.from_saved_model(tmp_path / "none")


def spec_without(name: str) -> Any:
    """A target specification for int8 that asks for more."""
    spec = tf.lite.TargetSpec([tf.lite.OpsSet.TFLITE_BUILTINS_INT8])
    setattr(spec, name, {"GPU"})
    return spec


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("allow_custom_ops", True, "no equivalent of TFLiteConverter's `allow_custom_ops`"),
        ("exclude_conversion_metadata", True, "`exclude_conversion_metadata`: remove the line"),
        ("experimental_new_quantizer", False, "`experimental_new_quantizer`"),
        ("_experimental_disable_per_channel", True, "no attribute `_experimental_disable_per_ch"),
        ("weight_bit", 3, "no attribute `weight_bit`.*weight_bits"),
        ("inference_input_type", tf.uint8, "Set inference_input_type = tf.int8.*Received.*uint8"),
        ("inference_output_type", tf.float32, "Set inference_output_type = tf.int8.*float32"),
        ("inference_input_type", "bytes", "inference_input_type='bytes'"),
        ("optimizations", [], "always quantizes.*Received: optimizations=\\[\\]"),
        ("optimizations", [tf.lite.Optimize.EXPERIMENTAL_SPARSITY], "EXPERIMENTAL_SPARSITY"),
        ("target_spec", tf.lite.TargetSpec(), "TFLITE_BUILTINS_INT8.*Received: .*supported_ops="),
        ("target_spec", spec_without("experimental_supported_backends"), "supported_backends"),
        ("target_spec", spec_without("experimental_spelled"), "`target_spec.experimental_spelled`"),
        ("target_spec", spec_without("supported_types"), "target_spec.supported_types"),
        ("target_spec", None, "must be a tf.lite.TargetSpec. Received: NoneType"),
        ("representative_dataset", None, "must be a function.*Received: .*NoneType"),
        ("representative_dataset", [np.zeros((1, 5, 5, 2))], "must be a function.*list"),
        ("representative_dataset", lambda: iter(()), "data are empty"),
        ("representative_dataset", lambda: None, "must yield lists or dicts.*returned None"),
        ("optimizations", [[1]], r"always quantizes.*\[\[1\]\]"),
        ("packing", "zip", "`packing` must be one of"),
        ("budget", Budget(flash="6kB"), "choose packing 'auto'.*Received: .*int8"),
    ],
)
def test_what_is_not_possible_is_refused(
    model: Any, samples: np.ndarray, name: str, value: Any, message: str
) -> None:
    converter = configured(model, lambda: [[samples]])
    with pytest.raises(ValueError, match=f"(?s){message}"):
        setattr(converter, name, value)
        converter.convert()
    assert converter.quantized_model is None


def test_a_list_changed_after_it_was_set_counts(model: Any, samples: np.ndarray) -> None:
    converter = configured(model, lambda: [[samples]])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.target_spec.supported_ops.append(tf.lite.OpsSet.SELECT_TF_OPS)
    with pytest.raises(ValueError, match="SELECT_TF_OPS"):
        converter.convert()


def test_every_documented_default_of_tf_lites_converter_may_be_set(model: Any) -> None:
    """So that our list of them is theirs."""
    incumbent = vars(tf.lite.TFLiteConverter.from_keras_model(model))
    documented = set(re.findall(r"^    (\w+): ", tf.lite.TFLiteConverter.__doc__, re.MULTILINE))
    converter = Converter.from_keras_model(model)
    assert len(documented) >= 10
    for name in documented:
        setattr(converter, name, incumbent[name])


def test_concrete_functions_are_refused() -> None:
    with pytest.raises(ValueError, match="call from_keras_model"):
        Converter.from_concrete_functions([])


def test_one_value_instead_of_a_list_is_refused_by_name(model: Any, samples: np.ndarray) -> None:
    converter = configured(model, lambda: ([x[None]] for x in samples))
    assert converter.allow_custom_ops is False  # readable, as TFLiteConverter's
    converter.optimizations = tf.lite.Optimize.DEFAULT
    with pytest.raises(ValueError, match="Received: optimizations="):
        converter.convert()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    with pytest.raises(ValueError, match=r"Received: target_spec\.supported_ops="):
        converter.convert()


def test_the_quantized_model_outlives_an_export_that_fails(
    model: Any, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(keras_lowbit.QuantizedModel, "export", fail)
    converter = Converter.from_keras_model(model)
    converter.representative_dataset = lambda: ([x[None]] for x in samples)
    converter.config, converter.verbose = RANGES, 0
    with pytest.raises(ValueError, match="no room"):
        converter.convert()
    assert converter.quantized_model.student.kernels
