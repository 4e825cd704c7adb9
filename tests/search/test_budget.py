"""Budgets as they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from keras_lowbit import Budget


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (512, 512), ("512", 512), ("512 B", 512), ("40kB", 40_000), (" 40 KiB ", 40_960),
        ("1.5kB", 1500), ("64.1kB", 64_100), ("1.001kB", 1001), ("0.5MB", 500_000), ("2MiB", 2_097_152),
        (np.int64(50_000), 50_000), (1e4, 10_000), (0.5 * 1025, 512), (np.float32(1.5), 1),
    ],
)  # fmt: skip
def test_sizes(written: Any, size: int) -> None:
    limits = Budget(flash=written, arena=written).limits()
    assert limits == {"flash": size, "arena": size}
    assert {type(limit) for limit in limits.values()} == {int}


def test_numbers_of_numpy_are_stored_as_pythons() -> None:
    limits = Budget(bops=np.int64(10**6), average_weight_bits=np.float32(3.5)).limits()
    assert repr(limits) == "{'bops': 1000000, 'average_weight_bits': 3.5}"


@pytest.mark.parametrize(
    "size", [0, -1, 0.5, float("nan"), float("inf"), True, "", "40 kb", "kB", "-3kB", "0.1B", [40]]
)
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
