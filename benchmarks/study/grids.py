"""What the study measures: cells, in the order of work.

A grid stands for a table or figure of the paper. Figures 7 and 8 have none: every row holds the
accuracy after each step and the cost. Cells that two grids share are measured once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from benchmarks.study.plan import Cell
from benchmarks.study.tasks import MAIN_TASKS
from keras_lowbit import PTQConfig

# The optimization variables by the paper's names, with their hyperparameters.
VARIABLES: dict[str, dict[str, Any]] = {
    "qparam": {"name": "lsq"},
    "weights": {"name": "adaquant"},
    "bits": {"name": "bitsplit"},
    "round": {"name": "adaround"},
}
BEST_VARIABLES = ("weights", "round")  # ahead of the others wherever bits are few
BEST_VARIABLE = "round"  # of these, with 8-bit activations
LOW_WIDTHS, ALL_WIDTHS = (4, 3, 2), (4, 3, 2, 8, 5, 6)
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)  # of Table 2, whose cells take under a minute
FLOAT_LIKE = 16  # activation bits that lose nothing
RANGES = ("minmax", "mse")
EDGE_EIGHT: dict[str, Any] = {"first_last_bits": 8, "input_bits": 8}
QUICK: dict[str, Any] = {"steps": 60, "tune_steps": 60}


def paper_config(bits: int, variable: str, **overrides: Any) -> PTQConfig:
    """The paper's own setting; ``variable`` in its words. All hyperparameters are chosen here."""
    fields: dict[str, Any] = {
        "units": "layer", "optimize": (VARIABLES[variable],), "weight_grid": "full",
        "weight_range": "mse", "activation_range": "mse",
        "tune": ("bias",), "tune_steps": 500, "augment": "none",
    }  # fmt: skip
    return PTQConfig.uniform(bits, **{**fields, **overrides})


def ranges_config(
    bits: int, weights: str, activations: str, equalize: bool = False, **overrides: Any
) -> PTQConfig:
    """Initial ranges only, nothing optimised."""
    return PTQConfig.uniform(
        bits, weight_grid="full", weight_range=weights, activation_range=activations,
        equalize=equalize, optimize=(), tune=(), augment="none",
        **overrides,
    )  # fmt: skip


def layerwise(
    grid: str, tasks: Iterable[str], widths: Iterable[int], seeds: Iterable[int], **overrides: Any
) -> list[Cell]:
    """The paper's setting with every variable."""
    return [
        Cell(grid, task, name, f"{bits}/{bits}", paper_config(bits, name, **overrides), seed)
        for seed, bits, task, name in itertools.product(seeds, widths, tasks, VARIABLES)
    ]


def table_two() -> list[Cell]:
    """Variables by widths by networks; more seeds where they differ."""
    first = layerwise("table_two", MAIN_TASKS, ALL_WIDTHS, SEEDS[:1])
    return first + layerwise("table_two", MAIN_TASKS, LOW_WIDTHS, (*SEEDS[1:], *MORE_SEEDS))


def figure_four(
    tasks: Iterable[str] = MAIN_TASKS, widths: Iterable[int] = (8, 6, 5, 4, 3, 2)
) -> list[Cell]:
    """Initial ranges: both methods for weights and activations, the better one equalized, and ours."""
    settings = [(*pair, False) for pair in itertools.product(RANGES, RANGES)]
    return [
        Cell("figure_four", task, "ranges",
             f"{bits}/{bits} {weights} {activations}{' equalized' * equalize}",
             ranges_config(bits, weights, activations, equalize))
        for task, bits, (weights, activations, equalize) in itertools.product(
            tasks, widths, [*settings, ("mse", "mse", True), ("mse", "output", False)]
        )
    ]  # fmt: skip


def figure_five(
    tasks: Iterable[str] = MAIN_TASKS, widths: Iterable[int] = (2, 3, 4, 5), **overrides: Any
) -> list[Cell]:
    """Weights only."""
    wide = dict.fromkeys(("activation_bits", "input_bits", "linear_activation_bits"), FLOAT_LIKE)
    return [
        Cell("figure_five", task, name, f"{bits}/float",
             paper_config(bits, name, **wide, **overrides))
        for task, bits, name in itertools.product(tasks, widths, VARIABLES)
    ]  # fmt: skip


def figure_six(
    tasks: Iterable[str] = ("res8", "ds_cnn", "mobilenet"),
    widths: Iterable[int] = LOW_WIDTHS,
    grid: str = "figure_six",
    **overrides: Any,
) -> list[Cell]:
    """Block by block; the layerwise partner is a cell of Table 2. Bits are layerwise by design."""
    names = [name for name in VARIABLES if name != "bits"]
    return [
        Cell(grid, task, name, f"{bits}/{bits} block",
             paper_config(bits, name, units="block", **overrides))
        for bits, task, name in itertools.product(widths, tasks, names)
    ]  # fmt: skip


