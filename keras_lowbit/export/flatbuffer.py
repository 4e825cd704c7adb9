"""Write a program as a TFLite flatbuffer, through the object API of the schema; no converter involved."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_lowbit.export.ir import Op, Program, Tensor
from keras_lowbit.export.metadata import METADATA_NAME
from keras_lowbit.export.model_file import seal, unsealed
from keras_lowbit.export.op_rules import check_program
from keras_lowbit.export.packing import DECODE, encode_lookup, kernel_names, pack_integers
from keras_lowbit.export.shared_tables import Buffers, SharingBuilder, Tables

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
    DECODE: 1,
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


def write(
    program: Program,
    metadata: Mapping[str, Any] | None = None,
    containers: Mapping[str, str] | None = None,
    strip: str = "none",
) -> bytes:
    """The flatbuffer of a program, tensors in the program's order, every buffer 16-byte aligned.

    `metadata` is stored as JSON in the entry `KERAS_LOWBIT_METADATA`, with the SHA-256 of the file; None
    leaves it out. `containers`
    are those of the weights by layer, "int8" unless given; the operands of DECODE follow the program's
    tensors. `strip` leaves out what no runtime reads ("names"), or what TFLM does not read ("micro"),
    where layers share lookup tables too.

    Raises: ValueError if an operator breaks a rule of its kernel, or weights do not fit their container.
    """
    check_program(program)
    return _Writer(program, containers or {}, strip).write(metadata)


def file_size(program: Program, containers: Mapping[str, str], strip: str) -> int:
    """Bytes of the file that :func:`write` makes, metadata aside; the program is not checked."""
    return len(_Writer(program, containers, strip).write(None))


class _Writer:
    """One model in the making."""

    def __init__(self, program: Program, containers: Mapping[str, str], strip: str) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.program, self.strip = program, strip
        self.buffers, self.tables = Buffers(), Tables()
        self.indices = {name: index for index, name in enumerate(program.tensors)}
        kernels = kernel_names(program)
        self.containers = {kernels[layer]: name for layer, name in containers.items()}
        lookups = [name for name, container in self.containers.items() if container == "lut"]
        self.lookups = {name: encode_lookup(program.tensors[name]) for name in lookups}
        self.operands: dict[bytes, int] = {}  # of DECODE, by contents
        # The most frequent operator is number 0, which takes no bytes.
        kinds = Counter([*(op.kind for op in program.ops), *[DECODE] * len(lookups)])
        self.kinds = [kind for kind, _ in kinds.most_common()]
        # TFLM compares the bias scale of these with the product of the others.
        self.checked_biases = {
            op.inputs[2]
            for op in program.ops
            if op.kind == "FULLY_CONNECTED" and len(op.inputs) == 3
            and _scales(program.tensors[op.inputs[1]]) == 1
        }  # fmt: skip

    def write(self, metadata: Mapping[str, Any] | None) -> bytes:
        model, graph = self.schema.ModelT(), self.schema.SubGraphT()
        model.version = 3
        model.operatorCodes = [self._operator_code(kind) for kind in self.kinds]
        graph.tensors = [self._tensor(tensor) for tensor in self.program.tensors.values()]
        graph.operators = []
        for op in self.program.ops:
            if len(op.inputs) > 1 and self.containers.get(op.inputs[1]) == "lut":
                graph.operators.append(self._decode(op.inputs[1], graph.tensors))
            graph.operators.append(self._operator(op))
        graph.inputs = _vector([self.indices[name] for name in self.program.inputs])
        graph.outputs = _vector([self.indices[name] for name in self.program.outputs])
        model.subgraphs = [graph]
        if self.strip == "none":
            model.description, graph.name = "keras_lowbit", "main"
            model.signatureDefs = [self._signature()]
        if metadata is not None:
            entry = self.schema.MetadataT()
            entry.name = METADATA_NAME
            entry.buffer = self.buffers.add(
                json.dumps(
                    {**metadata, **unsealed()}, separators=(",", ":"), ensure_ascii=False
                ).encode()
            )
            model.metadata = [entry]
        model.buffers = self.buffers.list
        builder = SharingBuilder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return seal(bytes(builder.Output()))

    def _operator_code(self, kind: str) -> Any:
        code = self.schema.OperatorCodeT()
        if kind == DECODE:
            code.builtinCode, code.customCode = self.schema.BuiltinOperator.CUSTOM, DECODE
        else:
            code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        if self.strip != "micro":
            # Readers older than 2020 know only this byte; all our codes fit it.
            code.deprecatedBuiltinCode = code.builtinCode
            code.version = _VERSIONS[kind]
        return code

    def _tensor(self, tensor: Tensor) -> Any:
        table = self.schema.TensorT()
        external = tensor.name in (*self.program.inputs, *self.program.outputs)
        if self.strip == "none" or (self.strip == "names" and external):
            table.name = tensor.name
        table.shape = _vector(tensor.shape)
        container = self.containers.get(tensor.name, tensor.dtype)
        stored = "int8" if container == "lut" else container
        table.type = getattr(self.schema.TensorType, stored.upper())
        if tensor.data is not None and container == "int32":
            data = np.ascontiguousarray(tensor.data)
            table.buffer = self.buffers.add(data.astype("<i4").tobytes())
        elif tensor.data is not None and container != "lut":
            table.buffer = self.buffers.add(pack_integers(tensor, container))
        if tensor.scale is not None and self._keeps_quantization(tensor):
            table.quantization = self._quantization(tensor, tensor.scale)
        return table

    def _keeps_quantization(self, tensor: Tensor) -> bool:
        checked = tensor.name in self.checked_biases
        return self.strip != "micro" or tensor.dtype == "int8" or checked

    def _quantization(self, tensor: Tensor, scale: np.ndarray) -> Any:
        # LiteRT insists on as many zero points as scales, TFLM reads the first.
        zeros = 1 if self.strip == "micro" else scale.size
        axis = tensor.axis if scale.size > 1 else 0

        def make() -> Any:
            table = self.schema.QuantizationParametersT()
            table.scale = scale
            table.zeroPoint = np.full(zeros, tensor.zero_point, np.int64)
            table.quantizedDimension = axis
            return table

        key = (scale.tobytes(), zeros, tensor.zero_point, axis)
        return self.tables.add(("QuantizationParameters", key), make)

    def _decode(self, name: str, tensors: list[Any]) -> Any:
        """The operator that computes the weights of the next one; its operands join ``tensors``."""
        table = self.schema.OperatorT()
        table.opcodeIndex = self.kinds.index(DECODE)
        operands = []
        indices, lookup = self.lookups[name]
        if self.strip == "micro":
            # DECODE reads as many tables as the weights have scales, and no more.
            alike = (other for _, other in self.lookups.values() if other.startswith(lookup))
            lookup = max(alike, key=len)
        for role, data in (("indices", indices), ("tables", lookup)):
            if self.strip == "micro" and data in self.operands:
                operands.append(self.operands[data])
                continue
            operand = self.schema.TensorT()
            operand.name = f"{name}/{role}" if self.strip == "none" else None
            operand.shape, operand.type = _vector([len(data)]), self.schema.TensorType.UINT8
            operand.buffer = self.buffers.add(data)
            self.operands[data] = len(tensors)
            operands.append(len(tensors))
            tensors.append(operand)
        table.inputs, table.outputs = _vector(operands), _vector([self.indices[name]])
        return table

    def _operator(self, op: Op) -> Any:
        table = self.schema.OperatorT()
        table.opcodeIndex = self.kinds.index(op.kind)
        no_bias = [-1] if op.kind == "FULLY_CONNECTED" and len(op.inputs) == 2 else []
        table.inputs = _vector([*(self.indices[name] for name in op.inputs), *no_bias])
        table.outputs = _vector([self.indices[name] for name in op.outputs])
        if op.kind in _OPTION_TABLES:
            name = _OPTION_TABLES[op.kind]
            table.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            fields = _option_fields(self.schema, op, self.program.tensors[op.outputs[0]])

            def make() -> Any:
                options = getattr(self.schema, name + "T")()
                for field, value in fields.items():
                    setattr(options, field, value)
                return options

            table.builtinOptions = self.tables.add((name, str(fields)), make)
        return table

    def _signature(self) -> Any:
        signature = self.schema.SignatureDefT()
        signature.signatureKey = SIGNATURE
        signature.subgraphIndex = 0
        signature.inputs, signature.outputs = [], []
        program = self.program
        called = program.output_names or program.outputs
        for tensors, names, maps in (
            (program.inputs, program.inputs, signature.inputs),
            (program.outputs, called, signature.outputs),
        ):
            for tensor, name in zip(tensors, names, strict=True):
                entry = self.schema.TensorMapT()
                entry.name = name
                entry.tensorIndex = self.indices[tensor]
                maps.append(entry)
        return signature


def _vector(numbers: Sequence[int]) -> np.ndarray:
    """As an array, in which form equal ones are stored once."""
    return np.array(numbers, np.int32)


def _scales(tensor: Tensor) -> int:
    return 0 if tensor.scale is None else tensor.scale.size


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
        fields["newShape"] = _vector(output.shape)
    elif op.kind == "SOFTMAX":
        fields["beta"] = float(op.option("beta"))
    return fields
