"""The rival: Google's ai-edge-quantizer, static 4-bit weights and 8-bit activations."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from benchmarks.incumbent import convert_float

INSTALL = "pip install '.[rival]'"


def quantize_int4(model: Any, samples: np.ndarray, four_bit_operators: Sequence[str]) -> bytes:
    """``model`` as a ``.tflite`` with int8 activations, int8 inputs and outputs.

    Args:
      model: tf_keras model with one input.
      samples: calibration data, float32 (samples, ...).
      four_bit_operators: whose weights have 4 bits; those of all others have 8.

    Raises:
      ValueError: ai-edge-quantizer is not installed.
    """
    return quantize_static(model, samples, four_bit_operators, 4)


def quantize_static(
    model: Any,
    samples: np.ndarray,
    narrow_operators: Sequence[str],
    weight_bits: int,
    activation_bits: int = 8,
    algorithm: str = "MIN_MAX_UNIFORM_QUANT",
    optional_operators: Sequence[str] = (),
) -> bytes:
    """``model`` as a ``.tflite``, some of whose operators have other widths than eight bits.

    Args:
      model: tf_keras model with one input.
      samples: calibration data, float32 (samples, ...).
      narrow_operators: which; all others have 8 bits.
      weight_bits: of their weights.
      activation_bits: of their activations.
      algorithm: how their weights get their scales, of the tool's AlgorithmName.
      optional_operators: as narrow where the tool can do it, else with 8 bits.

    Raises:
      ValueError: ai-edge-quantizer is not installed, or refuses.
    """
    try:
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer
    except ImportError as error:
        raise ValueError(f"ai-edge-quantizer is missing: {INSTALL}. Received: {error}") from error
    blob = convert_float(model)
    signatures = Interpreter(model_content=blob).get_signature_list()
    [(signature, tensors)] = signatures.items()
    [name] = tensors["inputs"]
    operators = qtyping.TFLOperationName
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        path.write_bytes(blob)
        tool = quantizer.Quantizer(str(path))
        tool.add_static_config(".*", operators.ALL_SUPPORTED, 8, 8)
        key = algorithm_manager.AlgorithmName[algorithm]
        for operator in (*narrow_operators, *optional_operators):
            refusals = (ValueError,) if operator in optional_operators else ()
            with contextlib.suppress(*refusals):
                tool.add_static_config(
                    ".*", operators(operator), activation_bits, weight_bits, algorithm_key=key
                )
        ranges = tool.calibrate({signature: [{name: x[None].astype(np.float32)} for x in samples]})
        result = tool.quantize(ranges, enable_progress_report=False)
    return with_inner_buffers(bytes(result.quantized_model))


def with_inner_buffers(blob: bytes) -> bytes:
    """A file whose constants are in the flatbuffer, where TFLM looks for them.

    ai-edge-quantizer 0.10 puts the constants of files of 256 KiB and more behind the flatbuffer. TFLM
    runs such a file without a word and computes with what is in its arena.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    outside = [buffer for buffer in model.buffers if buffer.offset > 1]
    if not outside:
        return blob
    for buffer in outside:
        buffer.data = np.frombuffer(blob, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    builder = flatbuffers.Builder(len(blob))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
