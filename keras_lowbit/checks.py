"""What several fields of a configuration are checked for."""

from __future__ import annotations

from typing import Any

MIN_BITS, MAX_BITS = 2, 8
WIDE_BITS = 16


def check_bits(name: str, bits: Any, wide: bool = False) -> None:
    """Refuse what is no width.

    Args:
      name: of the field, for the message.
      bits: what was given.
      wide: 16 is allowed too.

    Raises:
      ValueError: no integer, or out of range.
    """
    if wide and bits == WIDE_BITS and isinstance(bits, int):
        return
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        also = f" (or {WIDE_BITS} for activations, simulation only)" if wide else ""
        raise ValueError(
            f"`{name}` must be an integer from {MIN_BITS} to {MAX_BITS}, since codes are stored in "
            f"int8 containers{also}. Received: {name}={bits!r}"
        )


def as_tuple(name: str, given: Any) -> tuple[Any, ...]:
    """A field that may be one thing or several; none for None.

    Raises:
      ValueError: something that holds others, but is no list or tuple, or no such thing at all.
    """
    if given is None:
        return ()
    if isinstance(given, (list, tuple)):
        return tuple(given)
    if isinstance(given, str):
        return (given,)
    raise ValueError(
        f"`{name}` must be a name, or a list or tuple of several; empty for none. "
        f"Received: {name}={given!r}"
    )
