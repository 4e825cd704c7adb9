"""Weights as the bytes of their container; the integers are fixed before, in lowering.

"int8" is a code a byte, "int4" and "int2" are two and four codes a byte, "lut" is indices into tables of
int8 codes, which TFLM's DECODE operator expands right before the layer runs.
"""

from __future__ import annotations

import math

import numpy as np

from keras_lowbit.export.ir import Program, Tensor

# Bits of the integers that a kernel computes with; tables hold codes of the whole int8.
INTEGER_BITS = {"int8": 8, "int4": 4, "int2": 2, "lut": 8}
DECODE = "TFLM_DECODE"
WIDEST_INDEX = 7

# Fields of the 16-byte header of DECODE's ancillary data.
_LOOKUP, _VERSION, _ONE_TABLE = 0, 1, 15


def kernel_names(program: Program) -> dict[str, str]:
    """Names of the weight tensors by layer."""
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return {op.name: op.inputs[1] for op in program.ops if op.kind in kinds}


def pack_integers(tensor: Tensor, container: str) -> bytes:
    """Codes of a constant in "int8", "int4" or "int2": two's complement, the first in the lowest bits.

    Raises: ValueError if a code does not fit.
    """
    bits, codes = INTEGER_BITS[container], _data(tensor)
    limit = 2 ** (bits - 1)
    if codes.min() < -limit or codes.max() >= limit:
        raise ValueError(
            f"Tensor '{tensor.name}': the container {container!r} holds codes from {-limit} to "
            f"{limit - 1}; lower the network for this container. "
            f"Received: codes from {codes.min()} to {codes.max()}."
        )
    count = 8 // bits
    fields = codes.reshape(-1).astype(np.uint8) & np.uint8(2**bits - 1)
    fields = np.pad(fields, (0, -len(fields) % count)).reshape(-1, count)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(fields << shifts, axis=1).astype(np.uint8).tobytes()


def encode_lookup(tensor: Tensor) -> tuple[bytes, bytes]:
    """Weights as DECODE reads them: packed indices, and the header with the table of each channel.

    Indices are as narrow as the number of distinct codes allows, the first in the highest bits. DECODE
    takes the number of tables from the scales, so every channel has its own, though all may be equal: then
    they hold the codes that occur, else all codes of each channel.

    Raises: ValueError if there are more distinct codes than the widest index can tell apart.
    """
    codes, channels = _data(tensor), 1 if tensor.scale is None else tensor.scale.size
    if isinstance(tensor.shift, tuple) or isinstance(tensor.offset, tuple):
        shift, offset = (np.resize(x, channels) for x in (tensor.shift, tensor.offset))
        along = (-1, *(1,) * (codes.ndim - 1 - tensor.axis))
        lowest = -(2 ** (tensor.bits - 1))
        indices = (codes - offset.reshape(along) >> shift.reshape(along)) - lowest
        grid = np.arange(lowest, -lowest)
        tables = ((grid << shift[:, None]) + offset[:, None]).astype(np.int8)
        table = tables[0]
    else:
        table, indices = np.unique(codes, return_inverse=True)
        tables = np.tile(table, channels)
    width = max(1, (len(table) - 1).bit_length())
    if width > WIDEST_INDEX:
        raise ValueError(
            f"Tensor '{tensor.name}': lookup tables hold at most {2**WIDEST_INDEX} distinct codes. "
            f"Received: {len(table)}."
        )
    axis = tensor.axis if channels > 1 else _ONE_TABLE
    header = bytes([_LOOKUP, _VERSION, 0, 0, _VERSION, axis << 4 | width, len(table)])
    places = np.arange(width - 1, -1, -1)
    bits = (indices.reshape(-1, 1) >> places & 1).astype(np.uint8)
    return np.packbits(bits).tobytes(), header.ljust(16, b"\0") + tables.tobytes()


def unpack_integers(data: bytes, container: str, count: int) -> np.ndarray:
    """The first `count` codes of a container, int8 [count]; the inverse of :func:`pack_integers`.

    Raises: ValueError if there are too few bytes.
    """
    bits = INTEGER_BITS[container]
    fields = np.frombuffer(data, np.uint8).reshape(-1, 1) >> np.arange(0, 8, bits, dtype=np.uint8)
    # Shifted to the top of the byte and back, the highest bit of a field becomes its sign.
    codes = (fields << np.uint8(8 - bits)).astype(np.uint8).view(np.int8) >> (8 - bits)
    return _first(codes.reshape(-1), count, container)


def lookup_bytes(tables: bytes, channels: int) -> int:
    """Of DECODE's header and the first tables, one per channel; those behind them are other layers'."""
    return 16 + channels * (tables[6] if len(tables) > 6 else 0)


def decode_lookup(
    indices: bytes, tables: bytes, shape: tuple[int, ...], channels: int
) -> np.ndarray:
    """Weights from DECODE's operands, int8 of `shape`; the inverse of :func:`encode_lookup`.

    `channels` is the number of scales, hence of tables; more may follow, see :func:`lookup_bytes`.

    Raises: ValueError if the operands are not those that :func:`encode_lookup` writes.
    """
    header = bytes(tables[:16]).ljust(16, b"\0")
    width, axis, size = header[5] & 15, header[5] >> 4, header[6]
    expected = bytes([_LOOKUP, _VERSION, 0, 0, _VERSION, header[5], size]).ljust(16, b"\0")
    one = axis == _ONE_TABLE
    if (
        header != expected
        or not 1 <= width <= WIDEST_INDEX
        or len(tables) < lookup_bytes(tables, channels)
        or (len(tables) - 16) % max(size, 1)
        or (channels != 1 if one else axis >= len(shape) or shape[axis] != channels)
    ):
        raise ValueError(
            "A lookup table is not one that keras_lowbit writes. "
            f"Received: {len(tables)} bytes, header {header.hex()}, for {channels} scales of {shape}."
        )
    bits = np.unpackbits(np.frombuffer(indices, np.uint8))
    rows_of_bits = _first(bits, math.prod(shape) * width, "lut").reshape(-1, width)
    places = (rows_of_bits @ (1 << np.arange(width - 1, -1, -1))).reshape(shape)
    if places.max() >= size:
        raise ValueError(
            f"An index into a lookup table is too large. Received: {places.max()} of {size}."
        )
    codes = np.frombuffer(tables[16:], np.int8).reshape(-1, size)
    rows = np.zeros(1, int) if one else np.arange(channels)
    along = (-1,) + (1,) * (len(shape) - 1 - (0 if one else axis))
    return codes[rows.reshape(along), places]


def _first(values: np.ndarray, count: int, container: str) -> np.ndarray:
    if values.size < count:
        raise ValueError(
            f"The container {container!r} is too short. Received: {values.size} fields of {count}."
        )
    return values[:count]


def _data(tensor: Tensor) -> np.ndarray:
    if tensor.data is None or tensor.dtype != "int8":
        raise ValueError(
            f"Tensor '{tensor.name}': only int8 constants have containers. "
            f"Received: {tensor.dtype}, data {type(tensor.data).__name__}."
        )
    return tensor.data
