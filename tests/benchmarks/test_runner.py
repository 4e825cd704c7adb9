"""The runner: what is measured is kept, what is missing is measured, nobody else writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_rows import made_up_row
from test_backends import _becomes, cells, dask, loky, ray

from benchmarks.rows import read_rows
from benchmarks.study import backends
from benchmarks.study.backends import Backend
from benchmarks.study.plan import Cell
from benchmarks.study.results_file import ResultsFile
from benchmarks.study.runner import run
from keras_lowbit import PTQConfig


def cell(bits: int) -> Cell:
    """A cell of a few seconds: ranges only."""
    config = PTQConfig(weight_bits=bits, optimize=(), tune=(), calibration_samples=32)
    return Cell("test", "digits", "ranges", f"{bits}/8", config)


def silent(text: str) -> None:
    del text


def measured_on_digits(folder: Path) -> Callable[[Cell], dict[str, Any]]:
    """Measures on the embedded digits; the cell of 3 bits kills its first worker."""

    def work(cell: Cell) -> dict[str, Any]:
        from benchmarks.study.cell import measure
        from benchmarks.study.tasks import Samples, Task
        from models import digits
        from models.data import load_digits

        been_here = folder / "been here"
        if cell.config.weight_bits == 3 and not been_here.exists():
            been_here.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        def samples(seed: int) -> Samples:
            data = load_digits()
            return Samples(data.x_train[seed:][:32], data.x_test[:64], data.y_test[:64])

        return measure(cell, Task("digits", "Digits", digits.load, samples))

    return work


@pytest.mark.parametrize("backend", [loky, dask, ray])
def test_rows_arrive_once_though_a_worker_dies(
    backend: Callable[[], Backend], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    planned = [cell(bits) for bits in (4, 3, 2, 8)]
    path = tmp_path / "rows.jsonl"
    assert run(planned, measured_on_digits(tmp_path), backend(), path, silent) == {}
    rows = read_rows(path)
    assert sorted(row["key"] for row in rows) == sorted(cell.key for cell in planned)
    for row in rows:
        assert list(row["accuracy"]) == ["float", "ranges", "reconstruction", "tuned"]
        assert row["test_samples"] == 64
    assert run(planned, _never, backends.sequential, path, silent) == {}
    assert read_rows(path) == rows


def _never(cell: Any) -> dict[str, Any]:
    raise AssertionError(f"{cell} is measured already")


def stuck_at_first(folder: Path) -> Callable[[Any], dict[str, Any]]:
    """Notes every cell it measures; "c" and "d" never end the first time."""

    def work(cell: Any) -> dict[str, Any]:
        been_here = folder / f"begun {cell.key}"
        if cell.key in "cd" and not been_here.exists():
            been_here.touch()
            time.sleep(600)
        with (folder / "measured").open("a") as notes:
            notes.write(cell.key)
        return {"key": cell.key, "accuracy": {}, "seconds": {"all": 0.0}}

    return work


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """By SIGKILL, with two rows on disk, two cells under way and two not begun."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from test_runner import run_stuck_at_first\n"
        "run_stuck_at_first(Path(sys.argv[1]))\n"
    )
    tests, path = Path(__file__).parents[1], tmp_path / "rows.jsonl"
    places = [str(place) for place in (tests.parent, tests, tests / "benchmarks")]
    runner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *places])
    try:
        begun = [tmp_path / "begun c", tmp_path / "begun d"]
        assert _becomes(lambda: all(been_here.exists() for been_here in begun))
        assert _becomes(lambda: len(read_rows(path)) == 2)
    finally:
        runner.kill()
        runner.wait()
    assert sorted(row["key"] for row in read_rows(path)) == ["a", "b"]
    assert run_stuck_at_first(tmp_path) == {}
    assert sorted(row["key"] for row in read_rows(path)) == list("abcdef")
    assert sorted((tmp_path / "measured").read_text()) == list("abcdef")


def run_stuck_at_first(folder: Path) -> dict[str, str]:
    work, path = stuck_at_first(folder), folder / "rows.jsonl"
    return run(cells(*"abcdef"), work, loky(), path, silent, read_rows)


def test_an_error_is_reported_by_name_and_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def work(cell: Cell) -> dict[str, Any]:
        if cell.config.weight_bits == 3:
            raise ValueError("three is not liked")
        return made_up_row(cell)

    said: list[str] = []
    failed = run([cell(2), cell(3), cell(4)], work, backends.sequential, path, said.append)
    assert list(failed) == ["digits ranges 3/8 seed 0"]
    assert "three is not liked" in failed["digits ranges 3/8 seed 0"]
    assert "digits ranges 3/8 seed 0" in said[-1]
    assert {row["key"] for row in read_rows(path)} == {cell(2).key, cell(4).key}
    assert run([cell(2), cell(3)], made_up_row, backends.sequential, path, silent) == {}
    assert [row["key"] for row in read_rows(path)] == [cell(2).key, cell(4).key, cell(3).key]


def test_cells_that_grids_share_are_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    run([cell(2), cell(3), cell(2)], made_up_row, backends.sequential, path, silent)
    assert [row["key"] for row in read_rows(path)] == [cell(2).key, cell(3).key]


def test_a_half_written_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = json.dumps(made_up_row(cell(2))) + "\n"
    path.write_text(whole + whole[:40])
    said: list[str] = []
    run([cell(2), cell(3)], made_up_row, backends.sequential, path, said.append)
    assert "half-written" in said[0]
    assert [row["key"] for row in read_rows(path)] == [cell(2).key, cell(3).key]


def test_a_broken_line_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a"}\n{"ke\n')
    with pytest.raises(ValueError, match="line 2"):
        run([cell(2)], made_up_row, backends.sequential, path, silent)


def test_a_second_run_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with ResultsFile(path, silent), pytest.raises(ValueError, match="Another run"):
        run([cell(2)], made_up_row, backends.sequential, path, silent)
    assert run([cell(2)], made_up_row, backends.sequential, path, silent) == {}


def test_rows_are_on_disk_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    seen = []

    def work(cell: Cell) -> dict[str, Any]:
        seen.append(len(read_rows(path)))
        return made_up_row(cell)

    run([cell(2), cell(3), cell(4)], work, backends.sequential, path, silent)
    assert seen == [0, 1, 2]


def test_rows_go_to_a_file_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def work(cell: Cell) -> dict[str, Any]:
        if cell.config.weight_bits == 3:  # as git does
            copy = tmp_path / "copy"
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
        if cell.config.weight_bits == 4:
            path.unlink()
        return made_up_row(cell)

    run([cell(2), cell(3)], work, backends.sequential, path, silent)
    assert [row["key"] for row in read_rows(path)] == [cell(2).key, cell(3).key]
    run([cell(4), cell(5)], work, backends.sequential, path, silent)
    assert [row["key"] for row in read_rows(path)] == [cell(4).key, cell(5).key]
