"""What each operator asks of its tensors: rules that TFLM or LiteRT check late, abort on, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keras_lowbit.export.integer_kernels import accumulator_bound, output_size
from keras_lowbit.export.ir import Op, Program, Tensor

# Kernels of these copy or pick codes: nothing is rescaled, and a runtime may not even notice.
SAME_QUANTIZATION = ("CONCATENATION", "AVERAGE_POOL_2D", "MAX_POOL_2D", "PAD", "RESHAPE", "RELU6")
_INPUT_COUNTS = {
    "CONV_2D": (2, 3),
    "DEPTHWISE_CONV_2D": (2, 3),
    "FULLY_CONNECTED": (2, 3),
    "ADD": (2, 2),
    "PAD": (2, 2),
    "RESHAPE": (1, 2),
    "CONCATENATION": (1, 10),
}
_CONSTANTS_FROM = dict.fromkeys(
    ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "PAD", "RESHAPE"), 1
)


def check_program(program: Program) -> None:
    """Check every operator against its tensors.

    Raises: ValueError naming the layer and the rule.
    """
    for op in program.ops:
        low, high = _INPUT_COUNTS.get(op.kind, (1, 1))
        _expect(op, low <= len(op.inputs) <= high, f"{low} to {high} inputs", len(op.inputs))
        _expect(op, len(op.outputs) == 1, "one output", op.outputs)
        inputs = [program.tensors[name] for name in op.inputs]
        output = program.tensors[op.outputs[0]]
        first_constant = _CONSTANTS_FROM.get(op.kind, len(inputs))
        if op.kind == "ADD" and inputs[1].data is not None and inputs[1].data.size == 1:
            first_constant = 1  # a number, added to every element
        for index, tensor in enumerate(inputs):
            _expect(
                op,
                (tensor.data is not None) == (index >= first_constant),
                f"activations, then constants from input {first_constant} on",
                op.inputs,
            )
        for tensor in (*inputs[:first_constant], output):
            _expect(op, tensor.dtype == "int8", f"int8 activations, '{tensor.name}'", tensor.dtype)
            _expect(op, tensor.shape[:1] == (1,), f"a batch of 1 in '{tensor.name}'", tensor.shape)
        _expect(
            op,
            op.option("activation") in (None, "NONE", "RELU", "RELU6"),
            "the activation NONE, RELU or RELU6",
            op.option("activation"),
        )
        if op.option("activation") == "RELU6":
            six = 6 / _first_scale(output)
            _expect(
                op, six < 2**31, "6 to be an int32 code of the output, whose scale is tiny", six
            )
        if op.kind in SAME_QUANTIZATION:
            _check_same_quantization(op, inputs[:first_constant], output)
        if op.kind in _RULES:
            _RULES[op.kind](op, inputs, output)


def _expect(op: Op, satisfied: bool, expected: str, received: object) -> None:
    if not satisfied:
        raise ValueError(
            f"Layer '{op.name}' ({op.kind}): expected {expected}. Received: {received}."
        )


def _first_scale(tensor: Tensor) -> float:
    return math.nan if tensor.scale is None else float(tensor.scale[0])


def _check_same_quantization(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    for tensor in inputs:
        same = tensor.zero_point == output.zero_point and _first_scale(tensor) == _first_scale(
            output
        )
        _expect(
            op,
            same,
            f"'{tensor.name}' and '{output.name}' to share scale and zero point, because the kernel "
            "does not rescale; insert a QUANTIZE",
            f"{tensor.scale}, {tensor.zero_point} and {output.scale}, {output.zero_point}",
        )


def _rescaled(op: Op, sources: list[Tensor], output: Tensor) -> None:
    scales = [float(tensor.scale.max()) for tensor in sources if tensor.scale is not None]
    factor = math.prod(scales) / _first_scale(output)
    _expect(op, factor < 2**31, "a rescaling factor to the output's scale below 2^31", factor)


def _windowed(op: Op, source: Tensor, window: Sequence[int], channels: int, output: Tensor) -> None:
    padding = op.options["padding"]
    _expect(op, padding in ("SAME", "VALID"), "padding SAME or VALID", padding)
    _expect(op, len(source.shape) == 4, "an input [1, height, width, channels]", source.shape)
    dilation = op.option("dilation") or (1, 1)
    sizes = tuple(
        output_size(*axis, padding)
        for axis in zip(source.shape[1:3], window, op.options["strides"], dilation, strict=True)
    )
    _expect(
        op,
        tuple(output.shape) == (1, *sizes, channels),
        f"the output shape {(1, *sizes, channels)}",
        tuple(output.shape),
    )


def _weighted(op: Op, inputs: list[Tensor], output: Tensor, axis: int) -> None:
    source, weights = inputs[:2]
    bias = inputs[2] if len(inputs) == 3 else None
    channels = weights.shape[axis]
    per_channel = weights.scale is not None and weights.scale.size > 1
    _rescaled(op, inputs[:2], output)
    _expect(
        op,
        weights.dtype == "int8" and weights.zero_point == 0,
        "int8 weights with zero point 0",
        f"{weights.dtype}, zero point {weights.zero_point}",
    )
    fits = not per_channel or weights.axis == axis
    _expect(op, fits, f"weight scales along axis {axis}", weights.axis)
    codes = (
        np.moveaxis(weights.data, axis, 0).reshape(channels, -1)
        if weights.data is not None
        else np.zeros((1, 1))
    )
    bound = accumulator_bound(codes, source.zero_point)
    if bias is not None and bias.data is not None:
        _expect(
            op,
            bias.dtype == "int32" and tuple(bias.shape) == (channels,),
            f"an int32 bias [{channels}]",
            f"{bias.dtype} {bias.shape}",
        )
        bound += int(np.abs(bias.data.astype(np.int64)).max())
    fitting = "sums that fit the int32 accumulator (weights, taps and bias are too large)"
    _expect(op, bound < 2**31, fitting, bound)


def _conv_2d(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    source, weights = inputs[0], inputs[1]
    _expect(
        op,
        len(weights.shape) == 4 and weights.shape[3] == source.shape[-1],
        f"weights [out, height, width, {source.shape[-1]}]",
        weights.shape,
    )
    _windowed(op, source, weights.shape[1:3], weights.shape[0], output)
    _weighted(op, inputs, output, 0)


def _depthwise_conv_2d(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    source, weights = inputs[0], inputs[1]
    channels = source.shape[-1] * op.option("depth_multiplier")
    _expect(
        op,
        len(weights.shape) == 4 and weights.shape[0] == 1 and weights.shape[3] == channels,
        f"weights [1, height, width, {channels}]",
        weights.shape,
    )
    _windowed(op, source, weights.shape[1:3], channels, output)
    _weighted(op, inputs, output, 3)


def _fully_connected(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    source, weights = inputs[0], inputs[1]
    _expect(
        op,
        len(weights.shape) == 2 and weights.shape[1] == source.shape[-1],
        f"weights [out, {source.shape[-1]}]",
        weights.shape,
    )
    expected = (*source.shape[:-1], weights.shape[0])
    _expect(op, tuple(output.shape) == expected, f"the output shape {expected}", output.shape)
    _weighted(op, inputs, output, 0)
    if len(inputs) == 3 and weights.scale is not None and weights.scale.size == 1:
        product = _first_scale(source) * _first_scale(weights)
        apart = abs(product - _first_scale(inputs[2])) / _first_scale(output)
        # TFLM compares them itself; float32 rounding alone is enough where the output is fine.
        _expect(op, apart <= 0.02, "a bias scale within 0.02 output scales of the product", apart)


def _add(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (*inputs, output) if tensor.data is None]
    _expect(op, len(set(shapes)) == 1, "equal shapes of inputs and output", shapes)
    number = inputs[1] if inputs[1].data is not None else output
    fits = number.dtype == "int8" and len(number.shape) == len(output.shape)
    _expect(op, fits, "an int8 number of the output's rank", f"{number.dtype} {number.shape}")
    ratio = 2 * max(_first_scale(tensor) for tensor in inputs) / _first_scale(output)
    # TFLM aborts the process on a factor of 1 or more.
    _expect(
        op,
        ratio < 2**20 * (1 - 2**-31),
        "input scales below 2^19 times the output scale",
        ratio / 2,
    )


def _pool(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    _windowed(op, inputs[0], op.options["window"], inputs[0].shape[-1], output)


def _pad(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    source, paddings = inputs
    rank = len(source.shape)
    _expect(
        op,
        paddings.dtype == "int32" and tuple(paddings.shape) == (rank, 2),
        f"int32 paddings [{rank}, 2]",
        f"{paddings.dtype} {paddings.shape}",
    )
    amounts = paddings.data if paddings.data is not None else np.zeros((rank, 2), np.int32)
    _expect(
        op,
        bool(np.all(amounts >= 0) and not np.any(amounts[0])),
        "no negative and no batch padding",
        amounts.tolist(),
    )
    expected = tuple(
        int(size + sum(pair)) for size, pair in zip(source.shape, amounts, strict=True)
    )
    _expect(op, tuple(output.shape) == expected, f"the output shape {expected}", output.shape)


def _concatenation(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    rank, axis = len(output.shape), op.options["axis"]
    _expect(op, axis in range(1 - rank, rank) and axis != 0, "an axis other than the batch", axis)
    expected = list(inputs[0].shape)
    expected[axis] = sum(tensor.shape[axis] for tensor in inputs)
    _expect(op, list(output.shape) == expected, f"the output shape {expected}", output.shape)


def _reshape(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    elements = math.prod(inputs[0].shape)
    _expect(op, elements == math.prod(output.shape), f"{elements} elements", output.shape)


def _elementwise(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    _expect(
        op,
        tuple(inputs[0].shape) == tuple(output.shape),
        f"the output shape {tuple(inputs[0].shape)}",
        output.shape,
    )


def _rescaling(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    _elementwise(op, inputs, output)
    _rescaled(op, inputs, output)


def _probability(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    _elementwise(op, inputs, output)
    if op.kind == "SOFTMAX":
        scale = op.option("beta") * _first_scale(inputs[0])
        fitting = "answers that differ, beta times the input scale above 2^-26: train first, or leave the softmax out"
        _expect(op, scale > 2**-26, fitting, scale)
    else:  # above, TFLM maps 0 to 0, not to a half; below, it shifts by a negative amount
        scale = _first_scale(inputs[0])
        fitting = (
            "an input scale of 2^-28 or more and below 8, a range of some 2000: give calibration samples scaled "
            "as in training, train on normalised inputs, or leave the sigmoid out, which is above 0.5 "
            "where its input is above 0"
        )
        _expect(op, 2**-28 <= scale < 8, fitting, scale)
    fixed = output.zero_point == -128 and _first_scale(output) == 1 / 256
    _expect(
        op,
        fixed,
        "the output scale 1/256 and zero point -128",
        f"{output.scale}, {output.zero_point}",
    )


_RULES: dict[str, Callable[[Op, list[Tensor], Tensor], None]] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "ADD": _add,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "PAD": _pad,
    "CONCATENATION": _concatenation,
    "RESHAPE": _reshape,
    "RELU": _rescaling,
    "RELU6": _elementwise,
    "QUANTIZE": _rescaling,
    "SOFTMAX": _probability,
    "LOGISTIC": _probability,
}
