"""The figures of the study, drawn from rows; the same rows give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.study.grids import RANGES, VARIABLES
from benchmarks.study.measured import Measured, Statistic, bits_of
from benchmarks.study.panels import FIRST, SECOND, Line, canvas, look, panels
from benchmarks.study.tables import best_variable
from benchmarks.study.tasks import MAIN_TASKS, TASKS

REFERENCE = 8  # bits that Figure 8 is relative to


def initialization(measured: Measured, path: Path) -> None:
    """Figure 4: ranges only, by method and width."""
    settings = measured.settings("figure_four")
    methods = list(dict.fromkeys(setting.partition(" ")[2] for setting in settings))

    def line(index: int, method: str) -> Line:
        def value(task: str, widths: str) -> Statistic | None:
            rows = measured.rows("figure_four", task, "ranges", f"{widths} {method}")
            return measured.accuracy(rows, "ranges")

        weights, activations, *equalized = method.split()
        name = " ".join([f"{weights}/{activations}", *equalized])
        main = not equalized and activations in RANGES
        return name, value, look(index, FIRST if main else SECOND)

    lines = [line(index, method) for index, method in enumerate(methods)]
    panels(measured, "figure_four", lines, "accuracy by ranges of W/A, %", path)


def weights_only(measured: Measured, path: Path) -> None:
    """Figure 5: activations as good as float."""

    def line(index: int, name: str) -> Line:
        return name, lambda task, widths: measured.accuracy(
            measured.rows("figure_five", task, name, widths)
        ), look(index)  # fmt: skip

    lines = [line(index, name) for index, name in enumerate(VARIABLES)]
    panels(measured, "figure_five", lines, "accuracy, %", path)


def granularity(measured: Measured, path: Path) -> None:
    """Figure 6: layer by layer and block by block."""

    def line(index: int, name: str, grid: str, suffix: str) -> Line:
        def value(task: str, widths: str) -> Statistic | None:
            first_seed = measured.rows(grid, task, name, f"{widths}{suffix}")[:1]
            return measured.accuracy(first_seed)

        block = bool(suffix)
        label = f"{name}, {'blocks' if block else 'layers'}"
        return label, value, look(index, SECOND if block else FIRST)

    lines = [
        line(index, name, grid, suffix)
        for index, name in enumerate(VARIABLES)
        if name != "bits"
        for grid, suffix in (("table_two", ""), ("figure_six", " block"))
    ]
    panels(measured, "figure_six", lines, "accuracy, %", path)


def bias_tuning(measured: Measured, path: Path) -> None:
    """Figure 7: before and after bias tuning."""

    def line(index: int, name: str, step: str, style: str) -> Line:
        return (
            f"{name}, {'tuned' if step == 'tuned' else 'not tuned'}",
            lambda task, widths: measured.accuracy(
                measured.rows("table_two", task, name, widths), step
            ),
            look(index, style),
        )

    lines = [
        line(index, name, step, style)
        for index, name in enumerate(VARIABLES)
        for step, style in (("tuned", FIRST), ("reconstruction", SECOND))
    ]
    panels(measured, "table_two", lines, "accuracy, %", path)


def cost(measured: Measured, path: Path) -> None:
    """Figure 8: drop of the best variable against cost relative to 8 bits."""
    costs = {"bops": "bit operations", "peak_memory_bytes": "peak memory"}
    with canvas(path, 2, 3.0) as axes:
        for axis, (name, text) in zip(axes, costs.items(), strict=True):
            for index, task in enumerate(MAIN_TASKS):
                points = _cost_and_drop(measured, task, name)
                spent = [point.cost for point in points]
                drops = [point.drop for point in points]
                axis.plot(spent, drops, label=TASKS[task].network, **look(index))
                if points and not axis.texts:
                    for point in points:
                        axis.annotate(
                            point.setting, (point.cost, 1), xycoords=("data", "axes fraction"),
                            ha="center", va="bottom", fontsize="small",
                        )  # fmt: skip
            axis.set_xlabel(f"{text}, % of those at {REFERENCE}/{REFERENCE}")
            axis.set_ylabel("drop from float, points")


class _Point(NamedTuple):
    setting: str
    cost: float  # relative
    drop: float


def _cost_and_drop(measured: Measured, task: str, name: str) -> list[_Point]:
    """A point per width, for the variable that is best there."""
    found = []
    reference = None
    for setting in measured.settings("table_two"):
        best = best_variable(measured, "table_two", task, setting)
        drop = measured.drop(best[1]) if best else None
        if best is None or drop is None:
            continue
        spent = best[1][0]["cost"][name]
        if bits_of(setting)[0] == REFERENCE:
            reference = spent
        if reference:
            found.append(_Point(setting, 100 * spent / reference, drop.mean))
    return found
