"""A planned measurement, and which row is its own."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, read_rows, short_hash
from keras_lowbit import PTQConfig, variables


def full_config(config: PTQConfig) -> dict[str, Any]:
    """A configuration with all hyperparameters of its variables, JSON-able."""
    fields = json.loads(config.to_json())
    fields["optimize"] = [variables.get(v).to_dict() for v in config.optimize]
    return fields


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
      grid: the table or figure it was planned for.
      task: a name in :data:`benchmarks.study.tasks.TASKS`.
      variable: what is optimised, in the paper's words, or "ranges".
      setting: which of the grid's settings, e.g. "4/4" or "3/3 block".
      config: how the network is quantized.
      seed: of the calibration samples and of the optimisation.
    """

    grid: str
    task: str
    variable: str
    setting: str
    config: PTQConfig
    seed: int = 0

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row: task, full configuration and seed."""
        return short_hash([self.task, self.full_config(), self.seed])

    def full_config(self) -> dict[str, Any]:
        """The configuration with all hyperparameters of its variables, JSON-able."""
        return full_config(self.config)

    def __str__(self) -> str:
        return f"{self.task} {self.variable} {self.setting} seed {self.seed}"


def rows_of_today(path: Path, key_of: Callable[[Row, Any], str]) -> list[Row]:
    """The rows of a file with their keys as of today.

    A field that a configuration or variable has got since a row was measured counts at its
    default, so that rows outlive it; a row with a field that is no more keeps its key.

    Args:
      path: of the file.
      key_of: the key of what a row measured, from the row and its configuration, if it has one.
    """

    def key_today(row: Row) -> str:
        try:
            config = row["config"] and PTQConfig.from_json(json.dumps(row["config"]))
            return key_of(row, config)
        except ValueError:
            return row["key"]

    rows = [row | {"key": key_today(row)} for row in read_rows(path)]
    return list({row["key"]: row for row in rows}.values())  # measured again: the last


def known_rows(path: Path) -> list[Row]:
    """The rows of a file; see :func:`rows_of_today`."""
    return rows_of_today(
        path, lambda row, config: Cell(row["grid"], row["task"], "", "", config, row["seed"]).key
    )
