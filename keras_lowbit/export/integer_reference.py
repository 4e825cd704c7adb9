"""Run a program in NumPy exactly as TFLM's reference kernels run its flatbuffer, for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from keras_lowbit.export import fixed_point, integer_kernels
from keras_lowbit.export.ir import INT8_MAX, INT8_MIN, Op, Program, Tensor, activation_names
from keras_lowbit.export.op_rules import check_program

Kernel = Callable[..., np.ndarray]
Tensors = Mapping[str, Tensor]

_CHUNK_BYTES = 64 * 2**20  # of the largest temporary; larger chunks are not faster


def run(
    program: Program, inputs: Mapping[str, np.ndarray], keep: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Every activation tensor by name, int8 [N, ...], inputs included; only those in `keep` if given.

    `inputs` maps each program input to int8 codes [N, ...].

    Raises: ValueError if the inputs do not fit the program, or the program breaks a rule of the kernels.
    """
    check_program(program)
    batch = _check_inputs(program, inputs)
    kept = activation_names(program) if keep is None else tuple(keep)
    unknown = sorted(set(kept) - set(activation_names(program)))
    if unknown:
        raise ValueError(f"`keep` may name activation tensors only. Received: {unknown}.")
    steps = [(op, _BUILDERS[op.kind](op, program.tensors)) for op in program.ops]
    results = {name: np.empty((batch, *program.tensors[name].shape[1:]), np.int8) for name in kept}
    size = max(1, _CHUNK_BYTES // max(1, _largest_temporary(program)))
    for start in range(0, batch, size):
        values = {name: inputs[name][start : start + size] for name in program.inputs}
        for op, kernel in steps:
            values[op.outputs[0]] = kernel(*[values[name] for name in op.inputs if name in values])
        for name in kept:
            results[name][start : start + size] = values[name]
    return results


def quantize_input(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """Real values as int8 codes of an input tensor, halves rounded up, as in the simulation."""
    codes = np.floor(np.float32(values) / _scale(tensor) + np.float32(0.5)) + tensor.zero_point
    return np.clip(codes, tensor.qmin, tensor.qmax).astype(np.int8)


def fused_range(activation: str, tensor: Tensor) -> tuple[int, int]:
    """Ends of the codes a fused activation lets through."""
    low = tensor.zero_point if activation in ("RELU", "RELU6") else INT8_MIN
    if activation != "RELU6":
        return low, INT8_MAX
    six = np.float32(6) / _scale(tensor)
    return low, min(INT8_MAX, tensor.zero_point + math.floor(float(six) + 0.5))


def _check_inputs(program: Program, inputs: Mapping[str, np.ndarray]) -> int:
    if set(inputs) != set(program.inputs):
        raise ValueError(
            f"The program takes the inputs {sorted(program.inputs)}. Received: {sorted(inputs)}."
        )
    for name, value in inputs.items():
        shape = program.tensors[name].shape[1:]
        if value.dtype != np.int8 or value.shape[1:] != tuple(shape):
            raise ValueError(
                f"Input '{name}' takes int8 codes of shape [N, {', '.join(map(str, shape))}]; quantize "
                f"the data first. Received: {value.dtype} {value.shape}."
            )
    sizes = {len(value) for value in inputs.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"All inputs must have the same number of samples. Received: {sorted(sizes)}."
        )
    return sizes.pop()


def _largest_temporary(program: Program) -> int:
    """Bytes per sample of the largest temporary array of any kernel."""
    largest = 0
    for op in program.ops:
        taps = 8
        if op.kind == "CONV_2D":
            taps = math.prod(program.tensors[op.inputs[1]].shape[1:])
        channels = program.tensors[op.outputs[0]].shape[-1]
        elements = math.prod(program.tensors[op.outputs[0]].shape)
        largest = max(largest, 8 * elements * max(taps, 4 * channels) // channels)
    return largest


def _scale(tensor: Tensor) -> np.float32:
    """The only scale of a per-tensor quantized tensor."""
    if tensor.scale is None:
        raise ValueError(f"Tensor '{tensor.name}' has no scale.")
    return tensor.scale[0]


def _data(tensor: Tensor) -> np.ndarray:
    if tensor.data is None:
        raise ValueError(f"Tensor '{tensor.name}' must be a constant.")
    return tensor.data


def _requantize(
    accumulator: np.ndarray, multipliers: list[tuple[int, int]], low: int, high: int, zero: int
) -> np.ndarray:
    multiplier, shift = np.array(multipliers, np.int64).T
    scaled = fixed_point.multiply_by_quantized_multiplier(accumulator, multiplier, shift)
    scaled += zero
    return np.clip(scaled, low, high, out=scaled).astype(np.int8)


def _multipliers(source: Tensor, weights: Tensor, target: Tensor) -> list[tuple[int, int]]:
    scales = weights.scale if weights.scale is not None else np.empty(0, np.float32)
    # In double throughout. TFLM sources up to August 2026 show a float32 product for per-tensor FULLY_CONNECTED;
    # the pinned wheel has a double one there too, which test_integer_reference.py pins down.
    return [
        fixed_point.quantize_multiplier(
            float(_scale(source)) * float(scale) / float(_scale(target))
        )
        for scale in scales
    ]


def _weighted(op: Op, tensors: Tensors) -> Kernel:
    source, weights = tensors[op.inputs[0]], tensors[op.inputs[1]]
    target = tensors[op.outputs[0]]
    bias = _data(tensors[op.inputs[2]]).astype(np.int64) if len(op.inputs) == 3 else np.int64(0)
    codes = _data(weights)
    multipliers = _multipliers(source, weights, target)
    low, high = fused_range(op.option("activation"), target)
    zero = source.zero_point

    def kernel(values: np.ndarray) -> np.ndarray:
        if op.kind == "FULLY_CONNECTED":
            accumulator = integer_kernels.fully_connected(
                values.reshape(-1, codes.shape[1]), codes, zero
            )
        else:
            convolve = (
                integer_kernels.conv_2d
                if op.kind == "CONV_2D"
                else integer_kernels.depthwise_conv_2d
            )
            accumulator = convolve(
                values,
                codes,
                zero,
                op.options["strides"],
                op.option("dilation"),
                op.options["padding"],
            )
        total = accumulator.astype(np.int64)
        total += bias
        result = _requantize(total, multipliers, low, high, target.zero_point)
        return result.reshape(len(values), *target.shape[1:])

    return kernel


def _add(op: Op, tensors: Tensors) -> Kernel:
    target = tensors[op.outputs[0]]
    sources = [tensors[name] for name in op.inputs]
    doubled = 2.0 * float(max(_scale(source) for source in sources))
    tables = []
    for source in sources:
        multiplier = fixed_point.quantize_multiplier(float(_scale(source)) / doubled)
        shifted = (integer_kernels.ALL_CODES.astype(np.int64) - source.zero_point) << 20
        tables.append(fixed_point.multiply_by_quantized_multiplier(shifted, *multiplier))
    output = [fixed_point.quantize_multiplier(doubled / (2**20 * float(_scale(target))))]
    low, high = fused_range(op.option("activation"), target)

    constants = [source.data for source in sources if source.data is not None]

    def kernel(*values: np.ndarray) -> np.ndarray:
        left, right = *values, *constants
        total = np.take(tables[0], left.view(np.uint8)) + np.take(tables[1], right.view(np.uint8))
        return _requantize(total, output, low, high, target.zero_point)

    return kernel


def _pool(op: Op, tensors: Tensors) -> Kernel:
    low, high = fused_range(op.option("activation"), tensors[op.outputs[0]])
    pool = (
        integer_kernels.average_pool_2d
        if op.kind == "AVERAGE_POOL_2D"
        else integer_kernels.max_pool_2d
    )
    arguments = (op.options["window"], op.options["strides"], op.options["padding"])
    return lambda values: np.clip(pool(values, *arguments), low, high).astype(np.int8)


def _pad(op: Op, tensors: Tensors) -> Kernel:
    paddings = _data(tensors[op.inputs[1]])
    fill = tensors[op.outputs[0]].zero_point
    return lambda values: np.pad(values, paddings, constant_values=fill)


def _concatenation(op: Op, tensors: Tensors) -> Kernel:
    axis = op.options["axis"]
    return lambda *values: np.concatenate(values, axis=axis)


def _reshape(op: Op, tensors: Tensors) -> Kernel:
    shape = tensors[op.outputs[0]].shape[1:]
    return lambda values: values.reshape(len(values), *shape)


def _softmax(op: Op, tensors: Tensors) -> Kernel:
    scale = float(_scale(tensors[op.inputs[0]]))
    beta = float(np.float32(op.option("beta")))
    return lambda values: integer_kernels.softmax(values, scale, beta)


def _lookup(op: Op, tensors: Tensors) -> Kernel:
    """Operators that map each code by itself: computed once for the 256 codes."""
    source, target = tensors[op.inputs[0]], tensors[op.outputs[0]]
    codes = integer_kernels.ALL_CODES
    if op.kind == "LOGISTIC":
        table = integer_kernels.logistic_table(float(_scale(source)), source.zero_point)
    elif op.kind == "RELU6":  # clamps without rescaling
        table = np.clip(codes, *fused_range("RELU6", source))
    else:
        multiplier = [
            fixed_point.quantize_multiplier(float(_scale(source)) / float(_scale(target)))
        ]
        low, high = fused_range(op.kind, target)
        table = _requantize(
            codes[:, None].astype(np.int64) - source.zero_point,
            multiplier,
            low,
            high,
            target.zero_point,
        )[:, 0]
    return lambda values: np.take(table, values.view(np.uint8))


_BUILDERS: dict[str, Callable[[Op, Tensors], Kernel]] = {
    "CONV_2D": _weighted,
    "DEPTHWISE_CONV_2D": _weighted,
    "FULLY_CONNECTED": _weighted,
    "ADD": _add,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "PAD": _pad,
    "CONCATENATION": _concatenation,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "LOGISTIC": _lookup,
    "RELU": _lookup,
    "RELU6": _lookup,
    "QUANTIZE": _lookup,
}