def output_ranges() -> list[Cell]:
    """Beyond the paper: Table 2's low widths, with the ranges of least error at the output."""
    return [
        dataclasses.replace(cell, setting=f"{cell.setting} output ranges")
        for cell in layerwise(
            "output_ranges", MAIN_TASKS, LOW_WIDTHS, SEEDS[:1], activation_range="output"
        )
        if cell.variable in ("weights", "round")
    ]


def wide_input() -> list[Cell]:
    """Table 2's low widths with the network's input at 8 bits: what the input alone costs."""
    return [
        dataclasses.replace(cell, setting=f"{cell.setting} input 8")
        for cell in layerwise("wide_input", MAIN_TASKS, LOW_WIDTHS, SEEDS[:1], input_bits=8)
        if cell.variable in ("weights", "round")
    ]


def edge_eight() -> list[Cell]:
    """Table 2 with 8 bits at both ends, which is what much of the literature does unsaid."""
    first = layerwise("edge_eight", MAIN_TASKS, (*LOW_WIDTHS, 5), SEEDS[:1], **EDGE_EIGHT)
    more = layerwise("edge_eight", MAIN_TASKS, LOW_WIDTHS, SEEDS[1:], **EDGE_EIGHT)
    return first + [cell for cell in more if cell.variable in BEST_VARIABLES]


def edge_eight_blocks() -> list[Cell]:
    """Blocks where the uniform setting has lost the input before the first of them: DS-CNN."""
    return figure_six(("ds_cnn",), grid="edge_eight_blocks", **EDGE_EIGHT)


def equalized_weights() -> list[Cell]:
    """What equalization does to the weights alone."""
    wide = dict.fromkeys(("activation_bits", "input_bits", "linear_activation_bits"), FLOAT_LIKE)
    return [
        Cell("equalized_weights", task, "ranges", f"{bits}/float{' equalized' * equalize}",
             ranges_config(bits, "mse", "mse", equalize, **wide))
        for bits, task, equalize in itertools.product(LOW_WIDTHS, MAIN_TASKS, (False, True))
    ]  # fmt: skip


def device() -> list[Cell]:
    """Low-bit weights with 8-bit activations, the best variables: what pays on stock kernels."""
    wide = {"activation_bits": 8, "input_bits": 8}
    return [
        Cell("device", task, name, f"{bits}/8", paper_config(bits, name, **wide), seed)
        for seed, name, bits, task in itertools.product(
            SEEDS, BEST_VARIABLES, LOW_WIDTHS, MAIN_TASKS
        )
        if seed == 0 or name == BEST_VARIABLE
    ]  # fmt: skip


def second_res8() -> list[Cell]:
    """Res8 of our own training by the official recipe."""
    return layerwise("second_res8", ("res8_recipe",), (8, *LOW_WIDTHS), SEEDS[:1])


def second_res8_edge_eight() -> list[Cell]:
    """The same with 8 bits at both ends."""
    return layerwise(
        "second_res8_edge_eight", ("res8_recipe",), LOW_WIDTHS, SEEDS[:1], **EDGE_EIGHT
    )


def ds_cnn_calib() -> list[Cell]:
    """DS-CNN calibrated on the few training clips at hand."""
    return layerwise("ds_cnn_calib", ("ds_cnn_calib",), LOW_WIDTHS, SEEDS[:1])


def quick() -> list[Cell]:
    """Something in every table and figure, with few steps: a smoke test, not the study."""
    return [
        *layerwise("table_two", MAIN_TASKS, (4, 2), SEEDS[:1], **QUICK),
        *(cell for cell in layerwise("table_two", MAIN_TASKS, (8,), SEEDS[:1], **QUICK)
          if cell.variable == BEST_VARIABLE),
        *figure_four(("ds_cnn",), (4, 3)),
        *figure_five(("ds_cnn",), (4, 2), **QUICK),
        *figure_six(("ds_cnn",), (4, 2), **QUICK),
    ]  # fmt: skip


GRIDS = {
    grid.__name__: grid
    for grid in (
        table_two, edge_eight, device, figure_four, figure_five, figure_six, output_ranges,
        wide_input, second_res8, second_res8_edge_eight, ds_cnn_calib, edge_eight_blocks,
        equalized_weights,
    )
}  # fmt: skip


def cells_of(names: Iterable[str]) -> list[Cell]:
    """The cells of these grids in the order of work: the first seed of everything goes first.

    Raises:
      ValueError: there is no such grid.
    """
    names = list(names)
    unknown = [name for name in names if name not in GRIDS]
    if unknown:
        raise ValueError(f"Unknown grid. Expected some of {list(GRIDS)}. Received: {unknown}")
    cells = [cell for name in names for cell in GRIDS[name]()]
    return sorted(cells, key=lambda cell: cell.seed > 0)
