"""What a model file holds, as a table: tensor by tensor, and where its bytes go."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lowbit.export.load_tflite import StoredTensor, load_tflite
from keras_lowbit.export.metadata import METADATA_NAME, MissingMetadataError
from keras_lowbit.export.model_file import check_seal, read_model, unpack

_COLUMNS = ("tensor", "shape", "bits", "container", "scale", "zero", "method", "bytes")
_RIGHT = ("bits", "zero", "bytes")


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A model file; print it for the table.

    Attributes:
      tensors: one record each: "tensor", "shape", "bits", "container", "scale" (smallest and largest),
        "zero" (point), "method" and "bytes" of constants. Tensors may share bytes.
      known: whether the file is ours and has its metadata; if not, "bits" and "method" are None.
      file_bytes: of the whole file.
      constant_bytes: of kernels, biases, tables and other constants, each counted once.
      metadata_bytes: of our entry in the file.
    """

    tensors: tuple[dict[str, Any], ...]
    known: bool
    file_bytes: int
    constant_bytes: int
    metadata_bytes: int

    def __str__(self) -> str:
        lines = []
        if not self.known:
            lines += [
                "No metadata of keras_lowbit: this is another converter's file, or one stripped without its "
                "JSON file.",
                "What follows is what the flatbuffer says; widths, grids and methods are unknown.",
            ]
        rows = [{column: _cell(row[column]) for column in _COLUMNS} for row in self.tensors]
        widths = {c: max([len(c), *(len(row[c]) for row in rows)]) for c in _COLUMNS}
        for row in ({column: column for column in _COLUMNS}, *rows):
            cells = (
                row[c].rjust(widths[c]) if c in _RIGHT else row[c].ljust(widths[c])
                for c in _COLUMNS
            )
            lines.append("  ".join(cells).rstrip())
        rest = self.file_bytes - self.constant_bytes - self.metadata_bytes
        lines.append(
            f"file {self.file_bytes} bytes: constants {self.constant_bytes}, metadata "
            f"{self.metadata_bytes}, structure and names {rest}"
        )
        return "\n".join(lines)


def inspect(path: str | os.PathLike[str] | bytes) -> Inspection:
    """The tensors of a model file and its bytes.

    Args:
      path: of a ``.tflite`` file, of exported C source (``.cc``), or a flatbuffer's bytes. A file without
        our metadata is shown as far as the flatbuffer tells; ``known`` is False then.

    Raises:
      ValueError: the file is damaged, or no TFLite flatbuffer.

    Example:
      >>> print(keras_lowbit.inspect("model.tflite"))
    """
    blob, label = read_model(path)
    check_seal(blob, label)
    model = unpack(blob, label)
    try:
        rows, known = [_row(tensor) for tensor in load_tflite(path).values()], True
    except MissingMetadataError:
        rows, known = _foreign_rows(model), False
    ours = [e.buffer for e in model.metadata or () if e.name == METADATA_NAME.encode()]
    constants = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or ()}
    return Inspection(
        tuple(rows), known, len(blob), _bytes(model, constants), _bytes(model, set(ours))
    )


def _row(tensor: StoredTensor) -> dict[str, Any]:
    return {
        "tensor": tensor.name, "shape": tensor.shape, "bits": tensor.bits,
        "container": tensor.container, "scale": _ends(tensor.scale), "zero": tensor.zero_point,
        "method": tensor.method, "bytes": tensor.stored_bytes,
    }  # fmt: skip


def _foreign_rows(model: Any) -> list[dict[str, Any]]:
    from ai_edge_litert import schema_py_generated as schema

    types = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}
    rows = []
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors or ()):
            quantization = tensor.quantization
            scale, zero = None, None
            if quantization is not None:
                scale, zero = quantization.scale, quantization.zeroPoint
            rows.append(
                {
                    "tensor": (tensor.name or b"").decode() or f"#{index}",
                    "shape": () if tensor.shape is None else tuple(map(int, tensor.shape)),
                    "bits": None, "container": types.get(tensor.type, str(tensor.type)),
                    "scale": _ends(scale), "zero": None if zero is None or len(zero) != 1 else int(zero[0]),
                    "method": None, "bytes": _bytes(model, {tensor.buffer}),
                }
            )  # fmt: skip
    return rows


def _ends(scale: Sequence[float] | np.ndarray | None) -> tuple[float, float] | None:
    if _length(scale) == 0:
        return None
    values = np.asarray(scale, np.float32)
    return float(values.min()), float(values.max())


def _length(vector: Any) -> int:
    return 0 if vector is None else len(vector)


def _bytes(model: Any, buffers: set[int]) -> int:
    return sum(_length(model.buffers[index].data) for index in buffers)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple) and value and isinstance(value[0], float):
        return f"{value[0]:.4g}" if value[0] == value[1] else f"{value[0]:.4g}..{value[1]:.4g}"
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "scalar"
    return str(value) or "-"
