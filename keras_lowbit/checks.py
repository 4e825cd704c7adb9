"""What several fields of a configuration are checked for."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

MIN_BITS, MAX_BITS = 2, 8
WIDE_BITS = 16


def plain_number(given: Any) -> Any:
    """A number of any type, e.g. NumPy's, as Python's bool, int or float; everything else as it is."""
    if isinstance(given, np.bool_):
        return bool(given)
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        return given
    return operator.index(given) if isinstance(given, numbers.Integral) else float(given)


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


def check_flag(name: str, given: Any) -> None:
    """Refuse what is neither True nor False; "false" would count as true.

    Raises:
      ValueError: with the name of the field.
    """
    if not isinstance(given, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={given!r}")


def check_count(name: str, given: Any, least: int) -> None:
    """Refuse what is no integer, or too small a one.

    Raises:
      ValueError: with the name of the field.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Integral) or given < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={given!r}"
        )


def as_rate(name: str, given: Any, zero: bool = False, otherwise: str = "") -> float:
    """A learning rate and the like as a float.

    Args:
      name: of the field, for the message.
      given: what is to be a rate.
      zero: it may be 0.
      otherwise: what else the field may be, for the message.

    Raises:
      ValueError: no number, or out of range.
    """
    rate = plain_number(given)
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not (is_number and rate < math.inf and (rate > 0 or (zero and rate == 0))):
        expected = "at least 0" if zero else "positive"
        raise ValueError(
            f"`{name}` must be {expected} and finite{otherwise}. Received: {name}={given!r}"
        )
    return float(rate)


def check_seed(seed: Any) -> None:
    """Refuse what NumPy takes no generator from.

    Raises:
      ValueError: no integer, or a negative one.
    """
    is_integer = hasattr(seed, "__index__") and not isinstance(seed, bool)
    if not is_integer or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")


def check_folder(name: str, given: Any) -> None:
    """Refuse what is neither a path nor None.

    Raises:
      ValueError: with the name of the argument.
    """
    if given is not None and (not isinstance(given, (str, os.PathLike)) or not str(given)):
        raise ValueError(
            f"`{name}` must be a folder: give a path, or None for none. Received: {name}={given!r}"
        )


def as_items(name: str, given: Any) -> tuple[tuple[str, Any], ...]:
    """A mapping from patterns of layer names, or its items; lists become tuples, numbers plain.

    Raises:
      ValueError: anything else.
    """
    items = given.items() if isinstance(given, Mapping) else given
    try:
        pairs = [] if isinstance(items, str) else [(pattern, bits) for pattern, bits in items]
    except (TypeError, ValueError):
        pairs = [(None, None)]
    if isinstance(items, str) or not all(isinstance(pattern, str) for pattern, _ in pairs):
        raise ValueError(
            f"`{name}` must map patterns of layer names to bits, e.g. {{'conv2d_3|dense': 8}}. "
            f"Received: {name}={given!r}"
        )
    return tuple((pattern, _plain_bits(bits)) for pattern, bits in pairs)


def _plain_bits(given: Any) -> Any:
    pair = isinstance(given, (list, tuple))
    return tuple(map(plain_number, given)) if pair else plain_number(given)


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
