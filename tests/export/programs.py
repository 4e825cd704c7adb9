"""Small random programs for the tests: every operator, realistic and awkward scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lowbit.export.constants import align_weights
from keras_lowbit.export.integer_kernels import output_size
from keras_lowbit.export.ir import (
    Op,
    Program,
    Tensor,
    activation_placement,
    linear_placements,
    quantize_bias,
)


class Builder:
    """Grows a program operator by operator; methods return the name of the new activation."""

    def __init__(self, seed: int, bits: int, width: int = 8) -> None:
        self.random = np.random.default_rng(seed)
        self.bits, self.width = bits, width
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.inputs: list[str] = []

    def program(self, *outputs: str) -> Program:
        return Program(self.tensors, tuple(self.ops), tuple(self.inputs), outputs)

    def scale(self, low: float = 0.002, high: float = 0.3) -> np.float32:
        return np.float32(np.exp(self.random.uniform(np.log(low), np.log(high))))

    def magnitude(self, name: str) -> float:
        """Typical real value of an activation."""
        tensor = self.tensors[name]
        return float(tensor.scale[0]) * 0.3 * (tensor.qmax - tensor.qmin)

    def activation(
        self,
        shape: tuple[int, ...],
        scale: Any,
        zero_point: int,
        qmin: int = -128,
        qmax: int = 127,
        bits: int = 8,
    ) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = Tensor(
            name, tuple(shape), np.float32([scale]), zero_point, bits, qmin, qmax
        )
        return name

    def constant(
        self,
        data: np.ndarray,
        scale: np.ndarray | None = None,
        axis: int = 0,
        bits: int = 8,
        shift: int = 0,
    ) -> str:
        name = f"c{len(self.tensors)}"
        low, high = (-128, 127) if data.dtype == np.int8 else (0, 0)
        self.tensors[name] = Tensor(
            name,
            data.shape,
            scale,
            0,
            bits,
            low,
            high,
            data.dtype.name,
            data,
            axis,
            "random",
            shift,
        )
        return name

    def input(
        self, shape: tuple[int, ...], scale: float | None = None, zero_point: int | None = None
    ) -> str:
        if zero_point is None:
            zero_point = int(self.random.integers(-128, 128))
        name = self.activation(shape, self.scale() if scale is None else scale, zero_point)
        self.inputs.append(name)
        return name

    def like(self, source: str, shape: tuple[int, ...] | None = None) -> str:
        """An activation with the quantization of another."""
        tensor = self.tensors[source]
        return self.activation(
            shape or tensor.shape,
            tensor.scale[0],
            tensor.zero_point,
            tensor.qmin,
            tensor.qmax,
            tensor.bits,
        )

    def apply(self, kind: str, sources: tuple[str, ...], target: str, **options: Any) -> str:
        self.ops.append(Op(kind, f"layer_{len(self.ops)}", sources, (target,), options))
        return target

    def quantized(
        self,
        kind: str,
        sources: tuple[str, ...],
        shape: tuple[int, ...],
        spread: float,
        activation: str = "RELU",
        **options: Any,
    ) -> str:
        """An operator and its b-bit output; `spread` is the typical real magnitude of the result."""
        steps = 2**self.bits - 1
        scale = np.float32(spread * self.random.uniform(1.5, 4) / steps)
        if activation != "NONE":
            places = (activation_placement(self.bits),)
        else:
            places = linear_placements(self.bits, int(self.random.integers(0, steps + 1)))
        target = self.apply(
            kind,
            sources,
            self.activation(shape, scale, *places[0], bits=self.bits if len(places) == 1 else 8),
            activation=activation,
            **options,
        )
        for place in places[1:]:
            target = self.apply(
                "QUANTIZE", (target,), self.activation(shape, scale, *place, bits=self.bits)
            )
        return target

    def weights(
        self,
        source: str,
        shape: tuple[int, ...],
        axis: int,
        per_channel: bool = True,
        align: bool = True,
        bias: bool = True,
    ) -> tuple[tuple[str, ...], float]:
        """Names of (weights, bias) and the typical magnitude of the layer's output."""
        channels = shape[axis]
        limit = 2 ** (self.bits - 1) - 1
        codes = self.random.integers(-limit, limit + 1, shape)
        scale = self.random.uniform(0.2, 1, channels if per_channel else 1).astype(
            np.float32
        ) / np.float32(limit)
        shift = 0
        if align:
            aligned = align_weights(codes, scale, np.zeros(1), self.bits, self.width)
            codes, scale, shift, _ = aligned
        tensor = self.tensors[source]
        taps = codes.size // channels
        spread = (
            self.magnitude(source) * float(scale.mean()) * (limit << shift) * 0.6 * np.sqrt(taps)
        )
        names = (self.constant(codes.astype(np.int8), scale, axis, self.bits, shift),)
        if bias:
            data, bias_scale = quantize_bias(
                self.random.normal(0, spread / 3, channels), float(tensor.scale[0]), scale, "layer"
            )
            names += (self.constant(data, bias_scale, bits=32),)
        return names, spread

    def conv(
        self,
        source: str,
        channels: int,
        window: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: str = "SAME",
        activation: str = "RELU",
        **weights: Any,
    ) -> str:
        shape = self.tensors[source].shape
        constants, spread = self.weights(source, (channels, *window, shape[3]), 0, **weights)
        return self.quantized(
            "CONV_2D",
            (source, *constants),
            self.windowed(shape, window, strides, dilation, padding, channels),
            spread,
            activation,
            padding=padding,
            strides=strides,
            dilation=dilation,
        )

    def depthwise(
        self,
        source: str,
        multiplier: int = 1,
        window: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: str = "SAME",
        activation: str = "RELU",
        **weights: Any,
    ) -> str:
        shape = self.tensors[source].shape
        channels = shape[3] * multiplier
        constants, spread = self.weights(source, (1, *window, channels), 3, **weights)
        return self.quantized(
            "DEPTHWISE_CONV_2D",
            (source, *constants),
            self.windowed(shape, window, strides, dilation, padding, channels),
            spread,
            activation,
            padding=padding,
            strides=strides,
            dilation=dilation,
            depth_multiplier=multiplier,
        )

    def dense(self, source: str, units: int, activation: str = "RELU", **weights: Any) -> str:
        shape = self.tensors[source].shape
        constants, spread = self.weights(source, (units, shape[-1]), 0, **weights)
        return self.quantized(
            "FULLY_CONNECTED", (source, *constants), (*shape[:-1], units), spread, activation
        )

    def add(self, left: str, right: str, activation: str = "RELU") -> str:
        spread = max(self.magnitude(left), self.magnitude(right))
        return self.quantized("ADD", (left, right), self.tensors[left].shape, spread, activation)

    def pool(
        self,
        kind: str,
        source: str,
        window: tuple[int, int],
        strides: tuple[int, int],
        padding: str,
    ) -> str:
        shape = self.tensors[source].shape
        target = self.like(source, self.windowed(shape, window, strides, (1, 1), padding, shape[3]))
        return self.apply(kind, (source,), target, window=window, strides=strides, padding=padding)

    def pad(self, source: str, amounts: list[tuple[int, int]]) -> str:
        shape = tuple(
            size + sum(pair) for size, pair in zip(self.tensors[source].shape, amounts, strict=True)
        )
        paddings = self.constant(np.array(amounts, np.int32), bits=32)
        return self.apply("PAD", (source, paddings), self.like(source, shape))

    def reshape(self, source: str, shape: tuple[int, ...]) -> str:
        return self.apply("RESHAPE", (source,), self.like(source, shape))

    def concatenate(self, sources: tuple[str, ...], axis: int) -> str:
        shape = list(self.tensors[sources[0]].shape)
        shape[axis] = sum(self.tensors[name].shape[axis] for name in sources)
        return self.apply("CONCATENATION", sources, self.like(sources[0], tuple(shape)), axis=axis)

    def probability(self, kind: str, source: str) -> str:
        return self.apply(
            kind, (source,), self.activation(self.tensors[source].shape, 1 / 256, -128)
        )

    def rescale(self, kind: str, source: str, ratio: float) -> str:
        """RELU or QUANTIZE to a b-bit grid with a scale `ratio` times the source's."""
        place = activation_placement(
            self.bits, 0 if kind == "RELU" else 2 ** (self.bits - 1) - 1, low=kind == "QUANTIZE"
        )
        scale = self.tensors[source].scale[0] * np.float32(ratio)
        if kind == "QUANTIZE":  # clamped at the bottom only
            place = place._replace(qmax=127)
        return self.apply(
            kind, (source,), self.activation(self.tensors[source].shape, scale, *place, bits=8)
        )

    @staticmethod
    def windowed(
        shape: tuple[int, ...],
        window: tuple[int, int],
        strides: tuple[int, int],
        dilation: tuple[int, int],
        padding: str,
        channels: int,
    ) -> tuple[int, ...]:
        sizes = [
            output_size(*axis, padding)
            for axis in zip(shape[1:3], window, strides, dilation, strict=True)
        ]
        return (1, *sizes, channels)


def random_inputs(program: Program, samples: int, seed: int = 0) -> list[np.ndarray]:
    """Codes of the whole int8 range; the first two samples are the extremes."""
    random = np.random.default_rng(seed)
    inputs = []
    for name in program.inputs:
        codes = random.integers(-128, 128, (samples, *program.tensors[name].shape[1:])).astype(
            np.int8
        )
        codes[:2] = np.array([-128, 127], np.int8).reshape(2, *[1] * (codes.ndim - 1))[:samples]
        inputs.append(codes)
    return inputs
