"""Vela compiles what target="ethos-u" exports, and nothing that it refuses."""

import dataclasses
import sys

import pytest
from programs import Builder

from keras_lowbit.export import flatbuffer, packing
from keras_lowbit.export.contents import operator_kinds
from keras_lowbit.export.vela import compile_for_ethos_u, vela_command

needs_vela = pytest.mark.skipif(
    vela_command() is None, reason="Vela is not installed: pip install ethos-u-vela"
)


def layers(bits, width=8):
    build = Builder(bits, bits, width)
    image = build.depthwise(build.conv(build.input((1, 6, 6, 8)), 16), 1)
    return build.program(build.dense(build.reshape(image, (1, 576)), 4, "NONE"))


@needs_vela
def test_low_bit_weights_shrink_and_nothing_is_left_on_the_cpu():
    results = {}
    for bits, strip in ((8, "none"), (4, "names"), (4, "micro"), (2, "micro")):
        blob = flatbuffer.write(layers(bits), None, None, strip)
        result = results[bits, strip] = compile_for_ethos_u(blob, "ethos-u85-256")
        assert result.accelerator == "ethos-u85-256"
        assert result.weight_bytes == 16 * 9 * 8 + 9 * 16 + 576 * 4
        assert result.npu_operators == len(operator_kinds(blob))
        assert result.cpu_operators == ()
        assert result.resolver_calls == ("AddEthosU",)
        assert result.sram_bytes > 6 * 6 * 16
        assert result.estimated_seconds > 0
    encoded = {bits: result.encoded_weight_bytes for (bits, _), result in results.items()}
    assert encoded[2] < encoded[4] < encoded[8]
    assert encoded[4] < 0.75 * results[4, "micro"].weight_bytes
    # Of what is stripped Vela reads the names alone, which the compiled file keeps.
    plain, micro = results[4, "names"], results[4, "micro"]
    assert abs(micro.compiled_file_bytes - plain.compiled_file_bytes) <= 32
    assert dataclasses.replace(micro, compiled_file_bytes=plain.compiled_file_bytes) == plain


@needs_vela
def test_what_stays_on_the_cpu_is_named():
    """An average pool wider than the NPU's eight."""
    build = Builder(0, 4)
    image = build.conv(build.input((1, 12, 12, 2)), 2)
    pooled = build.apply(
        "AVERAGE_POOL_2D",
        (image,),
        build.like(image),
        padding="SAME",
        strides=(1, 1),
        window=(9, 9),
    )
    result = compile_for_ethos_u(flatbuffer.write(build.program(pooled)))
    assert (result.npu_operators, result.cpu_operators) == (1, ("AVERAGE_POOL_2D",))
    assert result.resolver_calls == ("AddAveragePool2D", "AddEthosU")


@needs_vela
@pytest.mark.parametrize(("container", "position"), [("int4", 0), ("int2", 2)])
def test_packed_weights_are_refused(container, position):
    program = layers(2, packing.INTEGER_BITS[container])
    layer = list(packing.kernel_names(program))[position]
    blob = flatbuffer.write(program, None, {layer: container})
    with pytest.raises(ValueError, match="Vela ended with status .*Received: accelerator="):
        compile_for_ethos_u(blob)


@needs_vela
def test_lookup_tables_stay_on_the_cpu():
    program = layers(2)
    layer = list(packing.kernel_names(program))[2]
    result = compile_for_ethos_u(flatbuffer.write(program, None, {layer: "lut"}))
    assert result.cpu_operators == (packing.DECODE,)


@needs_vela
def test_an_unknown_accelerator():
    with pytest.raises(ValueError, match="invalid choice.*Received: accelerator='ethos-u1'"):
        compile_for_ethos_u(flatbuffer.write(layers(2)), "ethos-u1")


def test_the_executable():
    assert vela_command(sys.executable) == [sys.executable]
    with pytest.raises(ValueError, match="no such Vela executable.*Received: '/no/vela'"):
        vela_command("/no/vela")
