"""The exported program as frozen records: tensors, operators, and where a b-bit grid sits in int8."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

INT8_MIN, INT8_MAX = -128, 127
BIAS_LIMIT = 2**30

# Options of each operator kind: required names, then optional names with their defaults.
_WINDOW = ("padding", "strides")
_FUSED = {"activation": "NONE"}
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "CONV_2D": (_WINDOW, {"dilation": (1, 1), **_FUSED}),
    "DEPTHWISE_CONV_2D": (_WINDOW, {"dilation": (1, 1), "depth_multiplier": 1, **_FUSED}),
    "FULLY_CONNECTED": ((), _FUSED),
    "ADD": ((), _FUSED),
    "CONCATENATION": (("axis",), {}),
    "AVERAGE_POOL_2D": ((*_WINDOW, "window"), _FUSED),
    "MAX_POOL_2D": ((*_WINDOW, "window"), _FUSED),
    "PAD": ((), {}),
    "RESHAPE": ((), {}),
    "RELU": ((), {}),
    "RELU6": ((), {}),
    "QUANTIZE": ((), {}),
    "SOFTMAX": ((), {"beta": 1.0}),
    "LOGISTIC": ((), {}),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the program; `data` is None for activations.

    `shape` includes the batch of 1. `scale` is float32 of length 1 or of length `shape[axis]`
    (constants only). `qmin` and `qmax` are the ends of the b-bit grid as container codes, `shift`
    is the MSB alignment of weights: container code = (b-bit code << shift) + offset. Where the channels
    differ, these two are tuples of a number each.

    Raises: ValueError if the fields contradict each other.
    """

    name: str
    shape: tuple[int, ...]
    scale: np.ndarray | None
    zero_point: int
    bits: int
    qmin: int
    qmax: int
    dtype: str = "int8"
    data: np.ndarray | None = None
    axis: int = 0
    method: str = ""
    shift: int | tuple[int, ...] = 0
    offset: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if self.dtype not in ("int8", "int32"):
            raise ValueError(
                f"Tensor '{self.name}': `dtype` must be 'int8' or 'int32'. Received: {self.dtype!r}."
            )
        if any(size < 1 for size in self.shape):
            raise ValueError(
                f"Tensor '{self.name}': every dimension must be at least 1. Received: {self.shape}."
            )
        if self.scale is not None:
            _check_scale(self)
        elif self.dtype == "int8":
            raise ValueError(
                f"Tensor '{self.name}': an int8 tensor needs a `scale`. Received: None."
            )
        if self.dtype == "int8":
            _check_grid(self)
        if self.data is not None:
            _check_data(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One operator; `name` is the layer's, for messages, and `options` those listed in `OPTIONS`.

    Constants are inputs, in TFLite's order: (input, weights[, bias]), PAD (input, paddings int32 [rank, 2]).

    Raises: ValueError for an unknown kind, a missing or an unknown option.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in OPTIONS:
            raise ValueError(
                f"Layer '{self.name}': unknown operator, expected one of {sorted(OPTIONS)}. "
                f"Received: {self.kind!r}."
            )
        required, optional = OPTIONS[self.kind]
        missing = sorted(set(required) - set(self.options))
        unknown = sorted(set(self.options) - set(required) - set(optional))
        if missing or unknown:
            raise ValueError(
                f"Layer '{self.name}': {self.kind} takes the options {sorted((*required, *optional))}; "
                f"missing {missing}, unknown {unknown}. Received: {dict(self.options)}."
            )

    def option(self, name: str) -> Any:
        """The option, or its default."""
        return self.options.get(name, OPTIONS[self.kind][1].get(name))


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Operators in execution order over named tensors; the order of `tensors` is that of the flatbuffer.

    Raises: ValueError if a name is unknown, or an activation is used before or produced other than once.
    """

    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_names: tuple[str, ...] = ()  # in the signature; none: as the tensors

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if tensor.name != name:
                raise ValueError(f"Expected a tensor named {name!r}. Received: {tensor.name!r}.")
        known = {name for name, tensor in self.tensors.items() if tensor.data is not None}
        for name in self.inputs:
            _expect_new(self.tensors, known, name, "the program's inputs")
        for op in self.ops:
            for name in op.inputs:
                if name not in known:
                    raise ValueError(
                        f"Layer '{op.name}': its input is not a constant and no earlier operator "
                        f"produces it; sort the operators. Received: {name!r}."
                    )
            for name in op.outputs:
                _expect_new(self.tensors, known, name, f"layer '{op.name}'")
        missing = sorted((set(self.tensors) | set(self.outputs)) - known)
        if missing:
            raise ValueError(
                f"No operator produces some tensors of the program. Received: {missing}."
            )


class CodeRange(NamedTuple):
    """Where a b-bit grid sits in the int8 codes."""

    zero_point: int
    qmin: int
    qmax: int


def activation_names(program: Program) -> tuple[str, ...]:
    """Names of the tensors computed at run time, inputs included, in the program's order."""
    return tuple(name for name, tensor in program.tensors.items() if tensor.data is None)


def activation_placement(bits: int, zero: int = 0, *, low: bool = False) -> CodeRange:
    """Place the grid 0..2^bits-1 with its zero at code `zero` at the top (default) or bottom of int8.

    At the top, int8 saturation clamps the upper end and a fused RELU (zero == 0) the lower one.
    At the bottom (after a QUANTIZE of the same scale) saturation clamps the lower end.

    Raises: ValueError if `bits` is not in 2..8 or `zero` is off the grid.
    """
    _check_bits(bits)
    steps = 2**bits - 1
    if not 0 <= zero <= steps:
        raise ValueError(
            f"The zero of a {bits}-bit activation must lie on its grid 0..{steps}. Received: {zero}."
        )
    bottom = INT8_MIN if low else INT8_MAX - steps
    return CodeRange(bottom + zero, bottom, bottom + steps)


def linear_placements(bits: int, zero: int) -> tuple[CodeRange, ...]:
    """Placements of a tensor without ReLU, one per tensor to emit: the operator's output, then QUANTIZE's.

    At 8 bits one tensor is enough. Below, the first is clamped at its top only, so it declares all of int8.
    """
    top = activation_placement(bits, zero)
    if bits == 8:
        return (top,)
    return CodeRange(top.zero_point, INT8_MIN, INT8_MAX), activation_placement(bits, zero, low=True)


def quantize_bias(
    bias: np.ndarray, input_scale: float, weight_scale: np.ndarray, name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Bias as int32 [channels] at scale float32(input_scale) * float32(weight_scale), and that scale.

    `weight_scale` is the aligned one, of length 1 or channels.

    Raises: ValueError if a code reaches 2^30, where the int32 accumulator is no longer safe.
    """
    scale = np.float32(input_scale) * np.atleast_1d(np.float32(weight_scale))
    with np.errstate(all="ignore"):
        codes = np.rint(np.asarray(bias, np.float64) / scale.astype(np.float64))
    bad = np.flatnonzero(~(np.abs(codes) < BIAS_LIMIT))
    if bad.size:
        channel = int(bad[0])
        raise ValueError(
            f"Layer '{name}': the bias of channel {channel} needs the int32 code {codes[channel]:.4g}, "
            f"beyond +-2^30; raise the layer's weight or input scale. "
            f"Received: bias {np.asarray(bias)[channel]:.4g} at scale "
            f"{np.broadcast_to(scale, codes.shape)[channel]:.4g}."
        )
    return codes.astype(np.int32), scale


def _expect_new(tensors: Mapping[str, Tensor], known: set[str], name: str, where: str) -> None:
    if name not in tensors:
        raise ValueError(f"A tensor named by {where} is not in `tensors`. Received: {name!r}.")
    if name in known:
        raise ValueError(
            f"A tensor of {where} is a constant or already produced. Received: {name!r}."
        )
    known.add(name)


def _check_bits(bits: int, most: int = 8) -> None:
    if bits not in range(2, most + 1):
        raise ValueError(f"`bits` must be in 2..{most}. Received: {bits!r}.")


def _check_scale(tensor: Tensor) -> None:
    scale = tensor.scale
    if not isinstance(scale, np.ndarray) or scale.dtype != np.float32 or scale.ndim != 1:
        raise ValueError(
            f"Tensor '{tensor.name}': `scale` must be a float32 vector. Received: {scale!r}."
        )
    if not (np.all(np.isfinite(scale)) and np.all(scale > 0)):
        raise ValueError(
            f"Tensor '{tensor.name}': every scale must be finite and positive. Received: {scale}."
        )
    if scale.size > 1 and (
        tensor.data is None or tensor.zero_point != 0 or scale.size != tensor.shape[tensor.axis]
    ):
        raise ValueError(
            f"Tensor '{tensor.name}': only a constant with zero point 0 may have one scale per index of "
            f"its axis {tensor.axis}. Received: {scale.size} scales for shape {tensor.shape}."
        )


def _check_grid(tensor: Tensor) -> None:
    _check_bits(tensor.bits)
    if not INT8_MIN <= tensor.qmin <= tensor.zero_point <= tensor.qmax <= INT8_MAX:
        raise ValueError(
            f"Tensor '{tensor.name}': expected -128 <= qmin <= zero_point <= qmax <= 127. "
            f"Received: {tensor.qmin}, {tensor.zero_point}, {tensor.qmax}."
        )


def _check_data(tensor: Tensor) -> None:
    data = tensor.data
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != tensor.dtype
        or data.shape != tuple(tensor.shape)
    ):
        received = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data)
        raise ValueError(
            f"Tensor '{tensor.name}': `data` must be {tensor.dtype} of shape {tensor.shape}. "
            f"Received: {received}."
        )
    if tensor.dtype == "int8" and (data.min() < tensor.qmin or data.max() > tensor.qmax):
        raise ValueError(
            f"Tensor '{tensor.name}': codes must lie in [{tensor.qmin}, {tensor.qmax}]. "
            f"Received: codes from {data.min()} to {data.max()}."
        )
