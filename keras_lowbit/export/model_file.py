"""A model file as bytes: read from disk, sealed against damage, unpacked without trusting it.

TFLM checks nothing: one flipped bit can end the process. Every file that is exported therefore carries the
SHA-256 of its bytes, in its metadata or in the file beside it, and is handed to a runtime only if it is whole.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import struct
from typing import Any

from keras_lowbit.export.c_array import read_array

SEAL = "model_sha256"
_DIGITS = 64
_SEALED = re.compile(rb'"model_sha256":"([0-9a-f]{64})"')
# What the schema's reader raises on offsets that lead nowhere.
_DAMAGE = (
    struct.error, IndexError, TypeError, AttributeError, ValueError, OverflowError, MemoryError,
    KeyError,
)  # fmt: skip


def read_model(model: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    """The flatbuffer of a ``.tflite`` file, of exported C source (``.cc``) or of bytes, and what to call it.

    Raises: ValueError if the file cannot be read or is something else.
    """
    if isinstance(model, (bytes, bytearray, memoryview)):
        blob, label = bytes(model), "The model"
    else:
        path = pathlib.Path(model)
        blob, label = read_file(path), f"'{path}'"
        if path.suffix == ".cc":
            blob = read_array(blob, label)
    if len(blob) < 8 or blob[4:8] != b"TFL3":
        raise ValueError(
            f"{label} is not a TFLite flatbuffer: its bytes 4..8 must read 'TFL3'. "
            f"Received: {blob[4:8]!r} in {len(blob)} bytes."
        )
    return blob, label


def read_file(path: pathlib.Path) -> bytes:
    """The bytes of a file.

    Raises: ValueError with the system's reason.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"Cannot read the model file: {error.strerror}. Received: '{path}'."
        ) from error


def fingerprint(blob: bytes) -> str:
    """SHA-256 of a model, hexadecimal; its own seal, where it has one, counts as zeros."""
    return hashlib.sha256(_with_seal(blob, b"0" * _DIGITS)).hexdigest()


def unsealed() -> dict[str, str]:
    """What metadata hold where :func:`seal` puts the fingerprint."""
    return {SEAL: "0" * _DIGITS}


def seal(blob: bytes) -> bytes:
    """The model with its fingerprint in its metadata, which must hold those of :func:`unsealed`."""
    return _with_seal(blob, fingerprint(blob).encode())


def check_seal(blob: bytes, label: str) -> None:
    """Refuse a sealed model whose bytes are not those that were sealed.

    Raises: ValueError if so; a model without a seal passes.
    """
    found = _SEALED.search(blob)
    if found is not None and found[1].decode() != fingerprint(blob):
        raise damaged(blob, label, f"its SHA-256 is {fingerprint(blob)}, not {found[1].decode()}")


def unpack(blob: bytes, label: str = "The model") -> Any:
    """The schema's object tree of a model, with every index in it inside its list.

    Raises: ValueError if the bytes are no flatbuffer of the schema.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
        problem = _inconsistency(model)
    except _DAMAGE as error:
        raise damaged(blob, label, f"{type(error).__name__}: {error}") from error
    if problem:
        raise damaged(blob, label, problem)
    return model


def damaged(blob: bytes, label: str, found: str) -> ValueError:
    """The error for a file that is not as it was written."""
    return ValueError(
        f"{label} is cut short or damaged, or another tool changed it; copy or export it again. "
        f"Received: {len(blob)} bytes, {found}."
    )


def _with_seal(blob: bytes, digits: bytes) -> bytes:
    found = _SEALED.search(blob)
    return blob if found is None else blob[: found.start(1)] + digits + blob[found.end(1) :]


def _inconsistency(model: Any) -> str:
    """The first index that leads out of its list, in words."""
    if not model.subgraphs or not model.buffers:
        return "no subgraph or no buffers"
    buffers, codes = len(model.buffers), len(model.operatorCodes or ())
    for entry in model.metadata or ():
        if not 0 <= entry.buffer < buffers:
            return f"metadata in buffer {entry.buffer} of {buffers}"
    for graph in model.subgraphs:
        tensors = graph.tensors or []
        for tensor in tensors:
            if not 0 <= tensor.buffer < buffers:
                return f"a tensor in buffer {tensor.buffer} of {buffers}"
            if tensor.name is not None:
                tensor.name.decode()
        ends = [*_indices(graph.inputs), *_indices(graph.outputs)]
        for operator in graph.operators or ():
            if not 0 <= operator.opcodeIndex < codes:
                return f"an operator of code {operator.opcodeIndex} of {codes}"
            ends += _indices(operator.outputs)
            ends += [index for index in _indices(operator.inputs) if index != -1]
        if any(not 0 <= index < len(tensors) for index in ends):
            return f"a tensor index outside 0..{len(tensors) - 1}"
    return ""


def _indices(vector: Any) -> list[int]:
    return [] if vector is None else [int(index) for index in vector]
