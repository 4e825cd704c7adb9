"""Every backend brings every cell home once, whatever the cells do to their workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import backends, clusters
from benchmarks.study.backends import Backend
from benchmarks.study.worker import KILLED_TWICE, Outcome, attempt

JOBS = 2


def loky() -> Backend:
    return lambda work, cells: backends.loky(work, cells, JOBS)


def dask() -> Backend:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    return lambda work, cells: clusters.dask(work, cells, JOBS)


def ray() -> Backend:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    return lambda work, cells: clusters.ray(work, cells, JOBS)


def cells(*keys: str) -> list[Any]:
    """Stand-ins for cells, which workers can read without importing TensorFlow."""
    return [types.SimpleNamespace(key=key) for key in keys]


def deadly(folder: Path) -> Callable[[Any], dict[str, Any]]:
    """Work that does what the cell's key says; a function that workers need not import."""

    def work(cell: Any) -> dict[str, Any]:
        been_here = folder / cell.key
        first_time = not been_here.exists()
        been_here.touch()
        if cell.key == "kills always" or (cell.key == "kills once" and first_time):
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.key == "raises":
            raise ValueError("no such thing")
        return {"key": cell.key, "pid": os.getpid()}

    return work


def by_key(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    assert len({outcome.cell.key for outcome in outcomes}) == len(outcomes)
    return {outcome.cell.key: outcome for outcome in outcomes}


@pytest.mark.parametrize("backend", [loky, dask, ray])
def test_deaths_and_errors_do_not_stop_the_others(
    backend: Callable[[], Backend], tmp_path: Path
) -> None:
    planned = cells("a", "kills once", "raises", "b", "kills always", "c", "d", "e")
    outcomes = by_key(list(backend()(deadly(tmp_path), planned)))
    assert set(outcomes) == {cell.key for cell in planned}
    for key in ("a", "b", "c", "d", "e", "kills once"):
        row = outcomes[key].row
        assert row is not None
        assert row["key"] == key
        assert row["pid"] != os.getpid()
    assert outcomes["kills always"].error == KILLED_TWICE
    assert outcomes["raises"].error.startswith("ValueError: no such thing (")


def test_sequential_works_here_and_in_order() -> None:
    outcomes = list(backends.sequential(lambda cell: {"key": cell.key}, cells("a", "b")))
    assert [outcome.row for outcome in outcomes] == [{"key": "a"}, {"key": "b"}]


def test_one_job_has_a_process_of_its_own(tmp_path: Path) -> None:
    outcomes = backends.loky(deadly(tmp_path), cells("kills once", "a"), jobs=1)
    assert sorted(outcome.cell.key for outcome in outcomes if outcome.row) == ["a", "kills once"]


def test_attempt_tells_where_an_error_arose() -> None:
    def work(cell: Any) -> dict[str, Any]:
        raise KeyError(cell)

    outcome = attempt(work, "x")
    assert outcome.row is None
    assert "KeyError: 'x'" in outcome.error
    assert __file__ in outcome.error


def test_workers_do_not_outlive_a_killed_runner(tmp_path: Path) -> None:
    script = (
        "import sys, types\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from benchmarks.study import backends\n"
        "from test_backends import sleeping\n"
        "cells = [types.SimpleNamespace(key=key) for key in 'ab']\n"
        "list(backends.loky(sleeping(sys.argv[1]), cells, 2))\n"
    )
    places = (str(Path(__file__).parents[2]), str(Path(__file__).parent))
    runner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *places])
    try:
        assert _becomes(lambda: len(list(tmp_path.iterdir())) == JOBS)
    finally:
        runner.kill()
        runner.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert _becomes(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def sleeping(folder: str) -> Callable[[Any], dict[str, Any]]:
    """Work that leaves its process number and takes longer than any test."""

    def work(cell: Any) -> dict[str, Any]:
        (Path(folder) / str(os.getpid())).touch()
        time.sleep(600)
        return {"key": cell.key}

    return work


def _becomes(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.1)
    return true()
