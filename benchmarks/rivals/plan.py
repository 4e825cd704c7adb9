"""The measurements: which tool quantizes which network to how many bits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, short_hash
from benchmarks.study.plan import full_config, rows_of_today
from benchmarks.study.tasks import MAIN_TASKS
from keras_lowbit import PTQConfig
from keras_lowbit.recipes import fields_of

TASKS = MAIN_TASKS
# Bits of weights and activations. Below eight bits of activations the network input has as few.
SETTINGS = ("W8A8", "W4A8", "W3A8", "W2A8", "W4A4", "W3A3", "W2A2")
THREADS = 1  # so that two measurements beside each other do not slow each other down much
OURS, INCUMBENT, AEQ, MCT, TFMOT = (
    "keras_lowbit", "TFLiteConverter", "ai-edge-quantizer", "MCT", "tfmot",
)  # fmt: skip
DEFAULT = "default"  # of our recipes
MCT_ENVIRONMENT = Path("out/rivals/mct")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A tool and how it is used.

    Attributes:
      tool: its name.
      variant: what tells this use from others of the tool.
      module: quantizes, in a process of its own.
      options: JSON-able, for the module.
      environment: folder of the virtual environment it runs in; None for this one.
      tasks: what it is planned for.
    """

    tool: str
    variant: str
    module: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    environment: Path | None = None
    tasks: tuple[str, ...] = TASKS

    def __str__(self) -> str:
        return f"{self.tool} {self.variant}"


_MODULES = "benchmarks.rivals"
CONTESTANTS = (
    Contestant(OURS, DEFAULT, f"{_MODULES}.lowbit_tool"),
    *(
        Contestant(OURS, recipe, f"{_MODULES}.lowbit_tool", {"recipe": recipe})
        for recipe in ("fast", "best")
    ),
    Contestant(INCUMBENT, "int8", f"{_MODULES}.converter_tool"),
    *(
        Contestant(AEQ, variant, f"{_MODULES}.edge_tool", {"algorithm": algorithm})
        for variant, algorithm in (
            ("min-max", "MIN_MAX_UNIFORM_QUANT"), ("MSE", "MSE"), ("OCTAV", "OCTAV"),
        )
    ),
    Contestant(TFMOT, "n-bit QAT", f"{_MODULES}.qat_tool", {"epochs": 30, "learning_rate": 1e-4}),
    Contestant(MCT, "PTQ", f"{_MODULES}.mct_tool", environment=MCT_ENVIRONMENT),
    *(
        Contestant(MCT, f"GPTQ {epochs} epochs", f"{_MODULES}.mct_tool", {"epochs": epochs},
                   MCT_ENVIRONMENT, tasks)
        # Ten times the steps are hours a cell, but on the smallest network.
        for epochs, tasks in ((5, TASKS), (50, ("har_cnn",)))
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network quantized by one tool.

    Attributes:
      task: a name in :data:`benchmarks.study.tasks.TASKS`.
      contestant: the tool.
      setting: of :data:`SETTINGS`.
      seed: of the calibration samples and of what the tool draws.
      threads: that the tool may use.
    """

    task: str
    contestant: Contestant
    setting: str
    seed: int = 0
    threads: int = THREADS

    @property
    def weight_bits(self) -> int:
        """Of every kernel."""
        return int(self.setting[1])

    @property
    def activation_bits(self) -> int:
        """Of what feeds convolutions and dense layers."""
        return int(self.setting[3])

    @functools.cached_property
    def key(self) -> str:
        """A short hash of what determines the row."""
        return short_hash([
            self.task, self.contestant.tool, self.contestant.variant, self.contestant.options,
            self.setting, self.full_config(), self.seed, self.threads,
        ])  # fmt: skip

    def full_config(self) -> dict[str, Any] | None:
        """Our configuration with all hyperparameters, JSON-able; None for the other tools."""
        if self.contestant.tool != OURS:
            return None
        options = self.contestant.options
        return full_config(our_config(self.weight_bits, self.activation_bits, **options))

    def __str__(self) -> str:
        return f"{self.task} {self.setting} {self.contestant}"


def our_config(weight_bits: int, activation_bits: int, recipe: str = DEFAULT) -> PTQConfig:
    """A recipe at so many bits."""
    return PTQConfig(
        weight_bits=weight_bits, activation_bits=activation_bits, input_bits=activation_bits,
        **fields_of(recipe),
    )  # fmt: skip


def cells(
    tasks: Iterable[str] = TASKS,
    settings: Iterable[str] = SETTINGS,
    tools: Iterable[str] = (),
    seed: int = 0,
    threads: int = THREADS,
) -> list[Cell]:
    """The plan, task by task and setting by setting.

    Args:
      tasks: names.
      settings: of :data:`SETTINGS`.
      tools: their names, or those of contestants; none for all.
      seed: of every cell.
      threads: of every cell.
    """
    wanted = set(tools)
    contestants = [c for c in CONTESTANTS if not wanted or wanted & {c.tool, str(c)}]
    return [
        Cell(task, contestant, setting, seed, threads)
        for task in tasks
        for setting in settings
        for contestant in contestants
        if task in contestant.tasks
    ]


def known_rows(path: Path) -> list[Row]:
    """The rows of a file; see :func:`benchmarks.study.plan.rows_of_today`."""
    return rows_of_today(path, _key_of)


def _key_of(row: Row, config: PTQConfig | None) -> str:
    return short_hash([
        row["task"], row["tool"], row["variant"], row["options"], row["setting"],
        config and full_config(config), row["seed"], row["threads"],
    ])  # fmt: skip
