"""The page and the figure of what a budget buys, from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.budgets.plan import FRONT, KINDS, SAME, SHARES, TASKS
from benchmarks.intervals import Agreement, bootstrap_interval
from benchmarks.rows import Row, older_rows, states_of_source
from benchmarks.study.measured import MISSING
from benchmarks.study.panels import canvas, look
from benchmarks.study.tables import markdown, points
from benchmarks.study.tasks import one_task

HEAD = """# Bits within a budget

What `quantize(budget=...)` and `pareto` reach on the four networks of the study (`docs/study.md`): the bits of every kernel
chosen layer by layer from 2, 3, 4, 6 and 8, activations of 8 bits, beside the same bits everywhere. All are quantized
by the recipe "fast", seed 0. Points are accuracy gained (+) or lost (−) against the float network on the test samples of
`docs/study.md`, with the 95 % interval of a paired bootstrap over them.
"front" are the points of one call of `pareto`. The other limits are shares of what the network takes with 8 bits
everywhere: half of its flash; three quarters of it with an arena that may grow by a quarter; half of its bit operations.
"2 bits, narrow", "full" and "midrise" are two bits everywhere with the levels -1, 0, 1, with -2 to 1 and with -1.5, -0.5, 0.5, 1.5 times the
scale, in place of those of "fast" ("centred"): "midrise", and for output channels of fewer than 64 weights "full" or -1 to 2 where that suits them. All run on the same integer
kernels.
Bits are listed in the order of the network. Flash is the file for TFLM, `export(packing="auto", strip="micro")`; the arena is TFLM's on a 64-bit host.

`python -m benchmarks.budgets run` measures the rows that are missing (`make budgets`), `make budgets-report` writes this page.
"""

FINDINGS = """## What it shows

- Chosen bits beat the same bits everywhere where layers differ. With as many bytes as two bits everywhere Res8 loses 9.6 points in place of 11.7, DS-CNN
  3.6 for 5.9, MobileNetV1 4.4 for 6.8: 4 bits cost small kernels nothing where tables of 2 bits are as large. In files 4 % larger than with 3 bits everywhere Res8
  loses 1.1 for 2.7, MobileNetV1 0.4 for 1.0. Half of the flash of 8 bits costs Res8 0.9 points, MobileNetV1 0.3. The test set of
  MobileNetV1 has 1,000 images: its intervals overlap.
- For the HAR CNN, nearly all of whose weights are in one layer, the same bits everywhere are as good.
- Within half of the bit operations nothing is gained, beyond chance, over 4 bits everywhere, which take as many.
- A file also holds what no choice of bits makes smaller, a quarter of DS-CNN's: half of its flash leaves hardly more than two bits
  a weight.
- TFLM expands a layer with tables in RAM. The dense layer of the HAR CNN is 508 kB: within an arena that grows by a quarter it has to
  stay at 8 bits, and the budget is refused.
- At 2 bits the levels around zero ("midrise") lose 4 to 6 points less than "narrow" and "full" on Res8 and DS-CNN. Zero on a level where small
  kernels gain by it wins another 4.8 on MobileNetV1 and 1.2 on DS-CNN, and loses 0.2 on Res8, in files 2 to 3 % larger; "narrow", with three codes, saves some bytes a table.
"""


def page(rows: Sequence[Row], figure: Path) -> str:
    """Markdown.

    Args:
      rows: of :mod:`benchmarks.budgets.measure`, in any order.
      figure: where the drawing is, seen from the page.
    """
    parts = [
        HEAD,
        *(f"{line}\n" for line in (*states_of_source(rows), *older_rows(rows))),
        f"![Points lost over the size of the file]({figure.as_posix()})\n",
    ]
    for task in TASKS:
        found = _of(rows, task)
        if found:
            parts.append(f"## {one_task(task).network}\n\n{table(found)}\n\n{times(found)}\n")
    return "\n".join([*parts, FINDINGS])


def table(rows: Sequence[Row]) -> str:
    """One network: limits by what they took."""
    header = [
        "", "bits of the kernels", "bits a weight", "flash", "arena", "MBOPs", "points",
    ]  # fmt: skip
    return markdown(header, [_line(row) for row in _without_repeated(rows)])


def times(rows: Sequence[Row]) -> str:
    """How long the front took, and a quantization with and without a search, in seconds."""
    done = [row for row in rows if not row["refused"]]
    told = {
        "`pareto`, wall time": [r["seconds"]["front"] for r in done if r["kind"] == FRONT],
        "`quantize` within a limit, CPU": [r["seconds"]["cpu"] for r in done if r["kind"] in SHARES],
        "without, CPU": [r["seconds"]["cpu"] for r in done if r["kind"] == SAME],
    }  # fmt: skip
    means = [f"{name} {sum(s) / len(s):.0f} s" for name, s in told.items() if s]
    return f"Time, one thread of a machine in use: {'; '.join(means)}."


def draw(rows: Sequence[Row], path: Path) -> None:
    """Points lost over kilobytes, a panel per network."""
    tasks = [task for task in TASKS if _of(rows, task)]
    with canvas(path, max(len(tasks), 1), 2.0) as axes:
        for axis, task in zip(axes, tasks, strict=False):
            for index, kind in enumerate((SAME, FRONT)):
                chosen = [row for row in _of(rows, task) if row["kind"] == kind]
                chosen.sort(key=lambda row: row["reached"]["flash"])
                sizes = [row["reached"]["flash"] / 1000 for row in chosen]
                axis.plot(sizes, [_lost(row) for row in chosen], label=kind, **look(index))
            axis.set_title(one_task(task).network)
            axis.set_xlabel("flash, kB")
        axes[0].set_ylabel("points lost")


def _of(rows: Sequence[Row], task: str) -> list[Row]:
    chosen = [row for row in rows if row["task"] == task]
    return sorted(chosen, key=lambda row: (KINDS.index(row["kind"]), row["number"]))


def _without_repeated(rows: Sequence[Row]) -> list[Row]:
    """A front may have fewer points than were asked for; the last one is then measured again."""
    return [
        row for row in rows if row["kind"] != FRONT or row["number"] < row["promised"]["points"]
    ]


def _line(row: Row) -> list[str]:
    limits = row["promised"] if row["kind"] in SHARES else {}
    if row["refused"]:
        asked = ", ".join(f"{name} {most:,}" for name, most in limits.items())
        return [row["kind"], f"cannot be kept: {asked}", *[MISSING] * 5]
    reached = row["reached"]
    number = f" {row['number']}" if row["kind"] == SAME else ""

    def with_limit(name: str, unit: float, text: str) -> str:
        most = f" of {limits[name] / unit:{text}}" if name in limits else ""
        return f"{reached[name] / unit:{text}}{most}"

    return [
        f"{row['kind']}{number}", " ".join(map(str, row["weight_bits"].values())),
        f"{reached['average_weight_bits']:.2f}", with_limit("flash", 1, ",.0f"),
        with_limit("arena", 1, ",.0f"), with_limit("bops", 1e6, ",.1f"), _points(row),
    ]  # fmt: skip


def _points(row: Row) -> str:
    low, high = bootstrap_interval(Agreement(**row["agreement"]))
    return f"{points(-_lost(row))} [{points(-100 * high)}, {points(-100 * low)}]"


def _lost(row: Row) -> float:
    return 100 * (row["accuracy"]["float"] - row["accuracy"]["quantized"])
