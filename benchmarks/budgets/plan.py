"""The measurements: points of the front, the same bits everywhere, and limits of each kind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

from benchmarks.rows import short_hash
from benchmarks.study.plan import full_config
from benchmarks.study.tasks import MAIN_TASKS
from keras_lowbit import RECIPES, PTQConfig

TASKS = MAIN_TASKS
FRONT, SAME = "front", "same bits"
FLASH, ARENA, BOPS = "flash", "flash and arena", "bops"
GRIDS = {"2 bits, narrow": "narrow", "2 bits, full": "full"}  # as alike, on grids not the default
KINDS = (FRONT, SAME, *GRIDS, FLASH, ARENA, BOPS)
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
      number: which point of the front, from 0, or the bits of all kernels; 0 for limits.
      recipe: a name in :data:`keras_lowbit.RECIPES`.
      seed: of the calibration samples and of the optimisation.
    """

    task: str
    kind: str
    number: int = 0
    recipe: str = "fast"
    seed: int = 0

    @property
    def config(self) -> PTQConfig:
        """What the recipe is; where the bits are to be chosen, but for those."""
        config = PTQConfig(**RECIPES[self.recipe])
        if self.kind == SAME:
            return dataclasses.replace(config, weight_bits=self.number)
        if self.kind in GRIDS:
            return dataclasses.replace(config, weight_bits=2, weight_grid=GRIDS[self.kind])
        return config

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row."""
        return short_hash([self.task, self.kind, self.number, full_config(self.config), self.seed])

    def __str__(self) -> str:
        number = f" {self.number}" if self.kind in (FRONT, SAME) else ""
        return f"{self.task} {self.kind}{number}, {self.recipe}"


def cells(tasks: Iterable[str], recipe: str = "fast", seed: int = 0) -> list[Cell]:
    """The plan, network by network.

    Raises:
      ValueError: an unknown name.
    """
    tasks = tuple(tasks)
    for names, known in ((tasks, TASKS), ((recipe,), RECIPES)):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"Expected some of {list(known)}. Received: {unknown}")
    numbers = {FRONT: range(POINTS), SAME: WIDTHS}
    return [
        Cell(task, kind, number, recipe, seed)
        for task in tasks
        for kind in KINDS
        for number in numbers.get(kind, (0,))
    ]
