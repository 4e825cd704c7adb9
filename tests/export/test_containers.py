"""Exporting with packing and stripping: exact, never larger, refused where it cannot run."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from programs import Builder, random_inputs

import keras_lowbit
from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.export import flatbuffer, integer_reference, runtimes
from keras_lowbit.export.containers import (
    PACKINGS,
    STRIPS,
    check_options,
    choose_containers,
    read_containers,
    runtimes_for,
)
from keras_lowbit.export.ir import Program
from keras_lowbit.export.metadata import sidecar_path
from keras_lowbit.export.vela import compile_for_ethos_u, vela_command
from keras_lowbit.export.verify import TWIN
from models import data, pretrained

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)


def containers(metadata: dict[str, Any]) -> dict[str, str]:
    return {
        name.removesuffix("/kernel"): entry["container"]
        for name, entry in metadata["tensors"].items()
        if name.endswith("/kernel")
    }


@needs_tflm
@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_exact_on_tflm_and_as_the_int8_file(
    bits: int, packing: str, strip: str, by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    qmodel = by_bits[bits]
    pipelines.prove(qmodel, tmp_path, packing=packing, strip=strip)
    blob = (tmp_path / "model.tflite").read_bytes()
    found = read_containers(blob, qmodel.to_program())
    program = qmodel.to_program(found)
    inputs = qmodel.quantize_input(networks.samples(qmodel.model, 3)[0])
    packed = runtimes.run_all_tensors(blob, "tflm", inputs, tuple(program.tensors))
    twin = runtimes.run_all_tensors(flatbuffer.write(program), "tflm", inputs)
    assert packed.keys() == twin.keys()
    for name, expected in twin.items():
        np.testing.assert_array_equal(packed[name], expected, name)
    assert "litert" not in runtimes_for(blob, program) or "lut" not in found.values()


@pytest.mark.parametrize(
    ("bits", "packing", "target", "expected"),
    [
        (4, "int8", "tflm", ["int8", "int8", "int8", "int8"]),
        (4, "int4", "tflm", ["int4", "int4", "int8", "int4"]),
        (4, "auto", "tflm", ["int4", "int4", "lut", "int4"]),
        (2, "lut", "tflm", ["lut", "int8", "lut", "int8"]),
        (2, "auto", "tflm", ["lut", "int4", "lut", "int4"]),
        (2, "int4", "litert", ["int4", "int4", "int4", "int4"]),
        (2, "auto", "litert", ["int4", "int4", "int2", "int2"]),
        (2, "auto", "ethos-u", ["int8", "int8", "int8", "int8"]),
        (6, "auto", "litert", ["int8", "int8", "int8", "int8"]),
        (6, "int4", "tflm", ["int8", "int8", "int8", "int8"]),
    ],
)
def test_containers(
    bits: int,
    packing: str,
    target: str,
    expected: list[str],
    by_bits: dict[int, QuantizedModel],
    tmp_path: Path,
) -> None:
    """Conv, depthwise, a dense layer with a scale per unit, and one with a single unit."""
    path = tmp_path / "m.tflite"
    metadata = by_bits[bits].export(path, packing=packing, target=target)
    assert list(containers(metadata).values()) == expected
    assert keras_lowbit.read_metadata(path) == metadata
    named = {layer: name for layer, name in containers(metadata).items() if name != "int8"}
    assert read_containers(path.read_bytes(), by_bits[bits].to_program()) == named


@pytest.mark.parametrize("strip", STRIPS[:2])
@pytest.mark.parametrize("packing", ["int4", "auto"])
@pytest.mark.parametrize("bits", [2, 4])
def test_litert_runs_its_files(
    bits: int, packing: str, strip: str, by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    qmodel = by_bits[bits]
    path = tmp_path / "m.tflite"
    qmodel.export(path, packing=packing, strip=strip, target="litert")
    verification = qmodel.verify(path, networks.samples(qmodel.model, 4)[0])
    assert set(verification.runtimes) - {TWIN} == {"litert_ref", "litert"}
    assert verification.ok, verification


def test_no_other_containers_make_a_smaller_file() -> None:
    """Depthwise and other layers share no tables; each kind pays for its own, or for none."""
    network = networks.chain(
        (6, 6, 64),
        lambda k: k.DepthwiseConv2D(3, name="depthwise"),
        lambda k: k.Conv2D(64, 1, name="pointwise"),
        lambda k: k.DepthwiseConv2D(3, name="depthwise_2"),
        lambda k: k.Conv2D(64, 1, name="pointwise_2"),
        lambda k: k.Flatten(),
        lambda k: k.Dense(4, name="last"),
    )
    config = PTQConfig(3, 8, weight_grid="midrise", optimize=(), tune_steps=0)
    qmodel = pipelines.quantized(networks.randomize(network(tf_keras)), config)
    layers = ("depthwise", "pointwise", "depthwise_2", "pointwise_2", "last")
    program = qmodel.to_program(dict.fromkeys(layers[:-1], "int4"))

    def size(containers: Iterable[str]) -> int:
        named = {n: c for n, c in zip(layers, containers, strict=True) if c != "int8"}
        return flatbuffer.file_size(program, named, "micro")

    chosen = choose_containers(
        lambda named: qmodel.to_program(dict(named)), "auto", "micro", "tflm"
    )
    found = size(chosen.get(name, "int8") for name in layers)
    every = itertools.product(*[("int8", "int4", "lut")] * 4, ("int8", "lut"))
    assert found == min(map(size, every))
    kinds = [chosen[name] for name in layers[:-1]]
    assert kinds == ["int4", "lut", "int4", "lut"]  # of one kind alone the file would be larger
    assert found < min(size([kind] * 4 + ["int8"]) for kind in ("int4", "lut"))


def test_a_dense_layer_with_equal_scales_is_packed_for_tflm(tmp_path: Path) -> None:
    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Input((40,)), layers.Dense(8, name="only")])
    kernel = np.random.default_rng(0).integers(-7, 8, (40, 8)).astype(np.float32)
    kernel[0] = 7.0
    model.set_weights([kernel, np.arange(8, dtype=np.float32)])
    config = PTQConfig(4, 8, optimize=(), tune_steps=0, weight_range="minmax")
    qmodel = pipelines.quantized(model, config)
    assert containers(qmodel.export(tmp_path / "m.tflite", packing="int4")) == {"only": "int4"}
    assert qmodel.to_program({"only": "int4"}).tensors["only/kernel"].scale.shape == (1,)
    if "tflm" in runtimes.available():
        for strip in STRIPS:
            pipelines.prove(qmodel, tmp_path, packing="int4", strip=strip)


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_packing_never_makes_a_file_larger(bits: int, by_bits: dict[int, QuantizedModel]) -> None:
    lower, sizes = by_bits[bits].to_program, {}
    for packing in PACKINGS:
        found = choose_containers(lower, packing, "micro", "tflm")
        sizes[packing] = len(flatbuffer.write(lower(found), None, found, "micro"))
    assert sizes["auto"] <= min(sizes["int4"], sizes["lut"]) + 16
    assert max(sizes["int4"], sizes["lut"]) <= sizes["int8"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("zip", "none", "tflm"), "`packing` must be one of.*Received: packing='zip'"),
        (("int8", "all", "tflm"), "`strip` must be one of.*Received: strip='all'"),
        (("int8", "none", "tvm"), "`target` must be one of.*Received: target='tvm'"),
        (("lut", "none", "litert"), "no DECODE operator.*Received: packing='lut'"),
        (("int4", "none", "ethos-u"), "Vela compiles weights in int8.*Received: packing='int4'"),
        (("lut", "none", "ethos-u"), "stay on the CPU.*Received: packing='lut', target='ethos-u'"),
        (("auto", "micro", "litert"), "single zero point.*Received: strip='micro'"),
    ],
)
def test_refusals(options: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(*options)


@needs_tflm
def test_a_grid_without_zero_needs_a_bit_more() -> None:
    """4 bits fill INT4, so a level between two of its codes is not there."""
    config = PTQConfig(4, weight_grid="midrise", optimize=(), tune_steps=0)
    model = networks.randomize(networks.chain((6,), lambda k: k.Dense(4, name="layer"))(tf_keras))
    qmodel = pipelines.quantized(model, config)
    codes = qmodel.to_program().tensors["layer/kernel"].data
    assert set(np.unique(codes)) <= set(range(-120, 121, 16))
    with pytest.raises(ValueError, match="'layer'.*'midrise'.*4 bits in 'int4'"):
        qmodel.to_program({"layer": "int4"})


def test_a_bias_that_would_be_too_coarse_is_not_packed() -> None:
    """Steps of the sum, in codes of four bits, are 3.9 and 4.1 steps of the output."""

    def lower(containers: Mapping[str, str]) -> Program:
        build = Builder(0, 8)
        source = build.input((1, 64), 1.0, 0)
        names = []
        for index, scale in enumerate((1 / 3.9, 1 / 4.1)):
            shift = 0 if f"layer_{index}" in containers else 4
            codes = np.resize(np.arange(-7 + index, 8), (4, 64)).astype(np.int8) * np.int8(2**shift)
            step = np.full(4, 2.0**-shift, np.float32)
            weights = build.constant(codes, step, bits=4, shift=shift)
            names.append(build.activation((1, 4), scale, 0))
            build.apply("FULLY_CONNECTED", (source, weights), names[-1])
        return build.program(*names)

    assert choose_containers(lower, "int4", "none", "litert") == {"layer_0": "int4"}


def test_what_xnnpack_refuses_is_not_exported_for_litert_nor_run_there() -> None:
    """It refuses factors of 256, or aborts the process."""
    build = Builder(0, 8)
    source = build.input((1, 3), 1.0, 0)
    names = []
    for scale in (1 / 255, 1 / 256):
        weights = build.constant(np.ones((2, 3), np.int8), np.float32([0.5, 1]))
        names.append(build.activation((1, 2), scale, 0))
        build.apply("FULLY_CONNECTED", (source, weights), names[-1])
    program = build.program(*names)
    with pytest.raises(ValueError, match=r"below 256 times.*Received: layers \['layer_1'\]"):
        choose_containers(lambda _: program, "int8", "none", "litert")
    assert choose_containers(lambda _: program, "int8", "none", "tflm") == {}
    blob = flatbuffer.write(program)
    assert runtimes_for(blob, program) == ("tflm", "litert_ref")
    inputs = random_inputs(program, 3)
    expected = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
    for name, values in runtimes.run_all_tensors(blob, "tflm", inputs).items():
        np.testing.assert_array_equal(values, expected[name])
    fitting = Program(
        {name: program.tensors[name] for name in (source, program.ops[0].inputs[1], names[0])}, program.ops[:1],
        program.inputs, tuple(names[:1]),
    )  # fmt: skip
    assert "litert" in runtimes_for(flatbuffer.write(fitting), fitting)
    runtimes.run(flatbuffer.write(fitting), "litert", inputs)


def test_sums_that_xnnpack_gets_wrong_are_not_exported_for_litert(tmp_path: Path) -> None:
    left, right = tf_keras.Input((8, 8, 3)), tf_keras.Input((8, 8, 3))
    model = tf_keras.Model(
        [left, right], tf_keras.layers.ReLU(6.0)(tf_keras.layers.Add(name="sum")([left, right]))
    )
    data = [3000 * x for x in networks.samples(model, 32)]
    qmodel = pipelines.quantized(model, pipelines.ranges_only(8), data)
    with pytest.raises(ValueError, match=r"scale of a summand.*Received: layers \['sum'\]"):
        qmodel.export(tmp_path / "m.tflite", target="litert")
    qmodel.export(tmp_path / "m.tflite")
    report = qmodel.verify(tmp_path / "m.tflite", data)
    assert report.ok
    assert "litert" not in report.runtimes


def test_the_side_car(by_bits: dict[int, QuantizedModel], tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    plain = by_bits[4].export(path)
    assert not sidecar_path(path).exists()
    metadata = by_bits[4].export(path, overwrite=True, strip="names")
    assert metadata["tensors"] == plain["tensors"]
    assert json.loads(sidecar_path(path).read_text()) == metadata
    assert keras_lowbit.read_metadata(path) == keras_lowbit.read_metadata(str(path)) == metadata
    with pytest.raises(ValueError, match="no 'KERAS_LOWBIT_METADATA' entry and no JSON"):
        keras_lowbit.read_metadata(path.read_bytes())

    path.rename(tmp_path / "other.tflite")
    with pytest.raises(ValueError, match=r"exists already.*m.tflite.json"):
        by_bits[4].export(path, strip="micro")
    assert not path.exists()
    by_bits[2].export(tmp_path / "two.tflite", strip="micro")
    sidecar_path(path).replace(sidecar_path(tmp_path / "two.tflite"))
    with pytest.raises(ValueError, match=r"two.tflite.json' describes another model"):
        keras_lowbit.read_metadata(tmp_path / "two.tflite")


def test_a_file_of_another_model_is_not_proven(
    by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    by_bits[4].export(tmp_path / "four.tflite", packing="auto", strip="micro")
    samples = networks.samples(by_bits[4].model, 2)[0]
    assert not by_bits[6].verify(tmp_path / "four.tflite", samples).ok
    (tmp_path / "text.tflite").write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="not a TFLite flatbuffer"):
        by_bits[4].verify(tmp_path / "text.tflite", samples)
    narrow = networks.chain((6, 6, 16), lambda k: k.Conv2D(3, 3, name="large"))(tf_keras)
    other = pipelines.quantized(networks.randomize(narrow), by_bits[4].config)
    other.export(tmp_path / "other.tflite", packing="auto", strip="micro")
    with pytest.raises(ValueError, match="not written from this program"):
        by_bits[4].verify(tmp_path / "other.tflite", samples)


@functools.cache
def real(network: str, bits: int) -> tuple[QuantizedModel, np.ndarray]:
    """A network of MLPerf Tiny, ranges only, and images."""
    model = getattr(pretrained, f"load_{network}")()
    samples = {"res8": lambda: data.cifar10_calibration(34), "mobilenet": data.load_vww}[network]()
    images = getattr(samples, "x_calib", samples)[:34]
    config = PTQConfig(bits, 8, optimize=(), tune=())
    return pipelines.quantized(model, config, images[:32]), images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "bits", "packing", "limit"),
    [
        ("res8", 4, "int4", 49_000), ("res8", 2, "auto", 43_000), ("mobilenet", 4, "int4", 158_000),
    ],
)  # fmt: skip
def test_sizes_of_real_models(
    network: str, bits: int, packing: str, limit: int, shared_data: Path, tmp_path: Path
) -> None:
    del shared_data
    qmodel, images = real(network, bits)
    path = tmp_path / "m.tflite"
    qmodel.export(path, packing=packing, strip="micro")
    assert path.stat().st_size <= limit
    if "tflm" in runtimes.available():
        assert qmodel.verify(path, images[-2:]).ok


@pytest.mark.slow
@pytest.mark.skipif(
    vela_command() is None, reason="Vela is not installed: pip install ethos-u-vela"
)
def test_a_real_model_on_ethos_u(shared_data: Path, tmp_path: Path) -> None:
    del shared_data
    path = tmp_path / "m.tflite"
    real("res8", 4)[0].export(path, packing="auto", strip="micro", target="ethos-u")
    result = compile_for_ethos_u(path.read_bytes())
    assert result.weight_bytes == 77_360
    assert 34 * 1024 < result.encoded_weight_bytes < 37 * 1024
    assert result.cpu_operators == ()


def test_folders_are_not_replaced_and_none_is_made_for_a_refused_export(
    by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="cannot take the place of a folder. Received"):
        by_bits[2].export(tmp_path, overwrite=True)
    assert not list(tmp_path.parent.glob("*.part"))
    with pytest.raises(ValueError, match="packing"):
        by_bits[2].export(tmp_path / "new" / "m.tflite", packing="zip")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder: choose another place"):
        by_bits[2].export(tmp_path / "file" / "m.tflite")
