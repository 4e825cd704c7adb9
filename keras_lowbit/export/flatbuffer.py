"""Write a program as a TFLite flatbuffer, through the object API of the schema; no converter involved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np

from keras_lowbit.export.ir import Op, Program, Tensor
from keras_lowbit.export.metadata import METADATA_NAME
from keras_lowbit.export.op_rules import check_program

ALIGNMENT = 16
SIGNATURE = "serving_default"

# Lowest version of each operator that takes int8; readers refuse what is newer than themselves.
_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "ADD": 2,
    "CONCATENATION": 2,
    "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 2,
    "PAD": 2,
    "RESHAPE": 1,
    "RELU": 2,
    "RELU6": 2,
    "QUANTIZE": 2,
    "SOFTMAX": 2,
    "LOGISTIC": 2,
}
_OPTION_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "CONCATENATION": "ConcatenationOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "PAD": "PadOptions",
    "RESHAPE": "ReshapeOptions",
    "QUANTIZE": "QuantizeOptions",
    "SOFTMAX": "SoftmaxOptions",
}


def write(program: Program, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The flatbuffer of a program, tensors in the program's order, every buffer 16-byte aligned.

    `metadata` is stored as JSON in the entry `KERAS_LOWBIT_METADATA`; None leaves it out.

    Raises: ValueError if an operator breaks a rule of its kernel.
    """
    from ai_edge_litert import schema_py_generated as schema

    check_program(program)
    buffers = _Buffers()
    indices = {name: index for index, name in enumerate(program.tensors)}
    model = schema.ModelT()
    model.version = 3
    model.description = "keras_lowbit"
    kinds = list(dict.fromkeys(op.kind for op in program.ops))
    model.operatorCodes = [_operator_code(schema, kind) for kind in kinds]

    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [_tensor(schema, tensor, buffers) for tensor in program.tensors.values()]
    graph.operators = [
        _operator(schema, op, kinds.index(op.kind), indices, program) for op in program.ops
    ]
    graph.inputs = [indices[name] for name in program.inputs]
    graph.outputs = [indices[name] for name in program.outputs]
    model.subgraphs = [graph]
    model.signatureDefs = [_signature(schema, program, indices)]
    if metadata is not None:
        entry = schema.MetadataT()
        entry.name = METADATA_NAME
        entry.buffer = buffers.add(
            json.dumps(metadata, separators=(",", ":"), ensure_ascii=False).encode()
        )
        model.metadata = [entry]
    model.buffers = buffers.list

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@dataclasses.dataclass(frozen=True)
class _Buffer:
    """Stands in for the schema's BufferT, whose Pack ignores the schema's alignment of 16."""

    data: bytes

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Offset of the packed buffer; the name is the schema's."""
        from ai_edge_litert import schema_py_generated as schema

        vector = None
        if self.data:
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head = builder.Head() - len(self.data)
            builder.Bytes[builder.Head() : builder.Head() + len(self.data)] = self.data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _Buffers:
    """The model's buffers; 0 is the empty one, and equal contents are stored once."""

    def __init__(self) -> None:
        self.list = [_Buffer(b"")]
        self._indices: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        if data not in self._indices:
            self._indices[data] = len(self.list)
            self.list.append(_Buffer(data))
        return self._indices[data]


def _operator_code(schema: Any, kind: str) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    # Readers older than 2020 know only this byte; all our codes fit it.
    code.deprecatedBuiltinCode = code.builtinCode
    code.version = _VERSIONS[kind]
    return code


def _tensor(schema: Any, tensor: Tensor, buffers: _Buffers) -> Any:
    table = schema.TensorT()
    table.name = tensor.name
    table.shape = [int(size) for size in tensor.shape]
    table.type = getattr(schema.TensorType, tensor.dtype.upper())
    if tensor.data is not None:
        data = np.ascontiguousarray(tensor.data)
        table.buffer = buffers.add(data.astype(data.dtype.newbyteorder("<")).tobytes())
    if tensor.scale is not None:
        quantization = schema.QuantizationParametersT()
        quantization.scale = tensor.scale
        # LiteRT insists on as many zero points as scales.
        quantization.zeroPoint = np.full(tensor.scale.size, tensor.zero_point, np.int64)
        quantization.quantizedDimension = tensor.axis if tensor.scale.size > 1 else 0
        table.quantization = quantization
    return table


def _operator(
    schema: Any, op: Op, code_index: int, indices: Mapping[str, int], program: Program
) -> Any:
    table = schema.OperatorT()
    table.opcodeIndex = code_index
    table.inputs = [indices[name] for name in op.inputs]
    table.outputs = [indices[name] for name in op.outputs]
    if op.kind == "FULLY_CONNECTED" and len(op.inputs) == 2:
        table.inputs.append(-1)
    if op.kind in _OPTION_TABLES:
        name = _OPTION_TABLES[op.kind]
        table.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        table.builtinOptions = getattr(schema, name + "T")()
        for field, value in _option_fields(schema, op, program.tensors[op.outputs[0]]).items():
            setattr(table.builtinOptions, field, value)
    return table


def _option_fields(schema: Any, op: Op, output: Tensor) -> dict[str, Any]:
    """The operator's options under the names of the schema."""
    fields: dict[str, Any] = {}
    if op.option("activation") is not None:
        fields["fusedActivationFunction"] = getattr(
            schema.ActivationFunctionType, op.option("activation")
        )
    if "padding" in op.options:
        fields["padding"] = getattr(schema.Padding, op.options["padding"])
        fields["strideH"], fields["strideW"] = op.options["strides"]
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        fields["dilationHFactor"], fields["dilationWFactor"] = op.option("dilation")
    if op.kind == "DEPTHWISE_CONV_2D":
        fields["depthMultiplier"] = op.option("depth_multiplier")
    elif op.kind == "FULLY_CONNECTED":
        fields["keepNumDims"] = len(output.shape) != 2
    elif op.kind == "ADD":
        fields["potScaleInt16"] = False
    elif op.kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        fields["filterHeight"], fields["filterWidth"] = op.options["window"]
    elif op.kind == "CONCATENATION":
        fields["axis"] = op.options["axis"]
    elif op.kind == "RESHAPE":
        fields["newShape"] = [int(size) for size in output.shape]
    elif op.kind == "SOFTMAX":
        fields["beta"] = float(op.option("beta"))
    return fields


def _signature(schema: Any, program: Program, indices: Mapping[str, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs, signature.outputs = [], []
    for names, maps in ((program.inputs, signature.inputs), (program.outputs, signature.outputs)):
        for name in names:
            entry = schema.TensorMapT()
            entry.name = name
            entry.tensorIndex = indices[name]
            maps.append(entry)
    return signature
