"""The measurements: which recipe quantizes which network to how many bits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, short_hash
from benchmarks.study.plan import full_config, rows_of_today
from benchmarks.study.tasks import MAIN_TASKS
from keras_lowbit import RECIPES, Budget, PTQConfig
from keras_lowbit.search.choice import CANDIDATE_BITS

TASKS = MAIN_TASKS
# Uniform: weights, activations and the network's input; "WxA8": weights alone.
BITS = {
    "4/4": (4, 4), "3/3": (3, 3), "2/2": (2, 2), "W4A8": (4, 8), "W3A8": (3, 8), "W2A8": (2, 8),
}  # fmt: skip
EDGE_EIGHT = " edge-8"  # behind uniform bits: 8 bits for the input, the first and the last layer
MIXED = "mixed"  # weights of 3 bits on average, chosen layer by layer; activations of 8
AVERAGE_BITS = 3.0
SETTINGS = (
    "4/4", "3/3", "2/2", *(f"{bits}{EDGE_EIGHT}" for bits in ("4/4", "3/3", "2/2")),
    "W4A8", "W3A8", "W2A8", MIXED,
)  # fmt: skip
SEEDS = {"fast": (0,), "default": (0,), "best": (0, 1, 2)}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network quantized by one recipe.

    Attributes:
      task: a name in :data:`benchmarks.study.tasks.TASKS`.
      recipe: a name in :data:`keras_lowbit.RECIPES`.
      setting: of :data:`SETTINGS`.
      seed: of the calibration samples and of the optimisation.
    """

    task: str
    recipe: str
    setting: str
    seed: int = 0

    @property
    def config(self) -> PTQConfig:
        """What the recipe is at so many bits."""
        fields = RECIPES[self.recipe]
        if self.setting == MIXED:
            return PTQConfig(**fields)
        weight_bits, activation_bits = BITS[self.setting.removesuffix(EDGE_EIGHT)]
        if self.setting.endswith(EDGE_EIGHT):
            return PTQConfig(weight_bits, activation_bits, first_last_bits=8, **fields)
        return PTQConfig(weight_bits, activation_bits, input_bits=activation_bits, **fields)

    @property
    def budget(self) -> Budget | None:
        """What the bits are chosen within, where they are."""
        return Budget(average_weight_bits=AVERAGE_BITS) if self.setting == MIXED else None

    @property
    def searched(self) -> list[Any] | None:
        """What the search of bits was asked for, JSON-able; None where there is none."""
        return [AVERAGE_BITS, list(CANDIDATE_BITS)] if self.setting == MIXED else None

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row."""
        return short_hash([self.task, self.searched, full_config(self.config), self.seed])

    def __str__(self) -> str:
        return f"{self.task} {self.setting} {self.recipe} seed {self.seed}"


def cells(
    tasks: Iterable[str],
    recipes: Iterable[str],
    settings: Iterable[str],
    seeds: Iterable[int] | None = None,
) -> list[Cell]:
    """The plan, seed by seed; without ``seeds``, those of each recipe in :data:`SEEDS`.

    Raises:
      ValueError: an unknown name.
    """
    tasks, recipes, settings = tuple(tasks), tuple(recipes), tuple(settings)
    for names, known in ((tasks, TASKS), (recipes, RECIPES), (settings, SETTINGS)):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"Expected some of {list(known)}. Received: {unknown}")
    wanted = SEEDS if seeds is None else dict.fromkeys(recipes, tuple(seeds))
    every = sorted({seed for recipe in recipes for seed in wanted[recipe]})
    return [
        Cell(task, recipe, setting, seed)
        for seed, recipe, setting, task in itertools.product(every, recipes, settings, tasks)
        if seed in wanted[recipe]
    ]


def known_rows(path: Path) -> list[Row]:
    """The rows of a file; see :func:`benchmarks.study.plan.rows_of_today`."""
    return rows_of_today(
        path,
        lambda row, config: short_hash(
            [row["task"], row["searched"], full_config(config), row["seed"]]
        ),
    )
