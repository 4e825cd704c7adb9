"""The tables of the study as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from benchmarks.rows import Row
from benchmarks.study import paper
from benchmarks.study.grids import VARIABLES
from benchmarks.study.measured import MISSING, Measured, Statistic, bits_of, mean_of
from benchmarks.study.tasks import MAIN_TASKS, TASKS

TWO_SIGMA = 1.96  # of a normal distribution lie 95 % within


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def accuracy_text(statistic: Statistic | None) -> str:
    """E.g. "84.45 ± 0.10 (3)", the number of seeds in brackets."""
    if statistic is None:
        return MISSING
    spread = "" if statistic.deviation is None else f" ± {statistic.deviation:.2f}"
    return f"{statistic.mean:.2f}{spread} ({statistic.count})"


def points(value: float | None) -> str:
    """A difference of accuracies, with its sign."""
    return MISSING if value is None else f"{value + 0.0:+.2f}".replace("-", "−")


def table_one(measured: Measured) -> str:
    """The float networks: ours beside the paper's columns."""
    lines = []
    for task, printed in paper.TABLE_ONE.items():
        # The float accuracy of seeds that are evaluated on other samples differs a little.
        rows = [r for r in measured.all_rows() if r["task"] == task]
        known = next((r["float_cost"] for r in rows if "float_cost" in r), None)
        by_seed = {row["seed"]: 100 * row["accuracy"]["float"] for row in rows}
        accuracy = Statistic.of(list(by_seed.values()))
        samples = rows[0]["test_samples"] if rows else None
        lines.append([
            TASKS[task].network,
            MISSING if accuracy is None else f"{accuracy.mean:.2f}",
            _interval(accuracy, samples), f"{paper.float_accuracy(task):.2f}",
            *(_count(known and known[name]) for name in ("macs", "paper_macs")),
            f"{printed.macs:,}",
            _count(known and known["parameters"]), f"{printed.parameters:,}",
            _count(known and known["peak_activation_elements"]), f"{printed.peak_activation:,}",
        ])  # fmt: skip
    header = [
        "network", "float accuracy", "95 % interval of the test sample", "paper's", "MACs",
        "MACs as the paper counts", "paper's", "parameters", "paper's",
        "peak activation, elements", "paper's",
    ]  # fmt: skip
    return markdown(header, lines)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _interval(accuracy: Statistic | None, samples: int | None) -> str:
    if accuracy is None or not samples:
        return MISSING
    share = accuracy.mean / 100
    width = 100 * TWO_SIGMA * math.sqrt(share * (1 - share) / samples)
    return f"± {width:.2f}, n = {samples:,}"


def accuracies(measured: Measured, grid: str, tasks: Iterable[str]) -> str:
    """Accuracy by width, variable and network."""
    return _by_width(
        measured, grid, tasks,
        lambda task, bits, name, rows: accuracy_text(measured.accuracy(rows)),
    )  # fmt: skip


def drops(measured: Measured, grid: str, tasks: Iterable[str]) -> str:
    """Drop from float by width, variable and network, the paper's in brackets."""

    def text(task: str, bits: int, name: str, rows: list[Row]) -> str:
        return f"{points(mean_of(measured.drop(rows)))} ({points(paper_drop(bits, name, task))})"

    return _by_width(measured, grid, tasks, text)


def paper_drop(bits: int, variable: str, task: str) -> float | None:
    """The paper's drop; its networks go by the names of the main tasks."""
    network = {"res8_recipe": "res8", "ds_cnn_calib": "ds_cnn"}.get(task, task)
    return paper.drop(bits, variable, network)


def _by_width(
    measured: Measured,
    grid: str,
    tasks: Iterable[str],
    text: Callable[[str, int, str, list[Row]], str],
) -> str:
    tasks = list(tasks)
    lines = [
        [setting, name, *(
            text(task, bits_of(setting)[0], name, measured.rows(grid, task, name, setting))
            for task in tasks
        )]
        for setting in measured.settings(grid)
        for name in VARIABLES
    ]  # fmt: skip
    return markdown(["W/A", "variable", *(TASKS[task].network for task in tasks)], lines)


def best_variable(
    measured: Measured, grid: str, task: str, setting: str
) -> tuple[str, list[Row]] | None:
    """The variable that drops least, and its rows; chosen on the test samples, as in the paper.

    It is chosen by the seeds that all variables have: the mean of one seed varies more than that of
    three.
    """
    candidates = [(name, measured.rows(grid, task, name, setting)) for name in VARIABLES]
    known = [(name, rows) for name, rows in candidates if rows]
    if not known:
        return None
    shared = set.intersection(*({row["seed"] for row in rows} for _, rows in known))

    def drop(pair: tuple[str, list[Row]]) -> float:
        return mean_of(measured.drop([row for row in pair[1] if row["seed"] in shared])) or 0.0

    return max(known, key=drop)


def best_of_four(measured: Measured) -> str:
    """The best variable's drop against that of the paper's best, in other settings too."""
    lines = []
    for setting in measured.settings("table_two"):
        bits = bits_of(setting)[0]
        for task in MAIN_TASKS:
            theirs = {name: paper.drop(bits, name, task) for name in VARIABLES}
            least = max((drop for drop in theirs.values() if drop is not None), default=None)
            name = next((name for name, drop in theirs.items() if drop == least), MISSING)
            ours = [
                best_variable(measured, "table_two", task, setting),
                best_variable(measured, "edge_eight", task, setting),
                best_variable(measured, "output_ranges", task, f"{setting} output ranges"),
            ]
            lines.append([
                setting, TASKS[task].network, f"{points(least)} ({name})",
                *(text for best in ours for text in _against(measured, best, least)),
            ])  # fmt: skip
    header = [
        "W/A", "network", "paper's", "ours (variable, seeds)", "ours less paper's",
        "edge-8", "less paper's", "with output ranges", "less paper's",
    ]  # fmt: skip
    return markdown(header, lines)


def _against(
    measured: Measured, best: tuple[str, list[Row]] | None, theirs: float | None
) -> tuple[str, str]:
    """A drop, and by how much it is smaller than theirs."""
    ours = mean_of(measured.drop(best[1])) if best else None
    if best is None or ours is None:
        return MISSING, MISSING
    gain = None if theirs is None else ours - theirs
    return f"{points(ours)} ({best[0]}, {len(best[1])})", points(gain)
