"""The quantized model as integer operators: every number the device sees is fixed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lowbit.export import ir
from keras_lowbit.export.constants import kernel_and_bias, kernel_codes, zero_to_add
from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import FIXED_RANGE
from keras_lowbit.quantizers.placement import Placement, fused_relu, needs_second_clamp


def lower(
    graph: Graph,
    placement: Placement,
    values: Mapping[str, np.ndarray],
    methods: Mapping[str, str] | None = None,
    containers: Mapping[str, str] | None = None,
) -> ir.Program:
    """Lower a quantized graph.

    Args:
      graph: folded, with ``Quantize`` nodes.
      placement: its quantizers.
      values: kernels, biases, scales and zero points by the names of ``Student.values``.
      methods: how the values of ``<layer>/kernel`` and ``<layer>/output`` were found.
      containers: of the kernels in the file, by layer; "int8" unless given.

    Returns:
      A program; its inputs, and outputs in the signature, have the names of the model's.

    Raises:
      ValueError: a bias that overflows int32, a scale that is not positive and finite; the layer
        is named.
    """
    return _Lowering(graph, placement, values, methods or {}, containers or {}).program()


@dataclasses.dataclass(frozen=True)
class _Grid:
    """A group's grid in real numbers, and whether it sits at the low end of int8."""

    bits: int
    scale: np.ndarray
    zero: int
    low: bool
    method: str


