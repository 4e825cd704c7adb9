"""The measurements: points of the front, the same bits everywhere, and limits of each kind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, short_hash
from benchmarks.study.plan import full_config, rows_of_today
from benchmarks.study.tasks import MAIN_TASKS
from keras_lowbit import RECIPES, PTQConfig
from keras_lowbit.search.choice import CANDIDATE_BITS

TASKS = MAIN_TASKS
FRONT, SAME = "front", "same bits"
FLASH, ARENA, BOPS = "flash", "flash and arena", "bops"
# Two bits everywhere on other grids than the recipe's.
GRIDS = {f"2 bits, {grid}": grid for grid in ("narrow", "full", "midrise")}
KINDS = (FRONT, SAME, *GRIDS, FLASH, ARENA, BOPS)
RECIPE, SEED = "fast", 0  # of all of them
POINTS = 6  # of a front
WIDTHS = (2, 3, 4, 8)  # of all kernels alike
# Limits, as shares of what 8 bits everywhere take. Packed weights are expanded in the arena, one layer
# at a time, so less flash is saved where the arena may hardly grow.
SHARES = {FLASH: {"flash": 0.5}, ARENA: {"flash": 0.75, "arena": 1.25}, BOPS: {"bops": 0.5}}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network quantized within one limit.

    Attributes:
      task: a name in :data:`benchmarks.study.tasks.TASKS`.
      kind: of :data:`KINDS`.
      number: which point of the front, from 0, or the bits of all kernels; 0 for the others.
    """

    task: str
    kind: str
    number: int = 0

    @property
    def config(self) -> PTQConfig:
        """The recipe's, with the bits and the grid of this kind where they are not chosen."""
        config = PTQConfig(**RECIPES[RECIPE])
        if self.kind == SAME:
            return dataclasses.replace(config, weight_bits=self.number)
        if self.kind in GRIDS:
            return dataclasses.replace(config, weight_bits=2, weight_grid=GRIDS[self.kind])
        return config

    @property
    def searched(self) -> list[Any] | None:
        """What the search of bits was asked for, JSON-able; None where there is none."""
        asked = POINTS if self.kind == FRONT else SHARES.get(self.kind)
        return [asked, list(CANDIDATE_BITS)] if asked else None

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row."""
        return _key(dataclasses.asdict(self) | {"searched": self.searched}, self.config)

    def __str__(self) -> str:
        number = f" {self.number}" if self.kind in (FRONT, SAME) else ""
        return f"{self.task} {self.kind}{number}"


def _key(row: Row, config: PTQConfig) -> str:
    place = [row[name] for name in ("task", "kind", "number", "searched")]
    return short_hash([*place, full_config(config), SEED])


def cells(tasks: Iterable[str]) -> list[Cell]:
    """The plan, network by network.

    Raises:
      ValueError: an unknown name.
    """
    tasks = tuple(tasks)
    if unknown := [name for name in tasks if name not in TASKS]:
        raise ValueError(f"Expected some of {list(TASKS)}. Received: {unknown}")
    numbers = {FRONT: range(POINTS), SAME: WIDTHS}
    return [
        Cell(task, kind, number)
        for task in tasks
        for kind in KINDS
        for number in numbers.get(kind, (0,))
    ]


def known_rows(path: Path) -> list[Row]:
    """The rows of a file; see :func:`benchmarks.study.plan.rows_of_today`."""
    return rows_of_today(path, _key)
