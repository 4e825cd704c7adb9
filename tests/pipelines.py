"""From a small float network to a proven flatbuffer, for the tests of everything behind step 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import tf_keras

import keras_lowbit
from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.export import integer_reference
from keras_lowbit.export.verify import RuntimeResult

COUNT = 64


def ranges_only(bits: int, **fields: Any) -> PTQConfig:
    """Every tensor at ``bits`` where a width can be chosen, and nothing trained."""
    chosen = {
        "linear_activation_bits": bits, "activation_range": "mse", "optimize": (), "tune_steps": 0,
        **fields,
    }  # fmt: skip
    return PTQConfig.uniform(bits, **chosen)


def quantized(model: Any, config: PTQConfig, data: Any = None, **arguments: Any) -> QuantizedModel:
    """``model`` quantized silently; on standard normal samples unless there are ``data``."""
    if data is None:
        data = networks.samples(model, COUNT)
        data = data if len(data) > 1 else data[0]
    return keras_lowbit.quantize(model, data, config=config, **{"verbose": 0, **arguments})


def prove(qmodel: QuantizedModel, folder: Path, count: int = 6, **options: str) -> RuntimeResult:
    """Export with these options and run on TFLM: every tensor is the reference's and on its grid."""
    path = folder / "model.tflite"
    qmodel.export(path, overwrite=True, **options)
    inputs = networks.samples(qmodel.model, count, seed=7)
    verification = qmodel.verify(path, inputs if len(inputs) > 1 else inputs[0])
    result = verification.runtimes["tflm"]
    assert verification.ok, verification
    assert verification.samples == count
    assert result.mismatches == 0
    assert result.off_grid == ()
    assert result.compared > 0
    return result


def codes_by_tensor(
    qmodel: QuantizedModel, count: int = 16
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By quantized tensor its codes in the simulation and in the integer reference, less the zero
    point."""
    student, program = qmodel.student, qmodel.to_program()
    values = networks.samples(qmodel.model, count, seed=7)
    inputs = qmodel.quantize_input(values if len(values) > 1 else values[0])
    reference = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
    heads = [name for name in student.placement.groups if name in reference]
    simulation = tf_keras.Model(student.model.inputs, [student.tensor(name) for name in heads])
    codes = {}
    for name, simulated in zip(heads, networks.outputs(simulation, values), strict=True):
        clamped = f"{name}/clamped"  # what a low-bit input becomes
        tensor = program.tensors[clamped if clamped in reference else name]
        expected = reference[tensor.name].astype(np.float32) - tensor.zero_point
        codes[name] = np.rint(simulated / tensor.scale).reshape(expected.shape), expected
    return codes
