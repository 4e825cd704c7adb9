"""The plan of the study, and the data that its cells calibrate and are evaluated on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from study_rows import made_up_row

from benchmarks.study import grids
from benchmarks.study.plan import Cell, known_rows
from benchmarks.study.tasks import TASKS
from keras_lowbit import PTQConfig


def test_every_cell_is_planned_once() -> None:
    planned = grids.cells_of(grids.GRIDS)
    assert len({cell.key for cell in planned}) == len(planned)
    assert {cell.task for cell in planned} == set(TASKS)
    assert all(PTQConfig.from_json(c.config.to_json()) == c.config for c in planned)


def test_first_seeds_go_first() -> None:
    later = [cell.seed > 0 for cell in grids.cells_of(grids.GRIDS)]
    assert later == sorted(later)


def test_settings_are_those_of_the_paper() -> None:
    config = grids.paper_config(3, "weights")
    assert (config.weight_bits, config.activation_bits, config.input_bits) == (3, 3, 3)
    assert (config.units, config.tune) == ("layer", ("bias",))
    assert (config.weight_range, config.activation_range) == ("mse", "mse")
    assert {c.config.activation_bits for c in grids.figure_five()} == {grids.FLOAT_LIKE}
    blocks = grids.figure_six()
    assert {c.config.units for c in blocks} == {"block"}
    assert {c.variable for c in blocks} == {"qparam", "weights", "round"}
    assert all(not c.config.optimize and not c.config.tune for c in grids.figure_four())


def test_unknown_grid() -> None:
    with pytest.raises(ValueError, match="figure_nine"):
        grids.cells_of(["figure_nine"])


def test_key_tells_what_determines_a_row() -> None:
    def cell(task: str, variable: str, seed: int, **overrides: object) -> Cell:
        return Cell("a", task, variable, "", grids.paper_config(4, variable, **overrides), seed)

    one = cell("res8", "round", 0)
    explicit = json.loads(json.dumps(one.full_config()["optimize"]))
    assert cell("res8", "round", 0, optimize=explicit).key == one.key
    others = [
        cell("ds_cnn", "round", 0), cell("res8", "weights", 0), cell("res8", "round", 1),
        cell("res8", "round", 0, steps=7),
    ]  # fmt: skip
    assert len({one.key, *(other.key for other in others)}) == 5


def test_rows_outlive_new_fields_of_the_configuration(tmp_path: Path) -> None:
    cell = grids.table_two()[0]
    row = made_up_row(cell) | {"key": "of those days"}
    del row["config"]["equalize"]
    strange = made_up_row(cell) | {"key": "kept"}
    strange["config"]["no_more"] = 1
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (row, strange)))
    assert [row["key"] for row in known_rows(path)] == [cell.key, "kept"]


SIZES = {
    "res8": (1024, 10_000), "res8_recipe": (1024, 10_000), "mobilenet": (1024, 1000),
    "har_cnn": (1024, 2947), "ds_cnn_calib": (1024, 4890),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SIZES))
def test_samples_of_tasks(name: str, shared_data: Path) -> None:
    first, again, other = (TASKS[name].data(seed) for seed in (0, 0, 1))
    assert (len(first.calibration), len(first.x_test)) == SIZES[name]
    assert len(first.y_test) == len(first.x_test)
    assert len(first.calibration_labels) == len(first.calibration)
    assert np.array_equal(first.calibration, again.calibration)
    assert not np.array_equal(first.calibration, other.calibration)


@pytest.mark.slow
def test_folds_calibrate_and_the_others_evaluate(shared_data: Path) -> None:
    sizes = set()
    for seed in range(5):
        samples = TASKS["ds_cnn"].data(seed)
        assert len(samples.calibration) + len(samples.x_test) == 4890
        sizes.add(len(samples.calibration))
    assert sizes <= {977, 978, 979}
    with pytest.raises(ValueError, match="fold"):
        TASKS["ds_cnn"].data(5)