class _Lowering:
    """Walks the graph once; ``where`` maps a node to the tensor that holds its output."""

    def __init__(
        self,
        graph: Graph,
        placement: Placement,
        values: Mapping[str, np.ndarray],
        methods: Mapping[str, str],
        containers: Mapping[str, str],
    ) -> None:
        self.graph, self.placement, self.values, self.methods = graph, placement, values, methods
        self.containers = containers
        self.tensors: dict[str, ir.Tensor] = {}
        self.ops: list[ir.Op] = []
        self.where: dict[str, str] = {}
        if placement.too_wide():
            raise ValueError(
                "Codes of more than 8 bits fit no int8 container: activations of 16 bits are for "
                "simulation only. Use activation_bits, input_bits and linear_activation_bits of 2 to "
                f"8. Received: 16 bits for {list(placement.too_wide())}"
            )
        self.grids = {name: self._grid(name) for name in placement.activations}

    def program(self) -> ir.Program:
        for node in self.graph.nodes:
            if node.name in self.where:  # a ReLU that already runs inside another kernel
                continue
            getattr(self, _HANDLERS[node.kind])(node)
        names, ends = self.graph.output_names, tuple(map(self._external, self.graph.outputs))
        return ir.Program(self.tensors, tuple(self.ops), self.graph.inputs, ends, names)

    def _grid(self, group: str) -> _Grid:
        spec = self.placement.activations[group]
        low = needs_second_clamp(self.graph, self.placement, group)
        scale = np.atleast_1d(np.float32(self.values[f"{group}/output_scale"]))
        if not (np.isfinite(scale).all() and (scale > np.finfo(np.float32).tiny).all()):
            raise ValueError(
                "A scale must be a positive, normal float32 number: calibrate on data that excites "
                f"this tensor. Received: scale={scale} of the output of {group!r}"
            )
        is_fixed = self.graph[group].kind in FIXED_RANGE
        method = "fixed" if is_fixed else self.methods.get(f"{group}/output", "")
        return _Grid(spec.bits, scale, int(self.values[f"{group}/output_zero_point"]), low, method)

    def _add(self, tensor: ir.Tensor) -> str:
        self.tensors[tensor.name] = tensor
        return tensor.name

    def _activation(self, name: str, shape: tuple[int, ...], grid: _Grid, place: Any) -> str:
        codes = place.zero_point, grid.bits, place.qmin, place.qmax
        return self._add(ir.Tensor(name, shape, grid.scale, *codes, method=grid.method))

    def _same_grid(self, name: str, shape: tuple[int, ...], source: str) -> str:
        """A tensor with the quantization of ``source``."""
        return self._add(dataclasses.replace(self.tensors[source], name=name, shape=shape))

    def _emit(
        self, kind: str, node: Node, inputs: list[str], shape: tuple[int, ...], **options: Any
    ) -> None:
        """An operator that computes a head, with the clamping its grid needs."""
        relu = fused_relu(self.graph, node)
        head = relu or node
        grid = self.grids[self.placement.groups[head.name]]
        if relu is not None:
            six = 6 / grid.scale[0]  # of a very fine grid no 32-bit code, and far off it
            capped = relu.config.get("max_value") and six < 2**31
            options["activation"] = "RELU6" if capped else "RELU"
        top = ir.activation_placement(grid.bits, grid.zero)
        if grid.low:
            clamped = head.kind == "ReLU"  # at its zero point, by the kernel itself
            first = top if clamped else ir.linear_placements(grid.bits, grid.zero)[0]
            raw = self._activation(f"{head.name}/saturated", shape, grid, first)
            final = ir.activation_placement(grid.bits, grid.zero, low=True)
            out = self._activation(head.name, shape, grid, final)
            self.ops.append(ir.Op(kind, node.name, tuple(inputs), (raw,), options))
            self.ops.append(ir.Op("QUANTIZE", head.name, (raw,), (out,)))
        else:
            out = self._activation(head.name, shape, grid, top)
            self.ops.append(ir.Op(kind, node.name, tuple(inputs), (out,), options))
        self.where[node.name] = self.where[head.name] = out

    def _pass(
        self, kind: str, node: Node, source: str, shape: tuple[int, ...], **options: Any
    ) -> str:
        """An operator whose output is on the grid of its input."""
        out = self._same_grid(node.name, shape, source)
        self.ops.append(ir.Op(kind, node.name, (source,), (out,), options))
        self.where[node.name] = out
        return out

    def _reshaped(self, name: str, source: str, shape: tuple[int, ...]) -> str:
        if self.tensors[source].shape == shape:
            return source
        out = self._same_grid(name, shape, source)
        self.ops.append(ir.Op("RESHAPE", name, (source,), (out,)))
        return out

    def _external(self, name: str) -> str:
        """The model output of a node, in the shape the caller's model gives it."""
        out = f"{name}/output"
        if out in self.tensors:  # given twice
            return out
        return self._reshaped(out, self.where[name], (1, *self.graph[name].shape))

    def input(self, node: Node) -> None:
        """Below 8 bits the caller's codes saturate at the top and a QUANTIZE clamps the bottom."""
        grid = self.grids[self.placement.groups[node.name]]
        shape = (1, *node.shape)
        first = ir.linear_placements(grid.bits, grid.zero)[0]
        source = self._activation(node.name, shape, grid, first)
        if grid.low:
            final = ir.activation_placement(grid.bits, grid.zero, low=True)
            source = self._activation(f"{node.name}/clamped", shape, grid, final)
            self.ops.append(ir.Op("QUANTIZE", node.name, (node.name,), (source,)))
        self.where[node.name] = self._reshaped(f"{node.name}/2d", source, _shape(node))

    def convolution(self, node: Node) -> None:
        kernel = kernel_codes(node.name, self.placement.weights[node.name], self.values)
        if node.kind == "Conv1D":
            kernel = kernel[None]
        source = self.where[node.inputs[0]]
        padding = str(node.config.get("padding", "valid"))
        strides, dilation = (_pair(node.config.get(k, 1)) for k in ("strides", "dilation_rate"))
        if padding == "causal":
            reach = (kernel.shape[1] - 1) * dilation[1]
            source = self._padded(f"{node.name}/causal", source, ((0, 0), (reach, 0)))
            padding = "valid"
        options = {"padding": padding.upper(), "strides": strides, "dilation": dilation}
        if node.kind == "DepthwiseConv2D":
            options["depth_multiplier"] = kernel.shape[3]
            weights = kernel.reshape(1, *kernel.shape[:2], -1)
            constants = self._constants(node, weights, axis=3)
            self._emit("DEPTHWISE_CONV_2D", node, [source, *constants], _shape(node), **options)
        else:
            constants = self._constants(node, kernel.transpose(3, 0, 1, 2), axis=0)
            self._emit("CONV_2D", node, [source, *constants], _shape(node), **options)

    def dense(self, node: Node) -> None:
        kernel = kernel_codes(node.name, self.placement.weights[node.name], self.values)
        inputs = [self.where[node.inputs[0]], *self._constants(node, kernel.T, axis=0)]
        self._emit("FULLY_CONNECTED", node, inputs, _shape(node))

    def add(self, node: Node) -> None:
        self._emit("ADD", node, [self.where[name] for name in node.inputs], _shape(node))

    def rescale(self, node: Node) -> None:
        source = self.tensors[self.where[node.inputs[0]]]
        scale = self.grids[self.placement.groups[node.name]].scale
        zero = zero_to_add(f"{node.name}/zero", source, scale)
        kind, options = _RESCALING[node.kind]
        if zero is None:
            self._emit(kind, node, [source.name], _shape(node))
        else:
            self._emit("ADD", node, [source.name, self._add(zero)], _shape(node), **options)

    def relu(self, node: Node) -> None:
        self.rescale(node)
        grid = self.grids[self.placement.groups[node.name]]
        top = float(grid.scale[0]) * (2**grid.bits - 1 - grid.zero)
        if node.config.get("max_value") and top > 6.0:  # else saturation clamps below 6 already
            capped = node.replace(name=f"{node.name}/capped")
            self.where[node.name] = self._pass("RELU6", capped, self.where[node.name], _shape(node))

    def fixed_range(self, node: Node) -> None:
        kind = {"Softmax": "SOFTMAX", "Sigmoid": "LOGISTIC"}[node.kind]
        self._emit(kind, node, [self.where[node.inputs[0]]], _shape(node))

    def concatenate(self, node: Node) -> None:
        sources = tuple(self.where[name] for name in node.inputs)
        rank, shape = len(node.shape) + 1, _shape(node)
        axis = node.config["axis"] % rank + len(shape) - rank
        out = self.where[node.name] = self._same_grid(node.name, shape, sources[0])
        self.ops.append(ir.Op("CONCATENATION", node.name, sources, (out,), {"axis": axis}))

    def pool(self, node: Node) -> None:
        source = self.where[node.inputs[0]]
        kind = "MAX_POOL_2D" if node.kind.startswith("Max") else "AVERAGE_POOL_2D"
        strides = _pair(node.config["strides"] or node.config["pool_size"])
        options = {"window": _pair(node.config["pool_size"]), "strides": strides}
        padding = node.config["padding"].upper()
        self._pass(kind, node, source, _shape(node), padding=padding, **options)

    def global_pool(self, node: Node) -> None:
        source = self.where[node.inputs[0]]
        _, height, width, channels = self.tensors[source].shape
        pooled = self._pass(
            "AVERAGE_POOL_2D", node.replace(name=f"{node.name}/pooled"), source,
            (1, 1, 1, channels), padding="VALID", strides=(1, 1), window=(height, width),
        )  # fmt: skip
        self.where[node.name] = self._reshaped(node.name, pooled, _shape(node))

    def zero_padding(self, node: Node) -> None:
        padding = node.config["padding"]
        padding = ((0, 0), padding) if node.kind == "ZeroPadding1D" else padding
        self.where[node.name] = self._padded(node.name, self.where[node.inputs[0]], padding)

    def reshape(self, node: Node) -> None:
        self.where[node.name] = self._reshaped(node.name, self.where[node.inputs[0]], _shape(node))

    def _padded(self, name: str, source: str, padding: Any) -> str:
        _, height, width, channels = self.tensors[source].shape
        amounts = np.array([(0, 0), *padding, (0, 0)], np.int32)
        shape = (1, height + int(amounts[1].sum()), width + int(amounts[2].sum()), channels)
        constant = self._add(
            ir.Tensor(f"{name}/amounts", (4, 2), None, 0, 32, 0, 0, "int32", amounts)
        )
        out = self._same_grid(name, shape, source)
        self.ops.append(ir.Op("PAD", name, (source, constant), (out,)))
        return out

    def _constants(self, node: Node, codes: np.ndarray, axis: int) -> list[str]:
        """Kernel and bias tensors, as the runtime wants them."""
        source = self.tensors[self.where[node.inputs[0]]]
        kernel, bias = kernel_and_bias(
            node.name, codes, axis, self.placement.weights[node.name], self.values, source,
            self.methods.get(f"{node.name}/kernel", ""), self.containers.get(node.name, "int8"),
        )  # fmt: skip
        return [self._add(kernel), self._add(bias)]


