"""The figures of Zhuo et al. 2022 that ours stand beside."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import NamedTuple

_TABLE_TWO = Path(__file__).with_name("paper_table_two.csv")


class FloatModel(NamedTuple):
    """A line of Table 1."""

    macs: int
    parameters: int
    peak_activation: int


TABLE_ONE = {
    "res8": FloatModel(12_591_808, 77_706, 36_608),
    "ds_cnn": FloatModel(2_736_832, 22_604, 36_864),
    "mobilenet": FloatModel(7_723_776, 210_850, 32_768),
    "har_cnn": FloatModel(2_298_368, 523_462, 8_064),
}


@functools.cache
def _table_two() -> dict[tuple[int, str, str], float]:
    with _TABLE_TWO.open(newline="") as file:
        return {
            (int(line["bits"]), line["variable"], line["task"]): float(line["mean"])
            for line in csv.DictReader(file)
        }


def float_accuracy(task: str) -> float:
    """In percent."""
    return _table_two()[32, "float", task]


def drop(bits: int, variable: str, task: str) -> float | None:
    """Mean accuracy of Table 2 less that of the float network, in points; None if not printed."""
    mean = _table_two().get((bits, variable, task))
    return None if mean is None else round(mean - float_accuracy(task), 2)
