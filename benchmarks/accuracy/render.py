"""The page of what our recipes reach, from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.plan import MIXED, SETTINGS, TASKS
from benchmarks.intervals import Agreement, bootstrap_interval
from benchmarks.qat.render import drops as labelled_drops
from benchmarks.rows import Row, is_of_today, mark, older_rows, states_of_source
from benchmarks.study import paper
from benchmarks.study.grids import VARIABLES
from benchmarks.study.measured import MISSING, Statistic
from benchmarks.study.tables import markdown, points
from benchmarks.study.tasks import one_task
from keras_lowbit import RECIPES

FINDINGS = Path(__file__).with_name("findings.md")
NAMES = {MIXED: "3 bits on average, A8"}
HEAD = """# Accuracy

What the three recipes reach on the four networks of the study. Accuracy points lost from the float network, of the
simulation, on the test samples of `docs/study.md`; mean and standard deviation over seeds, and their number in
brackets. "4/4" is weights, activations and the network's input at 4 bits; "edge-8" the same with 8 bits for the input, the
first and the last layer, which is what the paper's figures belong to (`docs/study.md`); "W4A8" is weights at
4 and everything else at 8. The paper's column is the best of its four variables, from its float network. At ° all are
of algorithms before today's.

`make accuracy` measures the rows that are missing, `make accuracy-report` writes this page.
"""


def page(rows: Sequence[Row], trained: Sequence[Row] = ()) -> str:
    """Markdown.

    Args:
      rows: of :mod:`benchmarks.accuracy.measure`, in any order.
      trained: of :mod:`benchmarks.qat.measure`, likewise.
    """
    used = [*rows, *trained]
    parts = [HEAD, *(f"{line}\n" for line in (*states_of_source(used), *older_rows(used)))]
    parts += [f"## {recipe}\n\n{drops(rows, recipe)}\n" for recipe in reversed(list(RECIPES))]
    parts += [f"## With labels\n\n{LABELS}\n{labelled_drops(trained)}\n"]
    parts += [f"## Confidence\n\n{CONFIDENCE}\n{intervals(rows)}\n", f"## Time\n\n{times(rows)}\n"]
    return "\n".join(parts) + "\n" + FINDINGS.read_text()


LABELS = """Measured by `python -m benchmarks.qat run`: the result of the recipe "default" goes on with labels, by nothing but
`qmodel.model.fit` with `keras_lowbit.RelativeAdam`. What the whole training set does not bring back is lost by the format,
or by training for so few epochs: they are in brackets. Points lost before and after it, seed 0. Only CIFAR-10 and UCI HAR have a
training set here; the other two networks learn from the few labelled samples at hand, and are no
such reference.
"""

CONFIDENCE = """The same test samples go through both networks, so the difference is better known than either
accuracy. 95 % intervals of the drop of "best", seed 0, over resampled test sets, paired, in points. Samples
are taken as independent. Windows of the HAR CNN overlap and are of nine people, and clips share speakers: there the truth is wider.
"""


def drops(rows: Sequence[Row], recipe: str) -> str:
    """Settings by networks, one recipe."""
    lines = []
    for setting in SETTINGS:
        cells = [_drop(_of(rows, task, recipe, setting)) for task in TASKS]
        lines.append([NAMES.get(setting, setting), *_beside_paper(setting, cells)])
    return markdown(["", *_networks("paper")], lines)


def intervals(rows: Sequence[Row]) -> str:
    """Settings by networks: the interval of the first seed of the best recipe."""
    lines = []
    for setting in SETTINGS:
        texts = []
        for task in TASKS:
            first = next((r for r in _of(rows, task, "best", setting) if r["seed"] == 0), None)
            texts.append(MISSING if first is None else _interval(first))
        lines.append([NAMES.get(setting, setting), *texts])
    return markdown(["", *_networks()], lines)


def times(rows: Sequence[Row]) -> str:
    """Recipes by networks: seconds of one thread."""
    lines = []
    for recipe in RECIPES:
        texts = []
        for task in TASKS:
            seconds = [r["seconds"]["cpu"] for s in SETTINGS for r in _of(rows, task, recipe, s)]
            texts.append(f"{sum(seconds) / len(seconds):.0f} s" if seconds else MISSING)
        lines.append([recipe, *texts])
    return "CPU time of `quantize`, mean over the rows of today's algorithms.\n\n" + markdown(
        ["", *_networks()], lines
    )


def _networks(beside: str = "") -> list[str]:
    names = [one_task(task).network for task in TASKS]
    return [text for name in names for text in ((name, beside) if beside else (name,))]


def _of(rows: Sequence[Row], task: str, recipe: str, setting: str) -> list[Row]:
    """Those of today's algorithms, and older ones where there are none."""
    wanted = (task, recipe, setting)
    found = [r for r in rows if (r["task"], r["recipe"], r["setting"]) == wanted]
    return [r for r in found if is_of_today(r)] or found


def _drop(rows: Sequence[Row]) -> str:
    values = [100 * (r["accuracy"]["quantized"] - r["accuracy"]["float"]) for r in rows]
    statistic = Statistic.of(values)
    if statistic is None:
        return MISSING
    spread = "" if statistic.deviation is None else f" ± {statistic.deviation:.2f}"
    older = "°" * any(not is_of_today(row) for row in rows)
    return f"{points(statistic.mean)}{spread} ({statistic.count}){older}"


def _beside_paper(setting: str, cells: Sequence[str]) -> list[str]:
    texts = []
    for task, cell in zip(TASKS, cells, strict=True):
        bits = int(setting[0]) if "/" in setting else 0
        printed = (paper.drop(bits, variable, task) for variable in VARIABLES)
        known = [drop for drop in printed if drop is not None]
        texts += [cell, points(max(known)) if known else MISSING]
    return texts


def _interval(row: Row) -> str:
    low, high = bootstrap_interval(Agreement(**row["agreement"]))
    # Losses are negative in the tables above.
    return f"{points(-100 * high)} to {points(-100 * low)}{mark(row)}"
