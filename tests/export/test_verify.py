"""Running on the runtimes and verifying against them, including that a wrong program is caught."""

import dataclasses

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from programs import Builder, random_inputs

from keras_lowbit.export import flatbuffer, runtimes
from keras_lowbit.export.ir import Program
from keras_lowbit.export.packing import kernel_names
from keras_lowbit.export.verify import TWIN, RuntimeResult, Verification, verify

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)


def network():
    build = Builder(7, 4)
    stem = build.conv(build.input((1, 8, 8, 3)), 8)
    joined = build.add(stem, build.conv(stem, 8, activation="NONE"))
    return build.program(build.dense(build.reshape(joined, (1, 512)), 10, "NONE"))


def replace(program, name, **changes):
    return Program(
        {**program.tensors, name: dataclasses.replace(program.tensors[name], **changes)},
        program.ops,
        program.inputs,
        program.outputs,
    )


@needs_tflm
def test_an_exact_program_is_ok_and_the_table_says_so():
    program = network()
    inputs = random_inputs(program, 6)
    blob = flatbuffer.write(program)
    (outputs,) = runtimes.run(blob, "tflm", inputs)
    result = verify(program, blob, inputs, [outputs.astype(np.float32)])
    assert result.ok and result.samples == 6
    assert set(result.runtimes) == set(runtimes.available())
    tflm = result.runtimes["tflm"]
    assert tflm.mismatches == tflm.max_difference == tflm.output_mismatches == 0
    assert tflm.argmax_agreement == 1.0 and tflm.off_grid == ()
    assert tflm.compared == 6 * (5 * 512 + 2 * 10)
    assert "exact" in str(result) and "tflm" in str(result) and "100.00%" in str(result)


def simulated_like(program, blob, inputs):
    """The device's outputs as real numbers."""
    tensors = [program.tensors[name] for name in program.outputs]
    return [
        (codes.astype(np.float32) - tensor.zero_point) * tensor.scale
        for tensor, codes in zip(tensors, runtimes.run(blob, "tflm", inputs), strict=True)
    ]


@needs_tflm
@pytest.mark.parametrize("heads", [(1,), (1, 3), (3, 1)])
def test_outputs_of_one_unit_have_a_difference_and_no_argmax(heads):
    build = Builder(3, 8)
    source = build.input((1, 12))
    program = build.program(*(build.dense(source, units, "NONE") for units in heads))
    blob, inputs = flatbuffer.write(program), random_inputs(program, 5)
    simulated = simulated_like(program, blob, inputs)
    single = heads.index(1)
    simulated[single][2] += 7 * program.tensors[program.outputs[single]].scale
    result = verify(program, blob, inputs, simulated)
    tflm = result.runtimes["tflm"]
    assert result.ok and tflm.simulation_difference == 7
    assert tflm.argmax_agreement == (None if heads == (1,) else 1.0)
    assert ("100.00%" in str(result)) == (len(heads) > 1)
    assert "largest difference" in str(result)
    if len(heads) > 1:
        simulated[1 - single] *= -1  # the one number is of this output alone
        assert verify(program, blob, inputs, simulated).runtimes["tflm"].argmax_agreement == 0.0
    unseen = verify(program, blob, inputs)
    assert unseen.runtimes["tflm"].simulation_difference is None
    assert "largest difference" not in str(unseen)


@needs_tflm
def test_xnnpack_rounds_once_and_is_reported():
    build = Builder(0, 4)
    program = build.program(build.conv(build.input((1, 16, 16, 8)), 16, (1, 1), align=False))
    result = verify(program, flatbuffer.write(program), random_inputs(program, 10))
    assert result.ok
    assert result.runtimes["litert"].output_mismatches > 0
    assert result.runtimes["litert"].argmax_agreement is None


@needs_tflm
def test_a_flatbuffer_of_other_weights_is_caught():
    program = network()
    name = program.ops[0].inputs[1]
    data = program.tensors[name].data.copy()
    data[0] = -data[0]
    result = verify(
        program, flatbuffer.write(replace(program, name, data=data)), random_inputs(program, 3)
    )
    tflm = result.runtimes["tflm"]
    assert not result.ok and "NOT PROVEN EXACT" in str(result)
    assert result.other_values == (name,) and "Export it again" in str(result)
    assert tflm.mismatches > 0 and tflm.max_difference > 1
    assert tflm.tensors[program.ops[0].outputs[0]] > 0


@needs_tflm
def test_other_values_that_no_output_shows_are_caught():
    """With a scale twice as large at both ends of a pool, the codes are the same everywhere."""
    build = Builder(5, 8)
    source = build.input((1, 4, 4, 2))
    program = build.program(build.pool("MAX_POOL_2D", source, (2, 2), (2, 2), "VALID"))
    moved = program
    for name, tensor in program.tensors.items():
        moved = replace(moved, name, scale=2 * tensor.scale)
    inputs = random_inputs(program, 3)
    result = verify(program, flatbuffer.write(moved), inputs)
    assert result.runtimes["tflm"].mismatches == 0
    assert not result.ok and result.other_values == tuple(program.tensors)
    result = verify(program, flatbuffer.write(program), inputs)
    assert result.ok and result.other_values == () and "other values" not in str(result)


@needs_tflm
def test_codes_off_the_grid_are_caught():
    program = network()
    name = program.ops[0].outputs[0]
    narrow = replace(program, name, qmax=program.tensors[name].qmax - 1)
    result = verify(narrow, flatbuffer.write(narrow), random_inputs(program, 3))
    assert not result.ok
    assert result.runtimes["tflm"].mismatches == 0
    assert result.runtimes["tflm"].off_grid == (name,)
    assert name in str(result)


