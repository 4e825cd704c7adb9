"""Containers of weights on programs: bytes by hand, and every tensor as in the int8 file on the runtimes."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from programs import Builder, random_inputs

from keras_lowbit.export import flatbuffer, integer_reference, packing, runtimes
from keras_lowbit.export.constants import align_weights
from keras_lowbit.export.ir import Program, Tensor

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
STRIPS = ("none", "names", "micro")


def constant(codes, scale=(0.5,), bits=4, axis=0):
    data = np.array(codes, np.int8)
    return Tensor("w", data.shape, np.float32(scale), 0, bits, -128, 127, data=data, axis=axis)


@pytest.mark.parametrize(
    ("container", "codes", "expected"),
    [
        ("int8", [[1, -2], [-128, 127]], [0x01, 0xFE, 0x80, 0x7F]),
        ("int4", [[1, -2], [7, -8]], [0xE1, 0x87]),
        ("int4", [5, -1, 3], [0xF5, 0x03]),
        ("int4", [-7], [0x09]),
        ("int2", [1, -1, 0, -2], [0b10_00_11_01]),
        ("int2", [0, 0, 0, 1, -1], [0b01_00_00_00, 0b11]),
    ],
)
def test_codes_by_hand(container, codes, expected):
    assert list(packing.pack_integers(constant(codes), container)) == expected


@pytest.mark.parametrize(("container", "code"), [("int4", 8), ("int4", -9), ("int2", 2)])
def test_codes_that_do_not_fit(container, code):
    with pytest.raises(
        ValueError, match=f"Tensor 'w': .*'{container}' holds.*Received: codes from"
    ):
        packing.pack_integers(constant([0, code]), container)


def test_only_int8_constants_have_containers():
    activation = dataclasses.replace(constant([1]), data=None)
    with pytest.raises(ValueError, match="Tensor 'w': only int8 constants"):
        packing.pack_integers(activation, "int4")


def test_a_lookup_by_hand():
    """Three distinct codes take two bits; the first index is in the highest bits."""
    indices, tables = packing.encode_lookup(constant([[64, -64, 0], [0, 64, 64]], (0.5, 0.25)))
    assert list(indices) == [0b10_00_01_01, 0b10_10_00_00]
    assert list(tables[:16]) == [0, 1, 0, 0, 1, 0 << 4 | 2, 3] + [0] * 9
    assert np.frombuffer(tables[16:], np.int8).tolist() == [-64, 0, 64] * 2


def test_one_table_per_scale_and_none_too_wide():
    header = packing.encode_lookup(constant([[[[1, 2, 3]]]], (1, 2, 3), axis=3))[1]
    assert header[5] == 3 << 4 | 2 and len(header) == 16 + 3 * 3
    header = packing.encode_lookup(constant([1, 2, 3]))[1]
    assert header[5] == 15 << 4 | 2 and len(header) == 16 + 3
    assert packing.encode_lookup(constant([5, 5]))[0] == b"\0"
    with pytest.raises(ValueError, match="Tensor 'w': lookup tables.*Received: 129"):
        packing.encode_lookup(constant(np.arange(129) - 64, bits=8))


@needs_tflm
@pytest.mark.parametrize("bits", range(2, 8))
def test_the_wheels_own_compressor_agrees(bits):
    lut = pytest.importorskip("tflite_micro.tensorflow.lite.micro.compression.lut")
    decode = pytest.importorskip("tflite_micro.tensorflow.lite.micro.compression.decode")
    codes = np.random.default_rng(bits).permutation(np.arange(5 * 2**bits) % 2**bits)
    tensor = constant(codes.reshape(-1, 5), np.ones(5), axis=1)
    indices, tables = packing.encode_lookup(tensor)
    values = np.unique(tensor.data)
    assert indices == lut.pack_indices(np.searchsorted(values, tensor.data), bits)
    data = lut.LutAncillaryData(
        1, bits, 1, len(values), lut.pack_lookup_tables([values] * 5, len(values))
    )
    header = decode.DecodeCommonMetadata(decode.DecodeType.LUT, user_data=data.to_user_data())
    assert tables == decode.AncillaryDataTensor(header, data).to_bytes()


def layers(bits, container, channels=5, **weights):
    """A convolution, a depthwise one and a dense layer whose integers fit the container."""
    build = Builder(bits, bits, packing.INTEGER_BITS[container])
    image = build.conv(build.input((1, 5, 3, 3)), channels, **weights)
    pair = build.depthwise(image, 2, (3, 2), **weights)
    flat = build.reshape(pair, (1, 5 * 3 * 2 * channels))
    last = build.dense(flat, 3, "NONE", **{**weights, "per_channel": container != "int4"})
    return build.program(build.dense(last, 1, "NONE", **weights))


def weighted(program: Program):
    return list(packing.kernel_names(program))


@needs_tflm
@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("container", ["int8", "int4", "lut"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_tensor_is_that_of_the_int8_file(bits, container, strip):
    if bits > {"int8": 8, "int4": 4, "lut": 7}[container]:
        pytest.skip("no such container")
    for channels, options in ((5, {}), (1, {}), (16, {}), (4, {"per_channel": False})):
        program = layers(bits, container, channels, **options)
        inputs, names = random_inputs(program, 3), tuple(program.tensors)
        containers = dict.fromkeys(weighted(program), container)
        blob = flatbuffer.write(program, None, containers, strip)
        actual = runtimes.run_all_tensors(blob, "tflm", inputs, names)
        twin = runtimes.run_all_tensors(flatbuffer.write(program), "tflm", inputs)
        expected = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
        assert set(actual) == set(twin) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], name)
            np.testing.assert_array_equal(twin[name], expected[name], name)


@pytest.mark.parametrize("strip", STRIPS[:2])
@pytest.mark.parametrize(
    ("container", "bits"), [("int4", 2), ("int4", 3), ("int4", 4), ("int2", 2)]
)
def test_litert_computes_the_int8_files_tensors(container, bits, strip):
    build = Builder(bits, bits, packing.INTEGER_BITS[container])
    image = build.depthwise(build.conv(build.input((1, 5, 3, 3)), 5), 1)
    program = build.program(build.dense(build.reshape(image, (1, 75)), 7, "NONE"))
    inputs, names = random_inputs(program, 3), tuple(program.tensors)
    packed = weighted(program)[-1:] if container == "int2" else weighted(program)
    blob = flatbuffer.write(program, None, dict.fromkeys(packed, container), strip)
    actual = runtimes.run_all_tensors(blob, "litert_ref", inputs, names)
    for name, twin in runtimes.run_all_tensors(
        flatbuffer.write(program), "litert_ref", inputs
    ).items():
        np.testing.assert_array_equal(actual[name], twin, name)
    runtimes.run(blob, "litert", inputs)  # XNNPACK rounds otherwise, but takes the file


def test_what_is_stripped():
    program = layers(4, "int8")
    files = {strip: flatbuffer.write(program, None, {}, strip) for strip in STRIPS}
    models = {
        strip: schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
        for strip, blob in files.items()
    }
    names = {
        strip: [t.name for t in m.subgraphs[0].tensors if t.name] for strip, m in models.items()
    }
    external = [name.encode() for name in (*program.inputs, *program.outputs)]
    assert len(names["none"]) == len(program.tensors)
    assert (names["names"], names["micro"]) == (external, [])
    assert models["none"].signatureDefs and models["none"].description
    for strip in ("names", "micro"):
        assert not (models[strip].signatureDefs or models[strip].description)
    tables = [t.quantization for t in models["micro"].subgraphs[0].tensors]
    assert all(q is None or len(q.zeroPoint) == 1 for q in tables)
    # The bias of a dense layer with a single scale is checked by TFLM; no other one keeps its scale.
    assert sum(q is None for q in tables) == 3
    assert len(files["none"]) > len(files["names"]) > len(files["micro"])


def test_what_is_equal_is_stored_once():
    build = Builder(0, 4)
    source = build.input((1, 4, 4, 3))
    program = build.program(build.conv(source, 8))
    kernel = next(t for t in program.tensors.values() if t.scale is not None and t.scale.size == 8)
    doubled = dataclasses.replace(kernel, name="again")
    more = Program(
        {**program.tensors, "again": doubled}, program.ops, program.inputs, program.outputs
    )
    first, second = flatbuffer.write(program), flatbuffer.write(more)
    assert second.count(kernel.scale.tobytes()) == first.count(kernel.scale.tobytes()) == 1
    assert len(second) - len(first) < 64


@needs_tflm
def test_layers_of_one_micro_file_share_tables():
    """The tables of 16 channels serve 5, since DECODE reads as many as there are scales."""
    build = Builder(2, 2)
    large = build.conv(build.input((1, 4, 4, 3)), 16)
    program = build.program(build.conv(build.conv(large, 16), 5))
    inputs, names = random_inputs(program, 3), tuple(program.tensors)
    containers = dict.fromkeys(weighted(program), "lut")
    operands = {}
    for strip in STRIPS:
        blob = flatbuffer.write(program, None, containers, strip)
        graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0)).subgraphs[0]
        operands[strip] = [tuple(op.inputs) for op in graph.operators if len(op.inputs) == 2]
        actual = runtimes.run_all_tensors(blob, "tflm", inputs, names)
        expected = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], name)
    assert {strip: len({tables for _, tables in pairs}) for strip, pairs in operands.items()} == {
        "none": 3, "names": 3, "micro": 1,
    }  # fmt: skip
    assert all(len({indices for indices, _ in pairs}) == 3 for pairs in operands.values())


@pytest.mark.parametrize("zero_points", [(0.0, -0.5), (-0.5, -1.0), (0.0, -1.0), (0.0, -0.5, -1.0)])
@pytest.mark.parametrize("bits", [2, 3, 7])
def test_tables_of_channels_with_zero_elsewhere(zero_points: tuple[float, ...], bits: int) -> None:
    """As many bits an index as a code has, whatever the codes of the channels are together."""
    zero, limit = np.resize(zero_points, 6), 2 ** (bits - 1)
    codes = np.random.default_rng(0).integers(-limit, limit, (6, 1, 1, 200))
    data, scale, shift, offset = align_weights(codes, np.ones(6), zero, bits)
    weights = Tensor(
        "w", data.shape, scale, 0, bits, int(data.min()), int(data.max()), data=data, shift=shift, offset=offset
    )  # fmt: skip
    indices, tables = packing.encode_lookup(weights)
    assert len(indices) == data.size * bits // 8
    np.testing.assert_array_equal(packing.decode_lookup(indices, tables, data.shape, 6), data)
