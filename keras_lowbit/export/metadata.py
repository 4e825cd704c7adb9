"""The `KERAS_LOWBIT_METADATA` entry of a flatbuffer, or a file beside it: what each container really holds."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_lowbit.export.ir import Program, Tensor
from keras_lowbit.export.model_file import (
    SEAL,
    check_seal,
    damaged,
    fingerprint,
    read_file,
    read_model,
    unpack,
)
from keras_lowbit.export.packing import INTEGER_BITS, kernel_names

METADATA_NAME = "KERAS_LOWBIT_METADATA"
METADATA_SEAL = "metadata_sha256"  # of metadata in a file of their own
FORMAT = 1
_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("index", "bits", "axis", "qmin", "qmax"), int),
    # Lists, of a number a channel, where the channels of a "centred" grid differ.
    **dict.fromkeys(("shift", "offset"), (int, list)),
    "zero_point_b": (int, float, list),  # of weights, 0, or half a code or one below
    **dict.fromkeys(("scheme", "granularity", "container", "method"), str),
}


def build_metadata(
    program: Program,
    producer: str,
    containers: Mapping[str, str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """JSON-able description of the int8 tensors of a program, by name and by flatbuffer index.

    For each: b-bit code = (container code - offset) >> shift, these by channel where they are lists; real value =
    scale * (container code - zero point); "lut" is decoded to an int8 container at run time. `containers` are those of the weights by layer;
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


class MissingMetadataError(ValueError):
    """A model without our metadata in it or beside it."""


class OpenedModel(NamedTuple):
    """A file of ours that is whole: its flatbuffer, that unpacked, and the metadata."""

    blob: bytes
    model: Any
    metadata: dict[str, Any]


def read_metadata(model: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """The metadata of an exported file (`.tflite` or `.cc`) or of a flatbuffer's bytes.

    Those of a stripped file are in the JSON file beside it.

    Raises: ValueError if the file is missing, no TFLite flatbuffer, damaged, or written by something else.
    """
    return open_model(model).metadata


def open_model(model: str | os.PathLike[str] | bytes) -> OpenedModel:
    """Read an exported file and make sure that not one bit of it has changed.

    Raises: ValueError as :func:`read_metadata`.
    """
    blob, label = read_model(model)
    check_seal(blob, label)
    unpacked = unpack(blob, label)
    entry = _find_entry(unpacked)
    if entry is not None:
        metadata, origin = _parse(entry, label), label
        if metadata.get(SEAL) != fingerprint(blob):
            raise damaged(blob, label, f"{SEAL}={metadata.get(SEAL)!r}")
    else:
        if isinstance(model, (bytes, bytearray, memoryview)) or not sidecar_path(model).exists():
            raise MissingMetadataError(
                f"{label} has no '{METADATA_NAME}' entry and no JSON file beside it: it was not exported "
                f"by keras_lowbit, or with the metadata stripped. Received: {len(blob)} bytes."
            )
        sidecar = sidecar_path(model)
        origin = f"'{sidecar}'"
        metadata = _parse(read_file(sidecar), origin)
        if metadata.get(SEAL) != fingerprint(blob):
            raise ValueError(
                f"{origin} describes another model than {label}, or one of them is damaged: export it "
                f"again. Received: {SEAL}={metadata.get(SEAL)!r} for {fingerprint(blob)!r}."
            )
        if metadata.get(METADATA_SEAL) != digest(metadata):
            raise ValueError(
                f"{origin} was changed since it was written; export the model again. "
                f"Received: {METADATA_SEAL}={metadata.get(METADATA_SEAL)!r}"
            )
    _check_entries(metadata, unpacked, origin)
    return OpenedModel(blob, unpacked, metadata)


def digest(metadata: Mapping[str, Any]) -> str:
    """SHA-256 of metadata that stand in a file of their own, however it is laid out."""
    content = {key: value for key, value in metadata.items() if key != METADATA_SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parse(entry: bytes, label: str) -> dict[str, Any]:
    """The JSON of an entry or of a side-car."""
    try:
        metadata = json.loads(entry)
    except (ValueError, RecursionError) as error:
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


def _check_entries(metadata: dict[str, Any], model: Any, label: str) -> None:
    """Refuse metadata whose entries could not have come from :func:`build_metadata`."""
    entries, count = metadata.get("tensors"), len(model.subgraphs[0].tensors or ())
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f"{label} has metadata without tensors; export the model again. Received: {entries!r}."
        )
    for name, entry in entries.items():
        fits = isinstance(entry, dict) and all(
            isinstance(entry.get(field), kind) and not isinstance(entry.get(field), bool)
            for field, kind in _FIELDS.items()
        )
        if (
            not fits
            or not 0 <= entry["index"] < count
            or entry["bits"] not in range(2, 9)
            or not all(shift in range(7) for shift in _listed(entry["shift"]))
            or not _lists_fit(entry)
            or entry["container"] not in INTEGER_BITS
        ):
            raise ValueError(
                f"{label} has a broken entry for the tensor {name!r}; export the model again. Expected "
                f"the fields {sorted(_FIELDS)}, an index below {count}, 2 to 8 bits and a container of "
                f"{sorted(INTEGER_BITS)}. Received: {entry!r}."
            )


def _lists_fit(entry: Mapping[str, Any]) -> bool:
    """Whether what may be a list, of a number a channel, has nothing but numbers, and as many everywhere."""
    fields = [entry[name] for name in ("shift", "offset", "zero_point_b")]
    lists = [field for field in fields if isinstance(field, list)]
    numbers = all(type(n) in (int, float) for field in fields for n in _listed(field))
    offsets = all(type(n) is int for n in _listed(entry["offset"]))
    lengths = {len(field) for field in lists}
    alike = not lists or (
        entry["granularity"] == "channel" and len(lengths) == 1 and min(lengths) > 1
    )
    return numbers and offsets and alike


def _listed(numbers: Any) -> list[Any]:
    return numbers if isinstance(numbers, list) else [numbers]


def _describe(index: int, tensor: Tensor) -> dict[str, Any]:
    constant = tensor.data is not None
    # A tensor that is clamped at its top only has codes below the offset until its QUANTIZE.
    offset = np.array(tensor.offset if constant else tensor.qmax - (2**tensor.bits - 1))
    shift = np.array(tensor.shift)
    zero_point = -offset / 2.0**shift if constant else tensor.zero_point - offset
    scales = tensor.scale.size if tensor.scale is not None else 0
    return {
        "index": index,
        "bits": tensor.bits,
        "scheme": "sym" if constant else "asym",
        "granularity": "channel" if scales > 1 else "tensor",
        "axis": tensor.axis if scales > 1 else 0,
        "shift": shift.tolist(),
        "offset": offset.tolist(),
        "qmin": tensor.qmin,
        "qmax": tensor.qmax,
        "zero_point_b": zero_point.tolist(),
        "method": tensor.method,
    }


def _find_entry(model: Any) -> bytes | None:
    """Raw bytes of our entry of an unpacked model."""
    for entry in model.metadata or ():
        if entry.name == METADATA_NAME.encode():
            data = model.buffers[entry.buffer].data
            return b"" if data is None else bytes(data)
    return None
