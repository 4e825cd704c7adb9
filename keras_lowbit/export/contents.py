"""What a `.tflite` file holds: its bytes by part, and its operators."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_lowbit.export.packing import DECODE
from keras_lowbit.export.runtimes import read_flatbuffer

ETHOS_U = "ethos-u"
# Parts that the inputs of an operator belong to; none for activations.
_KERNEL = ("", "weights", "biases")
_ROLES: dict[str, tuple[str, ...]] = {
    "CONV_2D": _KERNEL, "DEPTHWISE_CONV_2D": _KERNEL, "FULLY_CONNECTED": _KERNEL,
    DECODE: ("weights", "decoding_tables"),
}  # fmt: skip
_RESOLVER_CALLS = {DECODE: "AddDecode", ETHOS_U: "AddEthosU"}


@dataclasses.dataclass(frozen=True)
class FileBytes:
    """Bytes of a file; the parts add up to `total`.

    `weights` are in their containers, `decoding_tables` are TFLM's lookup tables with their headers,
    `structure` is all the rest: operators, tensors, scales, names, padding.
    """

    total: int
    weights: int
    decoding_tables: int
    biases: int
    metadata: int
    structure: int


def file_bytes(blob: bytes) -> FileBytes:
    """The bytes of a flatbuffer by part; a buffer that several tensors share counts once.

    Raises: ValueError if the bytes are something else.
    """
    model = read_flatbuffer(blob)
    graph = model.Subgraphs(0)
    parts: dict[int, str] = {}
    for index, kind in enumerate(operator_kinds(blob)):
        roles = _ROLES.get(kind, ())
        # An optional input that is not there has the index -1.
        for tensor, part in zip(graph.Operators(index).InputsAsNumpy(), roles, strict=False):
            if part and tensor >= 0:
                parts.setdefault(graph.Tensors(tensor).Buffer(), part)
    for index in range(model.MetadataLength()):
        parts.setdefault(model.Metadata(index).Buffer(), "metadata")
    sizes = dict.fromkeys(("weights", "decoding_tables", "biases", "metadata"), 0)
    for buffer, part in parts.items():
        sizes[part] += model.Buffers(buffer).DataLength()
    return FileBytes(len(blob), **sizes, structure=len(blob) - sum(sizes.values()))


def operator_kinds(blob: bytes) -> list[str]:
    """The schema's name of every operator in order; of custom operators, their own.

    Raises: ValueError if the bytes are something else.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    model = read_flatbuffer(blob)
    graph = model.Subgraphs(0)

    def kind(code: Any) -> str:
        # Old writers fill only the deprecated field, which cannot hold the newer operators.
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = builtin == schema.BuiltinOperator.CUSTOM
        return (code.CustomCode() or b"").decode() if custom else names[builtin]

    return [
        kind(model.OperatorCodes(graph.Operators(index).OpcodeIndex()))
        for index in range(graph.OperatorsLength())
    ]


def resolver_calls(blob: bytes) -> tuple[str, ...]:
    """The methods of TFLM's MicroMutableOpResolver that register what a file needs, sorted.

    Raises: ValueError if the bytes are something else.
    """
    return tuple(sorted({resolver_call(kind) for kind in operator_kinds(blob)}))


def resolver_call(kind: str) -> str:
    """The resolver's method for an operator by the schema's name: "AddConv2D" for "CONV_2D"."""
    return _RESOLVER_CALLS.get(kind, f"Add{kind.title().replace('_', '')}")
