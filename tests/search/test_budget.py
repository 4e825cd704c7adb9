"""Budgets as they are written."""

from __future__ import annotations

from typing import Any

import pytest

from keras_lowbit import Budget


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (512, 512), ("512", 512), ("512 B", 512), ("40kB", 40_000), (" 40 KiB ", 40_960),
        ("1.5kB", 1500), ("0.5MB", 500_000), ("2MiB", 2_097_152),
    ],
)  # fmt: skip
def test_sizes(written: Any, size: int) -> None:
    assert Budget(flash=written, arena=written).limits() == {"flash": size, "arena": size}


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "", "40 kb", "kB", "-3kB", "0.1B", [40]])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r"`flash` must be .* Received: flash="):
        Budget(flash=size)


@pytest.mark.parametrize("value", [0, -2, float("nan"), float("inf"), "3", True])
@pytest.mark.parametrize("name", ["bops", "average_weight_bits"])
def test_other_numbers_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number"):
        Budget(**{name: value})


def test_no_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one limit"):
        Budget()
