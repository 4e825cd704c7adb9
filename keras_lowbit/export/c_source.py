"""An exported model as C++ source for a TFLM project: the array, and what to compile around it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Sequence

import numpy as np

from keras_lowbit.export import integer_reference, runtimes
from keras_lowbit.export.arena import measure_arena
from keras_lowbit.export.c_array import array_of
from keras_lowbit.export.contents import resolver_call, resolver_calls
from keras_lowbit.export.ir import Program, Tensor
from keras_lowbit.export.packing import DECODE

_SMALLEST_MARGIN = 1024
_SEED = 0  # of the test vector

_DECODE = "\n// AddDecode(), for lookup tables, is in TFLM since its pull request 3132 (2025)."

_HEADER = """\
// Written by {producer}; do not edit, export again.
//
// Model, tensor arena and operators for TensorFlow Lite Micro:
//
//   alignas(16) static uint8_t arena[{name}_arena_size];
//   static tflite::MicroMutableOpResolver<{name}_operator_count> resolver;
//   {name}_register_operators(resolver);
//   static tflite::MicroInterpreter interpreter(
//       tflite::GetModel({name}_data), resolver, arena, {name}_arena_size);
//
// To prove the build: copy {name}_input_0_test to the input, Invoke(), and compare the output with
// {name}_output_0_test. With TFLM's reference kernels every byte is equal; optimized kernels may round
// otherwise.
#ifndef KERAS_LOWBIT_{guard}_H_
#define KERAS_LOWBIT_{guard}_H_

#include <cstddef>
#include <cstdint>

// The flatbuffer; TFLM reads it in place.
alignas(16) extern const unsigned char {name}_data[{size}];
constexpr std::size_t {name}_size = {size};

// Bytes of the tensor arena: {measured} is the smallest in which TFLM ({wheel}, reference
// kernels, {machine}) was found to run this model; the margin is a tenth of it and at least {least} bytes.
// Pointers take 8 bytes there and 4 on a 32-bit target, where the interpreter's own records are smaller.
// Optimized kernels (CMSIS-NN and others) ask for scratch memory that the reference kernels do not need:
// compare with interpreter.arena_used_bytes() after AllocateTensors() on the target.
constexpr std::size_t {name}_arena_size = {arena};

// Adds the operators of this model, and no other, to a tflite::MicroMutableOpResolver of at least
// {name}_operator_count; true if all were taken.{decode}
constexpr unsigned int {name}_operator_count = {count};
template <typename Resolver>
bool {name}_register_operators(Resolver& resolver) {{
  return {registrations};
}}

// Inputs and outputs: real value = scale * (code - zero point).
// The test vector has codes drawn at random from the input's grid.
{constants}

#endif  // KERAS_LOWBIT_{guard}_H_
"""

_SOURCE = """\
// Written by {producer}; do not edit, export again.
#include "{header}"

{array}

{vectors}
"""


def identifier(stem: str) -> str:
    """A file's stem as the beginning of C identifiers: letters, digits and single underscores."""
    name = re.sub(r"[^0-9A-Za-z]+", "_", stem).strip("_")
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")


def check_tflm() -> None:
    """Refuse C source where TFLM is not installed.

    Raises:
      ValueError: it is not.
    """
    if "tflm" not in runtimes.available():
        raise ValueError(
            "C source needs TFLM, to measure the tensor arena and to compute the test vector: install "
            f"'keras_lowbit[micro]', or use format='tflite'. Received: {runtimes.available()}"
        )


def c_source(stem: str, blob: bytes, program: Program, producer: str) -> tuple[str, str]:
    """The texts of ``<stem>.h`` and ``<stem>.cc``.

    Args:
      stem: of the files' names, from which all names in them derive.
      blob: the flatbuffer.
      program: it was written from this one.
      producer: named on top.

    Raises:
      ValueError: TFLM is not installed, does not run the model, or computes something else than the integer
        reference.
    """
    check_tflm()
    calls = resolver_calls(blob)
    inputs, outputs = _test_vector(blob, program)
    measured = measure_arena(blob).smallest
    arena = -(-(measured + max(_SMALLEST_MARGIN, measured // 10)) // 16) * 16
    name = identifier(stem)
    constants, vectors = [], []
    for role, names, values in (
        ("input", program.inputs, inputs), ("output", program.outputs, outputs),
    ):  # fmt: skip
        for index, (tensor, codes) in enumerate(zip(names, values, strict=True)):
            prefix = f"{name}_{role}_{index}"
            constants.append(_constants(prefix, program.tensors[tensor]))
            vectors.append(_codes(prefix, codes))
    decode = _DECODE if resolver_call(DECODE) in calls else ""
    header = _HEADER.format(
        producer=producer, name=name, guard=name.upper(), size=len(blob), measured=measured,
        wheel=f"tflite-micro {importlib.metadata.version('tflite-micro')}", machine=platform.machine(),
        least=_SMALLEST_MARGIN, arena=arena, decode=decode, count=len(calls), constants="\n".join(constants),
        registrations=" &&\n         ".join(
            f"static_cast<int>(resolver.{call}()) == 0" for call in calls
        ) or "true",
    )  # fmt: skip
    source = _SOURCE.format(
        producer=producer,
        header=f"{stem}.h",
        array=array_of(name, blob),
        vectors="\n".join(vectors),
    )
    return header, source


def _test_vector(blob: bytes, program: Program) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Input codes [1, ...] drawn from the grids, and what TFLM and the integer reference make of them."""
    generator = np.random.default_rng(_SEED)
    tensors = [program.tensors[name] for name in program.inputs]
    inputs = [
        generator.integers(tensor.qmin, tensor.qmax + 1, tensor.shape).astype(np.int8)
        for tensor in tensors
    ]
    outputs = runtimes.run(blob, "tflm", inputs)
    named = dict(zip(program.inputs, inputs, strict=True))
    expected = integer_reference.run(program, named, program.outputs)
    for name, values in zip(program.outputs, outputs, strict=True):
        if not np.array_equal(values, expected[name]):
            raise ValueError(
                "TFLM computes something else than the integer reference, so there is no test vector to "
                "write; export with format='tflite' and look at verify(). "
                f"Received: {np.count_nonzero(values != expected[name])} differing codes of {name!r}"
            )
    return inputs, outputs


def _constants(prefix: str, tensor: Tensor) -> str:
    scale = f"{float(np.asarray(tensor.scale)[0]):.9g}"
    scale = scale if re.search(r"[.e]", scale) else f"{scale}.0"
    size = int(np.prod(tensor.shape))
    shape = ", ".join(map(str, tensor.shape))
    return (
        f"// {tensor.name}, int8\n"
        f"constexpr float {prefix}_scale = {scale}f;\n"
        f"constexpr int {prefix}_zero_point = {tensor.zero_point};\n"
        f"constexpr int {prefix}_shape[] = {{{shape}}};\n"
        f"constexpr std::size_t {prefix}_size = {size};\n"
        f"extern const std::int8_t {prefix}_test[{size}];"
    )


def _codes(prefix: str, codes: Sequence[int] | np.ndarray) -> str:
    flat = np.asarray(codes).reshape(-1).tolist()
    lines = [", ".join(map(str, flat[i : i + 20])) for i in range(0, len(flat), 20)]
    body = ",\n  ".join(lines)
    return f"const std::int8_t {prefix}_test[{len(flat)}] = {{\n  {body}\n}};"
