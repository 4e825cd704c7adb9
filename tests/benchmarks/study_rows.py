"""Rows that nobody measured, for tests of what is done with rows."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import RESULTS
from benchmarks.study.measured import bits_of
from benchmarks.study.plan import Cell


def made_up_row(cell: Cell, tuned: float = 0.8, **fields: Any) -> dict[str, Any]:
    """A row of a cell with this accuracy at its end; the float network has 0.9."""
    weights, activations = (*bits_of(cell.setting), 8)[:2]
    return {
        "key": cell.key, "grid": cell.grid, "task": cell.task, "variable": cell.variable,
        "setting": cell.setting, "seed": cell.seed, "config": cell.full_config(), "results": RESULTS,
        "accuracy": {"float": 0.9, "ranges": 0.1, "reconstruction": 0.5, "tuned": tuned},
        "test_samples": 1000, "seconds": {"all": 1.0}, "versions": {"numpy": "2.0"},
        "cost": {"bops": weights * activations, "peak_memory_bytes": weights + activations},
        "float_cost": {
            "macs": 123_456, "paper_macs": 234_567, "parameters": 77_706,
            "peak_activation_elements": 49_152,
        },
        **fields,
    }  # fmt: skip
