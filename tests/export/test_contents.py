"""A file's bytes by part, by hand; the operators that firmware must register."""

import numpy as np
import pytest
from programs import Builder

from keras_lowbit.export import flatbuffer, packing
from keras_lowbit.export.contents import file_bytes, operator_kinds, resolver_calls


def layers():
    """Per channel: 4 * 3 * 3 * 3 + 4 weights of a convolution, 60 * 8 + 8 of a dense layer, no third bias."""
    build = Builder(0, 4)
    image = build.conv(build.input((1, 5, 3, 3)), 4)
    hidden = build.dense(build.reshape(image, (1, 60)), 8)
    return build.program(build.dense(hidden, 2, "NONE", bias=False))


def parts(program, containers, strip="none", metadata=None):
    found = file_bytes(blob := flatbuffer.write(program, metadata, containers, strip))
    assert found.total == len(blob)
    named = (found.weights, found.decoding_tables, found.biases, found.metadata, found.structure)
    assert sum(named) == found.total
    assert found.structure > 0
    return found


@pytest.mark.parametrize("strip", ["none", "names", "micro"])
def test_parts_by_hand(strip):
    program = layers()
    second = list(packing.kernel_names(program))[1]
    found = parts(program, {}, strip)
    assert (found.weights, found.biases) == (108 + 480 + 16, 4 * (4 + 8))
    assert (found.decoding_tables, found.metadata) == (0, 0)

    tensor = program.tensors[packing.kernel_names(program)[second]]
    width = (len(np.unique(tensor.data)) - 1).bit_length()
    found = parts(program, {second: "lut"}, strip)
    assert found.weights == 108 + 480 * width // 8 + 16
    assert found.decoding_tables == 16 + 8 * len(np.unique(tensor.data))
    assert found.biases == 4 * (4 + 8)


def test_packed_weights_and_metadata():
    build = Builder(0, 4, 4)
    program = build.program(build.conv(build.input((1, 5, 3, 3)), 4))
    (layer,) = packing.kernel_names(program)
    found = parts(program, {layer: "int4"}, metadata={"format": 1})
    assert (found.weights, found.biases) == (54, 16)
    seal = ',"model_sha256":""'
    assert found.metadata == len('{"format":1}') + len(seal) + 64


def test_a_buffer_of_two_tensors_counts_once():
    build = Builder(0, 4)
    source = build.input((1, 4, 4, 3))
    left = build.conv(source, 8)
    twin = build.ops[-1]
    right = build.apply(twin.kind, twin.inputs, build.like(left), **twin.options)
    found = parts(build.program(left, right), {})
    assert (found.weights, found.biases) == (8 * 27, 32)


def test_operators():
    program = layers()
    blob = flatbuffer.write(program, None, {list(packing.kernel_names(program))[1]: "lut"})
    assert operator_kinds(blob)[:3] == ["CONV_2D", "RESHAPE", packing.DECODE]
    calls = resolver_calls(blob)
    assert list(calls) == sorted(set(calls))
    assert set(calls) >= {"AddConv2D", "AddReshape", "AddDecode", "AddFullyConnected"}


def test_names_of_every_operator_that_is_written():
    """As in the header micro_mutable_op_resolver.h of TFLM."""
    build = Builder(1, 8)
    image = build.depthwise(build.conv(build.input((1, 8, 8, 4)), 4), 1)
    for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        shape = build.tensors[image].shape
        target = build.like(image, (1, shape[1] // 2, shape[2] // 2, 4))
        image = build.apply(kind, (image,), target, padding="VALID", strides=(2, 2), window=(2, 2))
    assert resolver_calls(flatbuffer.write(build.program(image))) == (
        "AddAveragePool2D", "AddConv2D", "AddDepthwiseConv2D", "AddMaxPool2D",
    )  # fmt: skip


def test_what_is_no_model():
    with pytest.raises(ValueError, match="not a TFLite flatbuffer"):
        file_bytes(b"no model at all")
