"""Read an exported file back: the integers of every tensor, their grids and the real weights."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lowbit.export.ir import Program, Tensor
from keras_lowbit.export.metadata import build_metadata, open_model
from keras_lowbit.export.model_file import unpack
from keras_lowbit.export.packing import DECODE, decode_lookup, lookup_bytes, unpack_integers

_MISFITS = (LookupError, TypeError, AttributeError, ValueError)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of an exported file.

    Attributes:
      name: as in the metadata.
      index: of the tensor in the flatbuffer.
      shape: in TFLite's layout: [out, height, width, in], [1, height, width, out] of a depthwise
        convolution, [out, in] of a dense layer; activations with a batch of 1.
      bits: of the grid; 32 of a bias.
      container: how the integers are stored: "int8", "int4", "int2", "lut" or "int32".
      scale: float32, length 1 or one per index of ``axis``.
      zero_point: the code that stands for 0.
      axis: which dimension the scales belong to; 0 if there is only one.
      shift: the b-bit code is ``(code - offset) >> shift``; a list, of one per index of ``axis``, where they differ.
      offset: see ``shift``.
      method: how the values were found.
      stored_bytes: of the file that hold the tensor's constants; tensors may share some.
      codes: int8 of this shape whatever the container is, int32 of a bias; None for an activation.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    bits: int
    container: str
    scale: np.ndarray
    zero_point: int
    axis: int
    shift: int | list[int]
    offset: int | list[int]
    method: str
    stored_bytes: int
    codes: np.ndarray | None

    @property
    def values(self) -> np.ndarray | None:
        """The real values, float32: scale * (code - zero point); None for an activation."""
        if self.codes is None:
            return None
        scale = self.scale
        if scale.size > 1:
            scale = scale.reshape(
                [-1 if axis == self.axis else 1 for axis in range(len(self.shape))]
            )
        return np.float32(scale) * (self.codes.astype(np.int32) - self.zero_point).astype(
            np.float32
        )


def load_tflite(path: str | os.PathLike[str] | bytes) -> dict[str, StoredTensor]:
    """The tensors of an exported file by name: kernels, biases, activations, and zeros that are added.

    Args:
      path: of a ``.tflite`` file, of exported C source (``.cc``), or a flatbuffer's bytes. A stripped file
        needs its JSON file beside it: without it neither names nor widths of the tensors are known.

    Returns:
      In the order of the metadata, each bias after its kernel. The values of a kernel are, bit for bit,
      those of the simulation, in TFLite's layout.

    Raises:
      ValueError: the file is damaged, not ours, or without its JSON file.

    Example:
      >>> tensors = keras_lowbit.load_tflite("model.tflite")
      >>> tensors["conv2d/kernel"].values
    """
    blob, model, metadata = open_model(path)
    try:
        return _Reader(model, metadata["tensors"]).tensors()
    except _MISFITS as error:
        raise ValueError(
            f"The metadata do not fit the file: {error} Export the model again. "
            f"Received: {'bytes' if isinstance(path, bytes) else str(path)!r}, {len(blob)} bytes."
        ) from error


def other_values(blob: bytes, program: Program, containers: Mapping[str, str]) -> tuple[str, ...]:
    """The tensors of a program of which a file holds other codes, or other scales or zero points.

    `containers` are those of the file by layer. A file of tensors of other kinds differs in all.
    """
    entries = build_metadata(program, "", containers)["tensors"]
    try:
        stored = {t.index: t for t in _Reader(unpack(blob), entries).tensors().values()}
    except _MISFITS:
        return tuple(program.tensors)
    return tuple(
        name
        for index, (name, tensor) in enumerate(program.tensors.items())
        if index in stored and not _holds(stored[index], tensor)
    )


def _holds(stored: StoredTensor, tensor: Tensor) -> bool:
    codes = () if stored.codes is None else stored.codes
    if tensor.data is not None and not np.array_equal(codes, tensor.data):
        return False
    if tensor.scale is None or tensor.dtype == "int32":  # a bias: its grid follows from the others
        return True
    return np.array_equal(stored.scale, tensor.scale) and stored.zero_point == tensor.zero_point


class _Reader:
    """One unpacked model and the entries of its metadata."""

    def __init__(self, model: Any, entries: dict[str, dict[str, Any]]) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model, self.graph, self.entries = model, model.subgraphs[0], entries
        self.decoded: dict[int, tuple[int, int]] = {}
        self.biases: dict[int, tuple[int, int]] = {}  # of a kernel: its bias and the layer's input
        weighted = (
            schema.BuiltinOperator.CONV_2D,
            schema.BuiltinOperator.DEPTHWISE_CONV_2D,
            schema.BuiltinOperator.FULLY_CONNECTED,
        )
        for operator in self.graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if code.customCode == DECODE.encode():
                indices, tables = map(int, operator.inputs)
                self.decoded[int(operator.outputs[0])] = indices, tables
            elif code.builtinCode in weighted and len(operator.inputs) == 3:
                source, kernel, bias = map(int, operator.inputs)
                self.biases[kernel] = bias, source

    def tensors(self) -> dict[str, StoredTensor]:
        found = {}
        for name, entry in self.entries.items():
            found[name] = tensor = self._tensor(name, entry)
            if tensor.codes is not None and self.biases.get(tensor.index, (-1,))[0] != -1:
                bias = self._bias(tensor)
                found[bias.name] = bias
        return found

    def _tensor(self, name: str, entry: dict[str, Any]) -> StoredTensor:
        index = entry["index"]
        table = self.graph.tensors[index]
        shape = tuple(map(int, table.shape))
        quantization = table.quantization
        scale = np.array(quantization.scale, np.float32)
        indices, tables = self.decoded.get(index, (index, index))
        data, more = self._data(indices), self._data(tables)
        container = self._container(index)
        if container != entry["container"]:
            raise ValueError(f"tensor {name!r} is stored as {container}, not {entry['container']}.")
        codes = None
        if container == "lut":
            codes = decode_lookup(data, more, shape, scale.size)
        elif data:
            codes = unpack_integers(data, container, math.prod(shape)).reshape(shape)
        axis = int(quantization.quantizedDimension) if scale.size > 1 else 0
        if (
            scale.size not in (1, shape[axis])
            or (scale.size > 1, axis) != (entry["granularity"] == "channel", entry["axis"])
            or (codes is not None and not _on_grid(np.moveaxis(codes, axis, -1), entry))
        ):
            raise ValueError(f"tensor {name!r} is not on the grid {entry}.")
        fields = {field: entry[field] for field in ("bits", "shift", "offset", "method")}
        size = len(data) + (lookup_bytes(more, scale.size) if container == "lut" else 0)
        zero = int(quantization.zeroPoint[0])
        return StoredTensor(
            name, index, shape, container=container, scale=scale, zero_point=zero, axis=axis,
            stored_bytes=size, codes=codes, **fields,
        )  # fmt: skip

    def _container(self, index: int) -> str:
        types = self.schema.TensorType
        names = {types.INT8: "int8", types.INT4: "int4", types.INT2: "int2"}
        return "lut" if index in self.decoded else names[self.graph.tensors[index].type]

    def _bias(self, kernel: StoredTensor) -> StoredTensor:
        """The bias beside a kernel; its scale is the product of the input's and the kernel's."""
        index, source = self.biases[kernel.index]
        shape = tuple(map(int, self.graph.tensors[index].shape))
        data = self._data(index)
        codes = np.frombuffer(data, "<i4").astype(np.int32).reshape(shape)
        scale = np.float32(self.graph.tensors[source].quantization.scale[0]) * kernel.scale
        if scale.size not in (1, codes.size):
            raise ValueError(f"the bias of {kernel.name!r} has {codes.size} codes.")
        return StoredTensor(
            kernel.name.removesuffix("/kernel") + "/bias", index, shape, 32, "int32", scale, 0, 0, 0,
            0, "", len(data), codes,
        )  # fmt: skip

    def _data(self, index: int) -> bytes:
        data = self.model.buffers[self.graph.tensors[index].buffer].data
        return b"" if data is None else np.asarray(data, np.uint8).tobytes()


def _on_grid(codes: np.ndarray, entry: dict[str, Any]) -> bool:
    """Whether codes, their channels last, are such as the entry allows."""
    shift, offset = np.array(entry["shift"]), np.array(entry["offset"])
    inside = entry["qmin"] <= codes.min() and codes.max() <= entry["qmax"]
    if not inside or not {shift.size, offset.size} <= {1, codes.shape[-1]}:
        return False
    return not np.any((codes.astype(int) - offset) & (2**shift - 1))
