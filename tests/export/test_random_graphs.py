"""Random graphs at random widths, packings and strips: the exported file computes the integer reference.

``make fuzz`` looks further; see CONTRIBUTING.md.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from programs import random_inputs
from random_models import quantized_models

from keras_lowbit import QuantizedModel, load_tflite
from keras_lowbit.export import flatbuffer, integer_reference, runtimes
from keras_lowbit.export.containers import PACKINGS, STRIPS, TARGETS, read_containers, runtimes_for
from keras_lowbit.export.ir import Program
from keras_lowbit.export.packing import kernel_names

pytestmark = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)


def equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(actual) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, name)


def follows_reference(program: Program, found: dict[str, np.ndarray]) -> None:
    """Every operator by itself: LiteRT computes two of them in floats.

    They differ by one code at most. Sigmoids of coarse tensors differ by more: within 4 to 8 of zero,
    TFLM saturates at once.
    """
    for op in program.ops:
        sources = dict.fromkeys(name for name in op.inputs if name in found)
        used = (*op.inputs, *op.outputs)
        alone = Program({name: program.tensors[name] for name in dict.fromkeys(used)}, (op,),
                        tuple(sources), op.outputs)  # fmt: skip
        expected = integer_reference.run(alone, {name: found[name] for name in sources})
        difference = np.abs(found[op.outputs[0]].astype(int) - expected[op.outputs[0]])
        most = {"FULLY_CONNECTED": 1, "LOGISTIC": 1}.get(op.kind, 0)
        if op.kind == "LOGISTIC" and program.tensors[op.inputs[0]].scale[0] >= 4:
            most = 5
        assert difference.max() <= most, op


def check_file(program: Program, blob: bytes, must_run: str) -> None:
    """Every tensor on every runtime that takes the file, and on the first as in int8 containers."""
    inputs, names = random_inputs(program, 4), tuple(program.tensors)
    expected = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
    fitting = runtimes_for(blob, program)
    assert must_run in (*fitting, "ethos-u")
    if "tflm" in fitting:
        equal(runtimes.run_all_tensors(blob, "tflm", inputs, names), expected)
        equal(runtimes.run_all_tensors(flatbuffer.write(program), "tflm", inputs), expected)
        # Without tensors preserved, the memory planner reuses them.
        outputs = runtimes.run(blob, "tflm", inputs)
        for name, values in zip(program.outputs, outputs, strict=True):
            np.testing.assert_array_equal(values, expected[name], name)
    if "litert_ref" in fitting:
        found = runtimes.run_all_tensors(blob, "litert_ref", inputs, names)
        equal(found, runtimes.run_all_tensors(flatbuffer.write(program), "litert_ref", inputs))
        follows_reference(program, found)
    if "litert" in fitting:
        runtimes.run(blob, "litert", inputs)  # XNNPACK rounds otherwise, but takes the file


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=settings().max_examples // len(PACKINGS))
@given(qmodel=quantized_models(), target=st.sampled_from(TARGETS))
def test_what_is_exported(packing: str, qmodel: QuantizedModel, target: str) -> None:
    if packing in ("lut", "int4") and (packing, target) != ("int4", "litert"):
        target = "tflm"  # the only one that runs it
    for strip in STRIPS[: 2 if target == "litert" else 3]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            try:
                qmodel.export(path, packing=packing, strip=strip, target=target)
            except ValueError as error:  # scales that no kernel takes are refused by layer name
                assert re.search("(Layer|layers) .*_[0-9]+'", str(error)), error
                reject()
            blob, stored = path.read_bytes(), load_tflite(path)
        program = qmodel.to_program(read_containers(blob, qmodel.to_program()))
        for kernel in kernel_names(program).values():
            np.testing.assert_array_equal(stored[kernel].codes, program.tensors[kernel].data)
        check_file(program, blob, target)


@given(qmodel=quantized_models(), strip=st.sampled_from(STRIPS), data=st.data())
def test_any_mixture_of_containers(qmodel: QuantizedModel, strip: str, data: st.DataObject) -> None:
    """Small layers are seldom packed, since it does not pay; here they are."""
    containers = {}
    for layer, kernel in kernel_names(qmodel.to_program()).items():
        weights = qmodel.to_program().tensors[kernel]
        widest = {"int4": 4 - bool(weights.offset), "lut": 7}  # a bit less where no level is zero
        fits = [name for name, most in widest.items() if weights.bits <= most]
        if len(weights.shape) == 2 and not np.all(weights.scale == weights.scale[0]):
            fits = [name for name in fits if name != "int4"]  # TFLM has no such kernel
        containers[layer] = data.draw(st.sampled_from([*fits, "int8"]))
    program = qmodel.to_program(containers)
    try:
        blob = flatbuffer.write(program, None, containers, strip)
    except ValueError as error:
        assert re.search("Layer .*_[0-9]+'", str(error)), error
        reject()
    packed = {layer: name for layer, name in containers.items() if name != "int8"}
    assert read_containers(blob, qmodel.to_program()) == packed
    check_file(program, blob, "tflm")