def _shape(node: Node) -> tuple[int, ...]:
    """Shape in the file: batch 1, and sequences as images of height 1."""
    return (1, 1, *node.shape) if len(node.shape) == 2 else (1, *node.shape)


def _pair(value: Any) -> tuple[int, int]:
    """Height and width; a sequence has height 1."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


# By the kind of layer: the operator, and the options with which an ADD of zero does the same.
_RESCALING = {"Quantize": ("QUANTIZE", {}), "ReLU": ("RELU", {"activation": "RELU"})}
_HANDLERS = {
    "Input": "input",
    "Conv1D": "convolution", "Conv2D": "convolution", "DepthwiseConv2D": "convolution",
    "Dense": "dense", "Add": "add", "Quantize": "rescale", "ReLU": "relu",
    **dict.fromkeys(FIXED_RANGE, "fixed_range"),
    "Concatenate": "concatenate",
    "AveragePooling1D": "pool", "AveragePooling2D": "pool",
    "MaxPooling1D": "pool", "MaxPooling2D": "pool",
    "GlobalAveragePooling1D": "global_pool", "GlobalAveragePooling2D": "global_pool",
    "ZeroPadding1D": "zero_padding", "ZeroPadding2D": "zero_padding",
    "Flatten": "reshape", "Reshape": "reshape",
}  # fmt: skip
