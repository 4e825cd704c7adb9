"""Reading back: every packing and strip level gives the simulation's weights, and a table says what is where."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from programs import Builder

import keras_lowbit
from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.export import flatbuffer, packing
from keras_lowbit.export.ir import Program, Tensor
from keras_lowbit.export.load_tflite import other_values
from keras_lowbit.export.metadata import sidecar_path

OPTIONS = [
    *[("tflm", p, s) for p in ("int8", "int4", "lut", "auto") for s in ("none", "names", "micro")],
    *[("litert", p, s) for p in ("int4", "auto") for s in ("none", "names")],
]


def in_tflite_layout(kind: str, kernel: np.ndarray) -> np.ndarray:
    """A kernel of tf_keras as TFLite stores it."""
    if kind == "Dense":
        return kernel.T
    if kind == "DepthwiseConv2D":
        return kernel.reshape(1, *kernel.shape[:2], -1)
    return kernel.transpose(3, 0, 1, 2)


def simulated_kernels(qmodel: QuantizedModel) -> dict[str, np.ndarray]:
    """What the layers of the simulation compute with, in TFLite's layout."""
    student, kernels = qmodel.student, {}
    for name, quantizer in student.weight_quantizers.items():
        values = quantizer(student.kernels[name], False, quantizer.variables).numpy()
        kernels[f"{name}/kernel"] = in_tflite_layout(student.graph[name].kind, values)
    return kernels


def with_one_other_code(program: Program, index: int) -> Program:
    """The last code of a constant is another one."""
    tensor = list(program.tensors.values())[index]
    data = np.array(tensor.data)
    data.flat[-1] = tensor.qmin if data.flat[-1] > tensor.qmin else tensor.qmax
    changed = dataclasses.replace(tensor, data=data)
    return dataclasses.replace(program, tensors={**program.tensors, tensor.name: changed})


