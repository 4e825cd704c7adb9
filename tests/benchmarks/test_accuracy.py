"""What the recipes reach: the plan, a row, the page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rows
from benchmarks.accuracy import plan, render
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.plan import MIXED, SETTINGS, TASKS, Cell, cells, known_rows
from benchmarks.rows import of_today, older_rows
from benchmarks.study.backends import sequential
from benchmarks.study.runner import run
from benchmarks.study.tasks import Samples, Task
from keras_lowbit import RECIPES
from models import digits
from models.data import load_digits

pytest.importorskip("sklearn")


def samples(seed: int) -> Samples:
    data = load_digits()
    return Samples(data.x_train[seed:][:64], data.x_test, data.y_test)


TASK = Task("digits", "Digits", digits.load, samples)


def row(cell: Cell, accuracy: float) -> dict[str, Any]:
    right = round(1000 * accuracy)
    return {
        "key": cell.key, **dataclasses.asdict(cell),
        "accuracy": {"float": 0.9, "quantized": accuracy},
        "agreement": {"both": right, "float_only": 900 - right, "quantized_only": 0, "neither": 100},
        "seconds": {"cpu": 60.0},
    }  # fmt: skip


def test_every_cell_is_another_one() -> None:
    planned = cells(TASKS, RECIPES, SETTINGS)
    assert len({cell.key for cell in planned}) == len(planned) == 4 * 10 * (1 + 1 + 3)
    assert cells(["res8"], ["fast"], ["W4A8"], [2]) == [Cell("res8", "fast", "W4A8", 2)]
    ends = Cell("res8", "best", "3/3 edge-8").config
    assert (ends.weight_bits, ends.activation_bits) == (3, 3)
    assert (ends.input_bits, ends.first_last_bits) == (8, 8)
    with pytest.raises(ValueError, match=r"Expected some of \['fast'.*Received: \['slow'\]"):
        cells(TASKS, ["slow"], SETTINGS)


@pytest.mark.parametrize("setting", ["W2A8", MIXED])
def test_a_row_tells_what_was_measured(setting: str) -> None:
    measured = measure(Cell("digits", "fast", setting), TASK)
    assert 0.5 < measured["accuracy"]["quantized"] <= 1
    assert sum(measured["agreement"].values()) == measured["test_samples"] == 450
    bits = set(measured["weight_bits"].values())
    assert bits == {2} if setting == "W2A8" else len(bits) > 1


def test_rows_are_found_again_by_what_they_say(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    planned = [Cell("digits", "fast", setting) for setting in ("W2A8", MIXED)]
    found = [measure(cell, TASK) | {"key": "of an earlier version"} for cell in planned]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    keys = [cell.key for cell in planned]
    assert [known["key"] for known in known_rows(path)] == keys
    monkeypatch.setattr(plan, "AVERAGE_BITS", 2.5)
    assert [known["key"] for known in known_rows(path)] == keys
    assert Cell("digits", "fast", "W2A8").key == keys[0]
    assert Cell("digits", "fast", MIXED).key != keys[1]


def test_rows_of_older_algorithms_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    cell = Cell("digits", "fast", "W2A8")

    def missing() -> int:
        """How many are measured, by a stand-in for the network of the study."""
        counted: list[str] = []

        def work(cell: Cell) -> Any:
            counted.append(str(cell))
            return measure(cell, TASK)

        assert not run([cell], work, sequential, path, lambda _: None, of_today(known_rows))
        return len(counted)

    assert [missing(), missing()] == [1, 0]
    monkeypatch.setattr(rows, "RESULTS", rows.RESULTS + 1)
    assert older_rows(known_rows(path)) == [
        "1 of 1 rows of keras_lowbit are of its algorithms before today's, and are to be measured again."
    ]
    assert "(1)°" in render.page([row | {"task": "res8"} for row in known_rows(path)])
    monkeypatch.setattr("benchmarks.accuracy.measure.RESULTS", rows.RESULTS)
    assert [missing(), missing()] == [1, 0]
    assert len(path.read_text().splitlines()) == 2
    [newest] = known_rows(path)
    assert newest["results"] == rows.RESULTS
    assert older_rows([newest, {"config": None}]) == []


def test_the_page_shows_drops_with_seeds_and_the_paper() -> None:
    found = [
        row(Cell("res8", "best", "4/4", 0), 0.89), row(Cell("res8", "best", "4/4", 1), 0.87),
        row(Cell("res8", "fast", "W2A8"), 0.5),
    ]  # fmt: skip
    page = render.page(found)
    assert "| 4/4 | −2.00 ± 1.41 (2) | −0.84 |" in page
    assert "| W2A8 | −40.00 (1) | – |" in page
    parts = ["## best", "## fast", "## With labels", "## Confidence"]
    assert sorted(map(page.index, parts)) == list(map(page.index, parts))
    (line,) = [
        x for x in page[page.index("## Confidence") :].splitlines() if x.startswith("| 4/4 |")
    ]
    low, _, high = line.split("|")[2].replace("−", "-").split()
    assert float(low) < -1 < float(high) < 0
    older = render.page([found[0] | {"config": {"bits": 4}, "results": rows.RESULTS - 1}])
    assert line.split("|")[2].strip() + "°" in older[older.index("## Confidence") :]