def result_with(**changes):
    return dataclasses.replace(RuntimeResult(0, 10, 0, 0, None, {}, ()), **changes)


@pytest.mark.parametrize(
    ("by_runtime", "ok"),
    [
        ({}, False),
        ({"tflm": {}}, True),
        ({"tflm": {"mismatches": 1}, "litert_ref": {}}, False),
        ({"tflm": {"off_grid": ("x",)}}, False),
        ({"tflm": {}, "litert": {"mismatches": 5, "max_difference": 3}}, True),
        ({"litert_ref": {"mismatches": 5, "max_difference": 1}}, True),
        ({"litert_ref": {"mismatches": 5, "max_difference": 2}}, False),
        ({"litert_ref": {"off_grid": ("x",)}}, False),
    ],
)
def test_what_counts_as_ok(by_runtime, ok):
    verification = Verification(
        {name: result_with(**changes) for name, changes in by_runtime.items()}, 1
    )
    assert verification.ok is ok


def test_without_tflm_the_reference_kernels_of_litert_stand_in(monkeypatch):
    monkeypatch.setattr(runtimes, "available", lambda: ("litert_ref", "litert"))
    program = network()
    result = verify(program, flatbuffer.write(program), random_inputs(program, 3))
    assert set(result.runtimes) == {"litert_ref", "litert"}
    assert result.ok
    with pytest.raises(ValueError, match="needs the package 'tflite_micro'"):
        runtimes.run(flatbuffer.write(program), "tflm", random_inputs(program, 1))


@pytest.mark.parametrize("runtime", runtimes.available())
def test_outputs_and_all_tensors_agree(runtime):
    program = network()
    inputs = random_inputs(program, 3)
    blob = flatbuffer.write(program)
    outputs = runtimes.run(blob, runtime, inputs)
    tensors = runtimes.run_all_tensors(blob, runtime, inputs)
    assert [output.shape for output in outputs] == [(3, 10)]
    assert np.array_equal(outputs[0], tensors[program.outputs[0]])
    assert np.array_equal(inputs[0], tensors[program.inputs[0]])
    assert (len(tensors) == 2) == (runtime == "litert")


@needs_tflm
def test_the_arena_grows_until_the_model_fits(monkeypatch, capfd):
    monkeypatch.setattr(runtimes, "_FIRST_ARENA", -60_000)
    build = Builder(2, 4)
    program = build.program(build.conv(build.input((1, 40, 40, 8)), 16))
    inputs = random_inputs(program, 2)
    assert runtimes.run(flatbuffer.write(program), "tflm", inputs)[0].shape == (2, 40, 40, 16)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("runtime", "shape", "message"),
    [
        ("tflite", (1, 8, 8, 3), "`runtime` must be one of"),
        (
            "litert",
            (1, 8, 8, 4),
            "`inputs` must be a list of int8 arrays.*it is the file of another",
        ),
    ],
)
def test_unfit_calls_are_refused(runtime, shape, message):
    with pytest.raises(ValueError, match=message):
        runtimes.run(flatbuffer.write(network()), runtime, [np.zeros(shape, np.int8)])


def test_a_file_that_is_no_flatbuffer_is_refused():
    with pytest.raises(ValueError, match="not a TFLite flatbuffer"):
        runtimes.run(b"nonsense", "litert", [])


@needs_tflm
def test_a_refusal_carries_the_runtimes_own_words():
    build = Builder(0, 4)
    source = build.conv(build.input((1, 4, 4, 3)), 2)
    program = build.program(build.pool("MAX_POOL_2D", source, (2, 2), (2, 2), "VALID"))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer.write(program), 0))
    tensor = model.subgraphs[0].tensors[list(program.tensors).index(source)]
    tensor.quantization.scale = np.float32([0.5])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    broken = bytes(builder.Output())
    with pytest.raises(ValueError, match="'tflm' refuses the model.*Received: '.*scale_diff"):
        runtimes.run(broken, "tflm", random_inputs(program, 1))


def test_verify_refuses_other_counts_of_arrays():
    program = network()
    blob = flatbuffer.write(program)
    with pytest.raises(ValueError, match="one array per program input"):
        verify(program, blob, [])
    with pytest.raises(ValueError, match="one array per program output"):
        verify(program, blob, random_inputs(program, 1), [])


@needs_tflm
def test_a_file_that_tflm_cannot_run_is_proven_through_its_int8_twin():
    """Several dense layers: LiteRT's codes wander from the reference by more than one."""
    build = Builder(0, 4, width=4)
    tensor = build.input((1, 48))
    for _ in range(6):
        tensor = build.dense(tensor, 48)
    program = build.program(tensor)
    blob = flatbuffer.write(program, None, dict.fromkeys(kernel_names(program), "int4"))
    inputs = random_inputs(program, 64)
    result = verify(program, blob, inputs, runtime_names=("litert_ref", "litert"))
    assert result.runtimes["litert_ref"].mismatches > 0
    assert result.runtimes["litert_ref"].unlike_twin == 0
    assert result.runtimes[TWIN].mismatches == 0
    assert result.ok and "exact" in str(result) and "TFLM cannot run this packing" in str(result)
    broken = dataclasses.replace(result.runtimes["litert_ref"], unlike_twin=1)
    assert not Verification({**result.runtimes, "litert_ref": broken}, 64).ok
