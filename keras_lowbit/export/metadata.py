"""The `KERAS_LOWBIT_METADATA` entry of a flatbuffer: what each int8 container really holds."""

from __future__ import annotations

import json
import os
import pathlib
import struct
from typing import Any

from keras_lowbit.export.ir import Program, Tensor

METADATA_NAME = "KERAS_LOWBIT_METADATA"
FORMAT = 1


def build_metadata(program: Program, producer: str, **extra: Any) -> dict[str, Any]:
    """JSON-able description of the int8 tensors of a program, by name and by flatbuffer index.

    For each: b-bit code = (container code - offset) >> shift, real value = scale * (container code - zero point).
    `extra` adds top-level entries, such as the calibration.
    """
    tensors = {
        name: _describe(index, tensor)
        for index, (name, tensor) in enumerate(program.tensors.items())
        if tensor.dtype == "int8"
    }
    return {
        "format": FORMAT,
        "producer": producer,
        "rounding": "double",
        "tensors": tensors,
        **extra,
    }


def read_metadata(model: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """The metadata of a .tflite file or of its bytes.

    Raises: ValueError if the file is missing, no TFLite flatbuffer, cut short, or written by something else.
    """
    blob, label = _load(model)
    if len(blob) < 8 or blob[4:8] != b"TFL3":
        raise ValueError(
            f"{label} is not a TFLite flatbuffer: its bytes 4..8 must read 'TFL3'. "
            f"Received: {blob[4:8]!r} in {len(blob)} bytes."
        )
    try:
        entry = _find_entry(blob)
    except (
        struct.error,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        OverflowError,
    ) as error:
        raise ValueError(
            f"{label} is cut short or damaged; copy or export it again. "
            f"Received: {len(blob)} bytes."
        ) from error
    if entry is None:
        raise ValueError(
            f"{label} has no '{METADATA_NAME}' entry: it was not exported by keras_lowbit, or with the "
            f"metadata stripped. Received: {len(blob)} bytes."
        )
    try:
        metadata = json.loads(entry)
    except ValueError as error:
        raise ValueError(
            f"{label} has a '{METADATA_NAME}' entry that is not JSON; export it again. "
            f"Received: {entry[:40]!r}."
        ) from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        received = metadata.get("format") if isinstance(metadata, dict) else metadata
        raise ValueError(
            f"{label} has metadata of another format than {FORMAT}; update keras_lowbit. "
            f"Received: {received!r}."
        )
    return metadata


def _describe(index: int, tensor: Tensor) -> dict[str, Any]:
    constant = tensor.data is not None
    # A tensor that is clamped at its top only has codes below the offset until its QUANTIZE.
    offset = 0 if constant else tensor.qmax - (2**tensor.bits - 1)
    scales = tensor.scale.size if tensor.scale is not None else 0
    return {
        "index": index,
        "bits": tensor.bits,
        "scheme": "sym" if constant else "asym",
        "granularity": "channel" if scales > 1 else "tensor",
        "axis": tensor.axis if scales > 1 else 0,
        "container": tensor.dtype,
        "shift": tensor.shift,
        "offset": offset,
        "qmin": tensor.qmin,
        "qmax": tensor.qmax,
        "zero_point_b": tensor.zero_point - offset,
        "method": tensor.method,
    }


def _load(model: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model), "The model"
    path = pathlib.Path(model)
    try:
        return path.read_bytes(), f"'{path}'"
    except OSError as error:
        raise ValueError(
            f"Cannot read the model file: {error.strerror}. Received: '{path}'."
        ) from error


def _find_entry(blob: bytes) -> bytes | None:
    """Raw bytes of our entry, after unpacking the whole model, which fails on a file cut short."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    for entry in model.metadata or []:
        if entry.name == METADATA_NAME.encode():
            return bytes(model.buffers[entry.buffer].data)
    return None
