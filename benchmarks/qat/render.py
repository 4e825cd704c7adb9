"""What labels add, from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.qat.plan import CONFIGS, NETWORKS
from benchmarks.rows import Row, is_of_today, mark
from benchmarks.study.measured import MISSING
from benchmarks.study.tables import markdown, points
from benchmarks.study.tasks import one_task


def drops(rows: Sequence[Row]) -> str:
    """Settings by networks: the drop of the default result, then after training, both in points.

    Where several recipes were measured, the one of most epochs counts, and of these the last. Those that began with
    older algorithms count where there are no others, marked with °.

    Args:
      rows: of :mod:`benchmarks.qat.measure`, in any order; those of ``--validate`` do not count.
    """
    tested = [row for row in rows if row["evaluated_on"] == "test samples"]
    lines = []
    for setting in CONFIGS:
        texts = []
        for task in NETWORKS:
            measured = [r for r in tested if (r["task"], r["setting"]) == (task, setting)]
            measured.sort(key=lambda r: (is_of_today(r), r["recipe"]["epochs"]))
            texts.append(_text(measured[-1]) if measured else MISSING)
        lines.append([setting, *texts])
    return markdown(["", *(one_task(task).network for task in NETWORKS)], lines)


def _text(row: Row) -> str:
    accuracy = row["accuracy"]
    before, after = (100 * (accuracy[n] - accuracy["float"]) for n in ("quantized", "trained"))
    epochs = row["recipe"]["epochs"]
    return f"{points(before)} to {points(after)} ({epochs}){mark(row)}"
