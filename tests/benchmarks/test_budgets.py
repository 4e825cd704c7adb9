"""What a budget buys: the plan, rows that keep their limits, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.budgets import plan, render
from benchmarks.budgets.measure import measure
from benchmarks.budgets.plan import (
    ARENA,
    BOPS,
    FLASH,
    FRONT,
    GRIDS,
    KINDS,
    POINTS,
    SAME,
    TASKS,
    WIDTHS,
    Cell,
    cells,
    known_rows,
)
from benchmarks.study.tasks import Samples, Task
from models import digits
from models.data import load_digits

pytest.importorskip("sklearn")
pytest.importorskip("tflite_micro")


def samples(seed: int) -> Samples:
    data = load_digits()
    return Samples(data.x_train[seed:][:64], data.x_test, data.y_test)


TASK = Task("digits", "Digits", digits.load, samples)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """The last point of the front, two bits everywhere, and every limit."""
    planned = [
        Cell("digits", FRONT, POINTS - 1), Cell("digits", SAME, 2),
        *(Cell("digits", kind) for kind in (FLASH, ARENA, BOPS)),
    ]  # fmt: skip
    return {cell.kind: measure(cell, TASK) for cell in planned}


def test_every_cell_is_another_one() -> None:
    planned = cells(TASKS)
    assert len({cell.key for cell in planned}) == len(TASKS) * (
        POINTS + len(WIDTHS) + len(GRIDS) + 3
    )
    assert {cell.kind for cell in planned} == set(KINDS)
    narrow, full, midrise = (Cell("res8", kind).config for kind in GRIDS)
    assert [config.weight_bits for config in (narrow, full, midrise)] == [2, 2, 2]
    assert [config.weight_grid for config in (narrow, full, midrise)] == [*GRIDS.values()]
    with pytest.raises(ValueError, match=r"Expected some of .*'res8'.*Received: \['res9'\]"):
        cells(["res9"])


def test_limits_are_kept_and_used(rows: dict[str, dict[str, Any]]) -> None:
    for kind, name in ((FLASH, "flash"), (BOPS, "bops")):
        limits, reached = rows[kind]["promised"], rows[kind]["reached"]
        assert set(limits) == {name}
        assert 0.9 * limits[name] < reached[name] <= limits[name]
        assert len(set(rows[kind]["weight_bits"].values())) > 1


def test_a_limit_that_cannot_be_kept_is_a_row_with_the_reason(rows: dict[str, Any]) -> None:
    refused = rows[ARENA]
    assert set(refused["promised"]) == {"flash", "arena"}
    assert "The smallest `flash` that was tried for the arena's sake is" in refused["refused"]
    assert not {"reached", "weight_bits"} & set(refused)


def test_the_largest_point_of_the_front_has_all_bits(rows: dict[str, dict[str, Any]]) -> None:
    last = rows[FRONT]
    assert last["reached"]["flash"] > rows[SAME]["reached"]["flash"]
    assert abs(last["reached"]["flash"] - last["promised"]["flash"]) < 100
    assert last["accuracy"]["quantized"] > last["accuracy"]["float"] - 0.02
    assert set(rows[SAME]["weight_bits"].values()) == {2}


def test_the_page_and_its_figure(rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    known = [row | {"task": "res8"} for row in rows.values()]
    render.draw(known, tmp_path / "budgets.svg")
    assert "points lost" in (tmp_path / "budgets.svg").read_text()
    page = render.page(known, Path("figures/budgets.svg"))
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    shown = [line.split("|")[1].strip() for line in lines[2:]]
    assert shown == [FRONT, f"{SAME} 2", FLASH, ARENA, BOPS]
    assert f"| {ARENA} | cannot be kept: flash" in page
    assert f"{rows[FLASH]['reached']['flash']:,} of {rows[FLASH]['promised']['flash']:,}" in page


def test_a_front_of_fewer_points_shows_none_twice(rows: dict[str, dict[str, Any]]) -> None:
    last = rows[FRONT] | {"task": "res8"}
    again = last | {"number": last["promised"]["points"]}
    page = render.page([last, again], Path("budgets.svg"))
    assert page.count(f"| {FRONT} |") == 1


def test_rows_are_found_again_until_what_is_asked_changes(
    rows: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    earlier = [row | {"key": "of an earlier version"} for row in rows.values()]
    path.write_text("".join(json.dumps(row) + "\n" for row in earlier))
    assert [row["key"] for row in known_rows(path)] == [row["key"] for row in rows.values()]
    monkeypatch.setitem(plan.SHARES, FLASH, {"flash": 0.4})
    known = {row["key"] for row in known_rows(path)}
    planned = [Cell(row["task"], row["kind"], row["number"]) for row in rows.values()]
    assert {cell.kind for cell in planned if cell.key not in known} == {FLASH}
    monkeypatch.setattr(plan, "CANDIDATE_BITS", (2, 4))
    planned = [Cell(row["task"], row["kind"], row["number"]) for row in rows.values()]
    assert {cell.kind for cell in planned if cell.key in known} == {SAME}