@pytest.mark.parametrize(("target", "packing", "strip"), OPTIONS)
def test_round_trip(
    target: str, packing: str, strip: str, by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    for bits, qmodel in by_bits.items():
        path = tmp_path / f"{bits}.tflite"
        metadata = qmodel.export(path, packing=packing, strip=strip, target=target)
        tensors = keras_lowbit.load_tflite(path)
        expected = simulated_kernels(qmodel)
        assert {name for name in tensors if name.endswith("/kernel")} == set(expected)
        entries = metadata["tensors"]
        containers = {name.removesuffix("/kernel"): entries[name]["container"] for name in expected}
        program = qmodel.to_program(containers)
        for name, kernel in expected.items():
            stored, written = tensors[name], program.tensors[name]
            np.testing.assert_array_equal(stored.values, kernel)
            assert stored.codes.dtype == np.int8
            np.testing.assert_array_equal(stored.codes, written.data)
            np.testing.assert_array_equal(stored.scale, written.scale)
            assert (stored.bits, stored.container) == (bits, containers[name.split("/")[0]])
            assert (stored.axis, stored.zero_point) == (entries[name]["axis"], 0)
            last = np.moveaxis(stored.codes.astype(int), stored.axis, -1)
            codes = (last - stored.offset) >> stored.shift
            assert -(2 ** (bits - 1)) <= codes.min() <= codes.max() < 2 ** (bits - 1)
            bias = tensors[name.replace("kernel", "bias")]
            written = program.tensors[bias.name]
            np.testing.assert_array_equal(bias.codes, written.data)
            np.testing.assert_array_equal(bias.scale, written.scale)
            assert (bias.bits, bias.container) == (32, "int32")
            for changed in (tensors[name].index, bias.index):
                others = with_one_other_code(program, changed)
                assert len(other_values(path.read_bytes(), others, containers)) == 1
        assert other_values(path.read_bytes(), program, containers) == ()
        image = tensors["image"]
        assert image.codes is None and image.values is None
        assert (image.scale[0], image.zero_point) == (
            program.tensors["image"].scale[0],
            program.tensors["image"].zero_point,
        )
        if bits == 2 and packing == "auto":
            used = {tensor.container for tensor in tensors.values()}
            assert used == {"int8", "int32", "int4", "int2" if target == "litert" else "lut"}


@pytest.mark.parametrize("grid", ["narrow", "full", "midrise", "centred"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_next_to_a_border_are_rounded_as_the_simulation_does(
    grid: str, bits: int, tmp_path: Path
) -> None:
    """Where kernels are still the float model's: with codes around zero, -1e-12 may become either of two."""
    model = networks.chain((16,), lambda k: k.Dense(4, name="layer"))(tf_keras)
    kernel = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    kernel[::4] *= np.float32(-1e-12)
    kernel[1::4] = np.round(kernel[1::4] * 2) / 2
    model.get_layer("layer").set_weights([kernel, np.zeros(4, np.float32)])
    config = pipelines.ranges_only(8, weight_bits=bits, weight_grid=grid)
    qmodel = pipelines.quantized(model, config)
    qmodel.student.weight_quantizers["layer"].set_scale(np.full((1, 4), 0.25, np.float32))
    qmodel.export(tmp_path / "model.tflite")
    stored = keras_lowbit.load_tflite(tmp_path / "model.tflite")["layer/kernel"].values
    np.testing.assert_array_equal(stored, simulated_kernels(qmodel)["layer/kernel"])


def test_biases_are_those_of_the_model_within_half_a_step(tmp_path: Path) -> None:
    model = networks.randomize(networks.two_outputs(tf_keras))
    qmodel = pipelines.quantized(model, PTQConfig(3, 8, optimize=(), tune_steps=0))
    qmodel.export(tmp_path / "m.tflite")
    tensors = keras_lowbit.load_tflite((tmp_path / "m.tflite").read_bytes())
    for name in ("trunk", "left", "right"):
        bias = tensors[f"{name}/bias"]
        error = np.abs(bias.values - qmodel.student.values()[f"{name}/bias"])
        assert np.all(error <= 0.501 * bias.scale)


def test_without_the_side_car_nothing_is_guessed(
    by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    path = tmp_path / "m.tflite"
    by_bits[4].export(path, strip="names")
    sidecar_path(path).unlink()
    for reader in (keras_lowbit.load_tflite, keras_lowbit.read_metadata):
        with pytest.raises(ValueError, match="no JSON file beside it"):
            reader(path)
    with pytest.raises(ValueError, match="no JSON file beside it"):
        by_bits[4].verify(path, networks.samples(by_bits[4].model, 1)[0])
    shown = keras_lowbit.inspect(path)
    assert not shown.known
    assert shown.tensors[0]["tensor"] == "image" and shown.tensors[1]["tensor"] == "#1"


def test_metadata_that_do_not_fit_the_file_say_so() -> None:
    build = Builder(1, 4)
    program = build.program(build.conv(build.input((1, 4, 4, 3)), 4))
    kernel = program.ops[0].inputs[1]
    good = keras_lowbit.read_metadata(flatbuffer.write(program, _metadata(program)))
    for field, value, message in (
        ("container", "int4", "stored as int8, not int4"),
        ("qmax", 15, "not on the grid"),
        ("shift", 6, "not on the grid"),
        ("granularity", "tensor", "not on the grid"),
        ("index", 2, "metadata do not fit the file"),
    ):
        entries = {name: dict(entry) for name, entry in good["tensors"].items()}
        entries[kernel][field] = value
        blob = flatbuffer.write(program, {**good, "tensors": entries})
        with pytest.raises(ValueError, match=message):
            keras_lowbit.load_tflite(blob)


def _metadata(program):
    from keras_lowbit.export.metadata import build_metadata

    return build_metadata(program, "test")


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 3, 5), (1, 2, 2, 6)])
@pytest.mark.parametrize("container", ["int8", "int4", "int2", "lut"])
def test_containers_are_unpacked(container: str, shape: tuple[int, ...]) -> None:
    limit = 2 ** (packing.INTEGER_BITS[container] - 1) if container != "lut" else 32
    codes = np.random.default_rng(0).integers(-limit, limit, shape).astype(np.int8)
    for axis in range(len(shape)):
        for scales in (1, shape[axis]):
            scale = np.ones(scales, np.float32)
            tensor = Tensor("w", shape, scale, 0, 8, -128, 127, data=codes, axis=axis)
            if container == "lut":
                parts = packing.encode_lookup(tensor)
                got = packing.decode_lookup(*parts, shape, scales)
            else:
                data = packing.pack_integers(tensor, container)
                got = packing.unpack_integers(data, container, codes.size).reshape(shape)
            assert got.dtype == np.int8
            np.testing.assert_array_equal(got, codes)


def test_broken_containers_say_so() -> None:
    with pytest.raises(ValueError, match="'int4' is too short. Received: 2 fields of 3"):
        packing.unpack_integers(b"\1", "int4", 3)
    tensor = Tensor(
        "w", (3,), np.ones(1, np.float32), 0, 8, -128, 127, data=np.array([1, 2, 3], np.int8)
    )
    indices, tables = packing.encode_lookup(tensor)
    for broken in (
        b"",
        tables[:15],
        tables[:-1],
        b"\1" + tables[1:],
        tables[:5] + b"\xf0" + tables[6:],
    ):
        with pytest.raises(ValueError, match="not one that keras_lowbit writes"):
            packing.decode_lookup(indices, broken, (3,), 1)
    with pytest.raises(ValueError, match="'lut' is too short"):
        packing.decode_lookup(b"", tables, (3,), 1)
    with pytest.raises(ValueError, match="too large. Received: 3 of 3"):
        packing.decode_lookup(b"\xff", tables, (3,), 1)


def test_the_table_of_a_file(by_bits: dict[int, QuantizedModel], tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    for strip in ("none", "names", "micro"):
        by_bits[2].export(path, overwrite=True, packing="auto", strip=strip)
        shown = keras_lowbit.inspect(path)
        rows = {row["tensor"]: row for row in shown.tensors}
        assert shown.known and list(rows) == list(keras_lowbit.load_tflite(path))
        assert rows["large/kernel"]["container"] == "lut" and rows["large/kernel"]["bits"] == 2
        # 2-bit indices, and 16 bytes of header and 4 codes for each of 32 channels.
        assert rows["large/kernel"]["bytes"] == 16 * 9 * 32 // 4 + 16 + 32 * 4
        assert rows["depthwise/kernel"]["bytes"] == 32 * 9 // 2
        assert rows["last/bias"]["bytes"] == 4
        low, high = rows["large/kernel"]["scale"]
        assert 0 < low < high
        assert shown.file_bytes == path.stat().st_size
        assert 0 < shown.constant_bytes <= sum(row["bytes"] for row in rows.values())
        assert (shown.metadata_bytes > 1000) is (strip == "none")
        text = str(shown)
        assert f"file {shown.file_bytes} bytes: constants {shown.constant_bytes}" in text
        (line,) = (line for line in text.splitlines() if line.startswith("large/kernel"))
        assert line.split()[1:4] == ["32x3x3x16", "2", "lut"] and ".." in line.split()[4]


def test_another_converters_file_is_shown_as_far_as_it_goes() -> None:
    package = importlib.util.find_spec("tflite_micro")
    if package is None:
        pytest.skip("tflite_micro, whose example file this reads, is not installed")
    (folder,) = package.submodule_search_locations
    (path,) = Path(folder).rglob("sine_float.tflite")
    shown = keras_lowbit.inspect(path)
    assert not shown.known and shown.metadata_bytes == 0
    assert str(shown).startswith("No metadata of keras_lowbit")
    assert all(row["bits"] is None and row["method"] is None for row in shown.tensors)
    assert {row["container"] for row in shown.tensors} >= {"float32"}
    assert sum(row["bytes"] for row in shown.tensors) <= shown.file_bytes
    with pytest.raises(ValueError, match="was not exported by keras_lowbit"):
        keras_lowbit.load_tflite(path)
