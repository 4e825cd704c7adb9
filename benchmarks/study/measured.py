"""The rows of planned cells, and their statistics over seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.rows import Row
from benchmarks.study.plan import Cell

MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation of ``count`` values; no deviation of a single one."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic | None:
        """None if there are no values."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


def mean_of(statistic: Statistic | None) -> float | None:
    """Its mean, if there is one."""
    return None if statistic is None else statistic.mean


class Measured:
    """What is known of a plan.

    Args:
      cells: the plan.
      rows: others than those of the plan are passed over.
    """

    def __init__(self, cells: Iterable[Cell], rows: Iterable[Row]) -> None:
        by_key = {row["key"]: row for row in rows}
        self._planned: dict[tuple[str, ...], dict[int, Row | None]] = {}
        for cell in cells:
            place = (cell.grid, cell.task, cell.variable, cell.setting)
            self._planned.setdefault(place, {})[cell.seed] = by_key.get(cell.key)

    def rows(self, grid: str, task: str, variable: str, setting: str) -> list[Row]:
        """One row per seed that is measured."""
        seeds = self._planned.get((grid, task, variable, setting), {})
        return [row for row in seeds.values() if row is not None]

    def accuracy(self, rows: Iterable[Row], step: str = "tuned") -> Statistic | None:
        """In percent, after a step."""
        return Statistic.of([100 * row["accuracy"][step] for row in rows])

    def drop(self, rows: Iterable[Row], step: str = "tuned") -> Statistic | None:
        """From the float network on the same samples, in points; losses are negative."""
        return Statistic.of(
            [100 * (row["accuracy"][step] - row["accuracy"]["float"]) for row in rows]
        )

    def settings(self, grid: str) -> list[str]:
        """The planned settings of a grid, most bits first."""
        found = dict.fromkeys(place[3] for place in self._planned if place[0] == grid)
        return sorted(found, key=bits_of, reverse=True)

    def variables(self, grid: str) -> list[str]:
        """The planned variables of a grid, in the order of the plan."""
        return list(dict.fromkeys(place[2] for place in self._planned if place[0] == grid))

    def tasks(self, grid: str) -> list[str]:
        """The planned tasks of a grid, in the order of the plan."""
        return list(dict.fromkeys(place[1] for place in self._planned if place[0] == grid))

    def all_rows(self, grid: str | None = None) -> list[Row]:
        """Every row of a grid, or of the plan."""
        return [
            row
            for place, seeds in self._planned.items()
            for row in seeds.values()
            if row is not None and grid in (None, place[0])
        ]

    def progress(self, grid: str) -> str:
        """E.g. "3 of 12 cells measured."."""
        planned = sum(len(seeds) for place, seeds in self._planned.items() if place[0] == grid)
        return f"{len(self.all_rows(grid))} of {planned} cells measured."


def bits_of(setting: str) -> tuple[int, ...]:
    """The numbers at the front of a setting: (4, 4) for "4/4 block", (4,) for "4/float"."""
    return tuple(int(part) for part in setting.split()[0].split("/") if part.isdigit())
