"""How figures of the study are drawn: their looks, and panels of lines over bit widths.

The same rows give the same bytes: no date, no random names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.rows import Row
from benchmarks.study.measured import Measured, Statistic, mean_of
from benchmarks.study.tasks import TASKS

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "keras_lowbit", "svg.fonttype": "none", "font.size": 9.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "lines.linewidth": 1.5, "lines.markersize": 4.0,
}  # fmt: skip
# Colours that the colour-blind can tell apart (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
FIRST, SECOND = "-", ":"  # line styles

# Its label, its value for a task and widths as in "4/4", and how it is drawn.
Line = tuple[str, Callable[[str, str], Statistic | None], dict[str, Any]]


def look(index: int, style: str = FIRST) -> dict[str, Any]:
    """How the line of this index is drawn."""
    return {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": style}


def panels(measured: Measured, grid: str, lines: Sequence[Line], label: str, path: Path) -> None:
    """One panel per task; widths from left to right, most bits first; the float network dashed."""
    tasks = measured.tasks(grid)
    widths = list(dict.fromkeys(s.split()[0] for s in measured.settings(grid)))
    with canvas(path, len(tasks), 2.0) as axes:
        for axis, task in zip(axes, tasks, strict=True):
            for name, value, style in lines:
                _draw(axis, [value(task, width) for width in widths], label=name, **style)
            floats = _float_accuracy(measured.all_rows(grid), task)
            if floats is not None:
                axis.axhline(floats, color="grey", linestyle="--", linewidth=1, label="float")
            axis.set_title(TASKS[task].network)
            axis.set_xticks(range(len(widths)), widths)
            axis.set_xlabel("bits, weights/activations")
        axes[0].set_ylabel(label)


@contextlib.contextmanager
def canvas(path: Path, columns: int, inches: float) -> Iterator[Sequence[Any]]:
    """Axes side by side, ``inches`` wide each; written to ``path`` on leaving, with one legend."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + inches * columns, 3.2), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        yield axes
        handles = {
            label: handle
            for axis in axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns + 1,
            frameon=False,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw(axis: Any, statistics: Sequence[Statistic | None], **style: Any) -> None:
    known = [(place, s) for place, s in enumerate(statistics) if s is not None]
    axis.plot([place for place, _ in known], [s.mean for _, s in known], **style)
    spread = [(place, s.mean, s.deviation) for place, s in known if s.deviation is not None]
    for place, mean, deviation in spread:
        ends = (mean - deviation, mean + deviation)
        axis.plot((place, place), ends, color=style["color"], linewidth=1)


def _float_accuracy(rows: Iterable[Row], task: str) -> float | None:
    values = [100 * row["accuracy"]["float"] for row in rows if row["task"] == task]
    return mean_of(Statistic.of(values))
