"""The written file: alignment, codes, sharing, signature; and that LiteRT takes it."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from programs import Builder, random_inputs

from keras_lowbit.export import flatbuffer, integer_reference
from keras_lowbit.export.metadata import build_metadata


def every_operator(bits=4):
    build = Builder(5, bits)
    first = build.conv(build.input((1, 8, 8, 3)), 4)
    second = build.depthwise(first, activation="NONE")
    joined = build.concatenate((first, first), 3)
    pooled = build.pool(
        "MAX_POOL_2D", build.pad(joined, [(0, 0), (1, 1), (0, 0), (0, 0)]), (2, 2), (2, 2), "SAME"
    )
    small = build.pool("AVERAGE_POOL_2D", build.add(first, second), (8, 8), (8, 8), "VALID")
    clamped = build.apply("RELU6", (small,), build.like(small))
    logits = build.dense(build.reshape(build.rescale("RELU", clamped, 0.5), (1, 4)), 3, "NONE")
    return build.program(
        build.probability("SOFTMAX", logits), build.probability("LOGISTIC", logits), pooled
    )


def test_every_buffer_is_aligned_to_16_bytes():
    program = every_operator()
    blob = flatbuffer.write(program, build_metadata(program, "test"))
    model = schema.Model.GetRootAs(blob, 0)
    offsets = [
        model.Buffers(index)._tab.Vector(model.Buffers(index)._tab.Offset(4))
        for index in range(model.BuffersLength())
        if model.Buffers(index).DataLength()
    ]
    assert len(offsets) > 5
    assert [offset % 16 for offset in offsets] == [0] * len(offsets)
    assert len(blob) % 16 == 0 and blob[4:8] == b"TFL3"
    assert model.Buffers(0).DataLength() == 0


def test_operator_codes_are_written_twice_and_once_per_kind():
    program = every_operator()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer.write(program), 0))
    codes = [code.builtinCode for code in model.operatorCodes]
    assert codes == [code.deprecatedBuiltinCode for code in model.operatorCodes]
    assert len(codes) == len(set(codes)) == len({op.kind for op in program.ops}) == 14
    assert max(code.version for code in model.operatorCodes) <= 4
    written = [codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]
    assert written == [getattr(schema.BuiltinOperator, op.kind) for op in program.ops]


def test_tensors_keep_names_order_and_quantization():
    program = every_operator()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer.write(program), 0))
    for written, tensor in zip(model.subgraphs[0].tensors, program.tensors.values(), strict=True):
        assert written.name.decode() == tensor.name
        assert tuple(written.shape) == tensor.shape
        if tensor.scale is None:
            assert written.quantization is None
            continue
        assert np.array_equal(written.quantization.scale, tensor.scale)
        assert written.quantization.zeroPoint.tolist() == [tensor.zero_point] * tensor.scale.size
        assert written.quantization.quantizedDimension == (
            tensor.axis if tensor.scale.size > 1 else 0
        )
        if tensor.data is not None:
            assert bytes(model.buffers[written.buffer].data) == tensor.data.tobytes()


def test_equal_constants_share_a_buffer_and_writing_is_reproducible():
    build = Builder(0, 4)
    source = build.input((1, 4, 4, 2))
    padded = [build.pad(source, [(0, 0), (1, 1), (1, 1), (0, 0)]) for _ in range(2)]
    program = build.program(*padded)
    blob = flatbuffer.write(program)
    assert schema.Model.GetRootAs(blob, 0).BuffersLength() == 2
    assert flatbuffer.write(program) == blob


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_litert_runs_the_signature(bits):
    program = every_operator(bits)
    interpreter = Interpreter(model_content=flatbuffer.write(program))
    assert interpreter.get_signature_list()["serving_default"] == {
        "inputs": list(program.inputs),
        "outputs": sorted(program.outputs),
    }
    (codes,) = random_inputs(program, 1)
    outputs = interpreter.get_signature_runner("serving_default")(**{program.inputs[0]: codes})
    expected = integer_reference.run(program, {program.inputs[0]: codes})
    pooled = program.outputs[2]
    assert np.abs(outputs[pooled].astype(int) - expected[pooled]).max() <= 1  # XNNPACK rounds once
    details = interpreter.get_input_details()[0]
    assert details["dtype"] == np.int8
    assert details["quantization"][1] == program.tensors[program.inputs[0]].zero_point
