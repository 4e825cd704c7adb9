"""A model as a C array, and back."""

from __future__ import annotations

import re

_DEFINITION = re.compile(
    r"alignas\(16\) const unsigned char (\w+)_data\[(\d+)\] = \{([0-9a-fA-Fx,\s]*)\};"
)
_PER_LINE = 16


def array_of(name: str, blob: bytes) -> str:
    """The definition of ``<name>_data``, which :func:`read_array` finds again."""
    rows = (blob[i : i + _PER_LINE] for i in range(0, len(blob), _PER_LINE))
    lines = ["  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows]
    return "\n".join(
        [f"alignas(16) const unsigned char {name}_data[{len(blob)}] = {{", *lines, "};"]
    )


def read_array(source: bytes, label: str) -> bytes:
    """The bytes of the model in exported C source.

    Raises: ValueError if there is no such array, or it is not whole.
    """
    found = _DEFINITION.search(source.decode(errors="replace"))
    if found is None:
        raise ValueError(
            f"{label} has no array as export(format='c') writes it; export it again. "
            f"Received: {source[:40]!r} and more, {len(source)} bytes."
        )
    try:
        content = bytes(int(item, 16) for item in found[3].replace(",", " ").split())
    except ValueError as error:
        raise ValueError(
            f"{label} has an array with something else than bytes; export it again. Received: {error}."
        ) from error
    if len(content) != int(found[2]):
        raise ValueError(
            f"{label} has an array of another length than it says; export it again. "
            f"Received: {len(content)} bytes of {found[2]}."
        )
    return content
