"""The measurements: which file, written by which tool, on which device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, short_hash
from benchmarks.study.plan import full_config, rows_of_today
from benchmarks.study.tasks import MAIN_TASKS
from keras_lowbit import PTQConfig

TASKS = MAIN_TASKS
WIDTHS = (8, 4, 3, 2)

INCUMBENT, RIVAL, OURS = "TFLiteConverter", "ai-edge-quantizer", "keras_lowbit"
TFLM, ETHOS_U = "TFLM", "Ethos-U55-128"

# What the rival stores in four bits; the rest has eight.
RIVAL_LAYERS = {
    "int4": ("CONV_2D", "FULLY_CONNECTED"),
    "int4 convolutions": ("CONV_2D",),
}
# Arguments of `QuantizedModel.export`.
EXPORTS = {
    "int8": {},
    "int4": {"packing": "int4"},
    "lut": {"packing": "lut"},
    "auto, micro": {"packing": "auto", "strip": "micro"},
}
# At eight bits nothing can be packed.
EXPORTS_OF_EIGHT_BITS = ("int8", "auto, micro")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One file measured on one device.

    Attributes:
      task: a name in :data:`benchmarks.study.tasks.TASKS`.
      tool: what writes the file.
      variant: how: "int8", or of :data:`RIVAL_LAYERS` or :data:`EXPORTS`.
      weight_bits: the narrowest weights.
      device: where it runs, or for which it is compiled.
      config: how our network is quantized; None for the other tools.
      seed: of the calibration samples and of the optimisation.
      limit: most test samples run on TFLM; None for all.
    """

    task: str
    tool: str
    variant: str
    weight_bits: int
    device: str = TFLM
    config: PTQConfig | None = None
    seed: int = 0
    limit: int | None = None

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row."""
        limit = self.limit if self.device == TFLM else None
        return short_hash([
            self.task, self.tool, self.variant, self.device, self.full_config(), self.seed, limit,
        ])  # fmt: skip

    def full_config(self) -> dict[str, Any] | None:
        """The configuration with all hyperparameters, JSON-able; None for the other tools."""
        return None if self.config is None else full_config(self.config)

    def __str__(self) -> str:
        return f"{self.task} {self.tool} W{self.weight_bits} {self.variant}, {self.device}"


def cells(
    tasks: Iterable[str] = TASKS,
    widths: Iterable[int] = WIDTHS,
    seed: int = 0,
    limit: int | None = None,
    **fields: Any,
) -> list[Cell]:
    """The plan, task by task; the other tools first, then our widths.

    Args:
      tasks: names.
      widths: of our weights; the rival is planned with 4.
      seed: of every cell.
      limit: most test samples run on TFLM.
      fields: of the :class:`keras_lowbit.PTQConfig` other than the defaults.
    """
    widths = tuple(widths)
    return [
        dataclasses.replace(cell, seed=seed, limit=limit)
        for task in tasks
        for cell in _cells_of(task, widths, fields)
    ]


def _cells_of(task: str, widths: tuple[int, ...], fields: dict[str, Any]) -> Iterator[Cell]:
    for device in (TFLM, ETHOS_U):
        yield Cell(task, INCUMBENT, "int8", 8, device)
    if 4 in widths:
        for variant in RIVAL_LAYERS:
            yield Cell(task, RIVAL, variant, 4)
    for bits in widths:
        config = PTQConfig(weight_bits=bits, activation_bits=8, **fields)
        for variant in EXPORTS if bits < 8 else EXPORTS_OF_EIGHT_BITS:
            yield Cell(task, OURS, variant, bits, TFLM, config)
        # Its compiler packs int8 containers by itself.
        yield Cell(task, OURS, "int8", bits, ETHOS_U, config)


def known_rows(path: Path) -> list[Row]:
    """The rows of a file; see :func:`benchmarks.study.plan.rows_of_today`."""
    return rows_of_today(path, _key_of)


def _key_of(row: Row, config: PTQConfig | None) -> str:
    return Cell(
        row["task"], row["tool"], row["variant"], row["weight_bits"], row["device"], config,
        row["seed"], row["limit"],
    ).key  # fmt: skip
