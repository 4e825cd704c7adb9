"""What a flatbuffer stores once, however often it is referred to: buffers, vectors, strings, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import flatbuffers
import numpy as np

ALIGNMENT = 16


class SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors of numbers and equal strings once; readers follow offsets either way."""

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._offsets: dict[Hashable, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        """Offset of the vector; the name is flatbuffers'."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._offsets:
            self._offsets[key] = super().CreateNumpyVector(x)
        return self._offsets[key]

    def CreateString(self, s: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        """Offset of the string; the name is flatbuffers'."""
        if s not in self._offsets:
            self._offsets[s] = super().CreateString(s, encoding, errors)
        return self._offsets[s]


class Tables:
    """Schema tables by their contents; the ones returned are packed where they are first used."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, _Once] = {}

    def add(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The table of this key, made if there is none yet."""
        if key not in self._tables:
            self._tables[key] = _Once(make())
        return self._tables[key]


class Buffers:
    """The model's buffers; 0 is the empty one, and equal contents are stored once."""

    def __init__(self) -> None:
        self.list = [_Buffer(b"")]
        self._indices: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """Index of the buffer with these contents."""
        if data not in self._indices:
            self._indices[data] = len(self.list)
            self.list.append(_Buffer(data))
        return self._indices[data]


class _Once:
    """Stands in for a table of the schema that several tables refer to."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Offset of the packed table; the name is the schema's."""
        if self._offset is None:
            self._offset = self._table.Pack(builder)
        return self._offset


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
