"""What a network may cost, as its user writes it."""

from __future__ import annotations

import dataclasses
import math
import re
from fractions import Fraction
from typing import Any

from keras_lowbit.checks import plain_number

_UNITS = {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})")


class BudgetError(ValueError):
    """A budget that cannot be kept; the message says what stands against it."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Upper limits, all of which hold; at least one must be given.

    Attributes:
      flash: bytes of the file that ``export(path, packing="auto", strip="micro")`` writes for TFLM: a
        number, or a string such as ``"40kB"`` (1000 bytes) or ``"40KiB"`` (1024); rounded down to
        whole bytes.
      arena: bytes of TFLM's arena for that file on this 64-bit host, in the same forms. Activations
        take a byte an element at any width; what the choice of bits changes is which weights are
        packed, and hence expanded in RAM.
      bops: bit operations of an inference, see :class:`keras_lowbit.Cost`.
      average_weight_bits: bits of a weight, the mean over all kernels; biases do not count.

    Example:
      >>> keras_lowbit.quantize(model, x_train[:512], budget=Budget(flash="40kB"))
    """

    flash: float | str | None = None
    arena: float | str | None = None
    bops: float | None = None
    average_weight_bits: float | None = None

    def __post_init__(self) -> None:
        for name in ("flash", "arena"):
            object.__setattr__(self, name, _bytes_of(name, getattr(self, name)))
        for name in ("bops", "average_weight_bits"):
            value = plain_number(getattr(self, name))
            object.__setattr__(self, name, value)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={value!r}")
        if not self.limits():
            raise ValueError(
                "A budget needs at least one limit of flash, arena, bops and average_weight_bits. "
                "Received: none"
            )

    def limits(self) -> dict[str, float]:
        """The limits that were given, by name; sizes in bytes."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _bytes_of(name: str, size: Any) -> int | None:
    """Bytes of a size as it was written."""
    if size is None:
        return None
    written = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    count = Fraction(written[1]) * _UNITS[written[2]] if written else plain_number(size)
    if not (_is_number(count) and count >= 1):
        raise ValueError(
            f"`{name}` must be one byte or more: a number, or a string of a number and one of "
            f"{[unit for unit in _UNITS if unit]}, e.g. '40kB'. Received: {name}={size!r}"
        )
    return math.floor(count)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float, Fraction))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
