"""The `KERAS_LOWBIT_METADATA` entry of a flatbuffer, or a file beside it: what each container really holds."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

from keras_lowbit.export.ir import Program, Tensor
from keras_lowbit.export.packing import kernel_names

METADATA_NAME = "KERAS_LOWBIT_METADATA"
FORMAT = 1


def build_metadata(
    program: Program,
    producer: str,
    containers: Mapping[str, str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """JSON-able description of the int8 tensors of a program, by name and by flatbuffer index.

    For each: b-bit code = (container code - offset) >> shift, real value = scale * (container code - zero point);
    "lut" is decoded to an int8 container at run time. `containers` are those of the weights by layer;
    `extra` adds top-level entries, such as the calibration.
    """
    kernels = kernel_names(program)
    packed = {kernels[layer]: name for layer, name in (containers or {}).items()}
    tensors = {
        name: {**_describe(index, tensor), "container": packed.get(name, tensor.dtype)}
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


def sidecar_path(model: str | os.PathLike[str]) -> pathlib.Path:
    """Where the metadata of a stripped model lie: `<model>.json`."""
    path = pathlib.Path(model)
    return path.with_name(path.name + ".json")


def fingerprint(blob: bytes) -> str:
    """SHA-256 of a model, by which a side-car knows its own."""
    return hashlib.sha256(blob).hexdigest()


def read_metadata(model: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """The metadata of a .tflite file or of its bytes; of a stripped file, from the JSON file beside it.

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
    if entry is not None:
        return _parse(entry, label)
    if isinstance(model, (bytes, bytearray, memoryview)) or not sidecar_path(model).exists():
        raise ValueError(
            f"{label} has no '{METADATA_NAME}' entry and no JSON file beside it: it was not exported by "
            f"keras_lowbit, or with the metadata stripped. Received: {len(blob)} bytes."
        )
    sidecar = sidecar_path(model)
    metadata = _parse(_load(sidecar)[0], f"'{sidecar}'")
    if metadata.get("model_sha256") != fingerprint(blob):
        raise ValueError(
            f"'{sidecar}' describes another model than {label}: export it again. "
            f"Received: model_sha256={metadata.get('model_sha256')!r}."
        )
    return metadata


def _parse(entry: bytes, label: str) -> dict[str, Any]:
    """The JSON of an entry or of a side-car."""
    try:
        metadata = json.loads(entry)
    except ValueError as error:
        raise ValueError(
            f"{label} has metadata that are not JSON; export it again. Received: {entry[:40]!r}."
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
