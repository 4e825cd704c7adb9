"""Tables of settings that the paper does not have, as Markdown."""

from __future__ import annotations

from benchmarks.study.measured import MISSING, Measured, mean_of
from benchmarks.study.tables import accuracy_text, markdown, points
from benchmarks.study.tasks import TASKS


def settings(measured: Measured, grid: str, beside: str = "") -> str:
    """Accuracy and drop from float by setting, variable and network.

    Args:
      measured: what is known.
      grid: whose settings.
      beside: a grid; add in brackets its drop of the same seeds at the same widths.
    """

    def text(task: str, variable: str, setting: str) -> str:
        rows = measured.rows(grid, task, variable, setting)
        if not rows:
            return MISSING
        drop = points(mean_of(measured.drop(rows)))
        if beside:
            seeds = {row["seed"] for row in rows}
            plain = measured.rows(beside, task, variable, setting.split()[0])
            partners = [row for row in plain if row["seed"] in seeds]
            drop += f" ({points(mean_of(measured.drop(partners)))})"
        return f"{accuracy_text(measured.accuracy(rows))}, {drop}"

    tasks = measured.tasks(grid)
    lines = [
        [setting, name, *(text(task, name, setting) for task in tasks)]
        for setting in measured.settings(grid)
        for name in measured.variables(grid)
    ]
    return markdown(["W/A", "variable", *(TASKS[task].network for task in tasks)], lines)
