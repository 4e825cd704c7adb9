"""The page of the study from rows alone: tables, figures, and what was found, written by hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.rows import Row, older_rows, states_of_source
from benchmarks.study.contents import (
    BEYOND_TABLES,
    FIGURES,
    INTRODUCTION,
    PAPER_TABLES,
    Figure,
    Table,
)
from benchmarks.study.measured import Measured
from benchmarks.study.plan import Cell


def write(
    cells: Iterable[Cell], rows: Iterable[Row], path: Path, findings: str = "", note: str = ""
) -> None:
    """Write the page and its figures.

    Args:
      cells: what was planned.
      rows: what was measured.
      path: of the page; the figures go to ``figures/`` beside it.
      findings: Markdown; what stands under a heading is put behind the table or figure of that name.
      note: stands behind the introduction.

    Raises:
      ValueError: findings under a heading that is no table or figure.
    """
    contents: tuple[Table | Figure, ...] = (*PAPER_TABLES, *FIGURES, *BEYOND_TABLES)
    found = sections(findings)
    titles = [entry.title for entry in contents]
    if strangers := [title for title in found if title not in titles]:
        raise ValueError(
            f"Findings need the heading of a table or figure. Expected some of {titles}. "
            f"Received: {strangers}"
        )
    cells = list(cells)
    measured = Measured(cells, rows)
    known = {row["key"] for row in measured.all_rows()}
    planned = {cell.key for cell in cells}
    parts = [INTRODUCTION, note, f"**{len(known)} of {len(planned)} cells measured.**"]
    parts += _versions(measured)
    for entry in contents:
        if not measured.tasks(entry.grid):
            continue
        parts.append(f"## {entry.title}")
        if isinstance(entry, Table):
            progress = measured.progress(entry.grid) if entry.counts_cells else ""
            parts += [entry.text, progress, entry.render(measured)]
        else:
            parts += _figure(entry, measured, path)
        parts.append(found.get(entry.title, ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(part.strip("\n") for part in parts if part) + "\n")


def _figure(figure: Figure, measured: Measured, path: Path) -> list[str]:
    """The paper's finding, and the figure if it has a row."""
    parts = [f"The paper's finding: {figure.finding}", measured.progress(figure.grid)]
    if measured.all_rows(figure.grid):
        figure.draw(measured, path.parent / "figures" / figure.file_name)
        parts.append(f"![{figure.title}](figures/{figure.file_name})")
    return parts


def sections(text: str) -> dict[str, str]:
    """The texts under headings of the second level, by heading."""
    found = re.split(r"^## +(.+?) *$", text, flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(found[::2], found[1::2], strict=True)}


def _versions(measured: Measured) -> list[str]:
    """What rows were measured with, the commonest first."""
    used = Counter(
        ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        for row in measured.all_rows()
    )
    lines = [f"{count} rows were measured with {text}." for text, count in used.most_common()]
    rows = measured.all_rows()
    return [*lines, *states_of_source(rows), *older_rows(rows)]
