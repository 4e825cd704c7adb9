"""The page of the study: every figure of it follows from rows, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_rows import made_up_row

from benchmarks.rows import RESULTS
from benchmarks.study import beyond, grids, paper, render, tables
from benchmarks.study.measured import MISSING, Measured, Statistic, bits_of


def cells(grid: str, **wanted: object) -> list[grids.Cell]:
    """Cells of a grid whose attributes are as wanted."""
    return [
        cell
        for cell in grids.GRIDS[grid]()
        if all(getattr(cell, name) == value for name, value in wanted.items())
    ]


def line_of(text: str, *start: str) -> list[str]:
    """The cells of the first line of a table that starts so."""
    head = f"| {' | '.join(start)} |"
    line = next(line for line in text.splitlines() if line.startswith(head))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_statistic_of_seeds() -> None:
    assert Statistic.of([]) is None
    assert Statistic.of([1.0]) == Statistic(1.0, None, 1)
    assert Statistic.of([1.0, 3.0]) == Statistic(2.0, pytest.approx(2**0.5), 2)


@pytest.mark.parametrize(
    ("setting", "bits"),
    [("4/4", (4, 4)), ("2/2 block", (2, 2)), ("3/float", (3,)), ("2/8", (2, 8))],
)
def test_bits_of_setting(setting: str, bits: tuple[int, ...]) -> None:
    assert bits_of(setting) == bits


def test_table_two_has_mean_deviation_and_count() -> None:
    planned = cells("table_two")
    chosen = cells("table_two", task="res8", variable="round", setting="4/4")
    rows = [made_up_row(cell, 0.80 + 0.02 * cell.seed) for cell in chosen]
    text = tables.accuracies(Measured(planned, rows), "table_two", ["res8", "ds_cnn"])
    assert line_of(text, "4/4", "round") == ["4/4", "round", "84.00 ± 3.16 (5)", MISSING]
    text = tables.drops(Measured(planned, rows), "table_two", ["res8", "ds_cnn"])
    assert line_of(text, "4/4", "round")[2:] == ["−6.00 (−1.41)", f"{MISSING} (−4.70)"]


def test_best_of_four_is_the_smallest_drop() -> None:
    planned = cells("table_two", seed=0)
    chosen = cells("table_two", seed=0, task="res8", setting="3/3")
    rows = [made_up_row(c, 0.88 if c.variable == "bits" else 0.5) for c in chosen]
    text = tables.best_of_four(Measured(planned, rows))
    assert line_of(text, "3/3", "Res8")[2:5] == ["−3.54 (round)", "−2.00 (bits, 1)", "+1.54"]
    assert line_of(text, "2/2", "Res8")[2:] == ["−17.35 (round)", *[MISSING] * 6]


def test_best_of_four_is_chosen_by_the_seeds_that_all_have() -> None:
    """A single seed may be lucky; three are worse in the mean."""
    planned = cells("table_two", task="res8", setting="3/3")
    rows = [made_up_row(c, 0.85 - 0.1 * c.seed) for c in planned if c.variable == "round"]
    rows += [made_up_row(c, 0.80) for c in planned if c.variable != "round" and c.seed == 0]
    text = tables.best_of_four(Measured(planned, rows))
    assert line_of(text, "3/3", "Res8")[3] == "−25.00 (round, 5)"


def test_variants_stand_beside_the_same_seeds_of_table_two() -> None:
    planned = [*cells("table_two", task="res8"), *cells("output_ranges", task="res8")]
    plain = cells("table_two", task="res8", variable="round", setting="4/4")
    variant = cells("output_ranges", task="res8", variable="round", setting="4/4 output ranges")
    rows = [made_up_row(cell, 0.8 - 0.1 * cell.seed) for cell in plain]
    rows.append(made_up_row(variant[0], 0.85))
    text = beyond.settings(Measured(planned, rows), "output_ranges", beside="table_two")
    line = line_of(text, "4/4 output ranges", "round")
    assert line[2] == "85.00 (1), −5.00 (−10.00)"


def test_table_one_stands_beside_the_paper() -> None:
    planned = cells("table_two", seed=0)
    text = tables.table_one(Measured(planned, [made_up_row(c) for c in planned[:1]]))
    line = line_of(text, "Res8")
    assert line[1:4] == ["90.00", "± 1.86, n = 1,000", "86.75"]
    assert line[4:7] == ["123,456", "234,567", "12,591,808"]
    assert line_of(text, "HAR CNN")[1] == MISSING


def test_rows_of_another_configuration_are_not_shown() -> None:
    planned = cells("table_two", seed=0)
    row = made_up_row(planned[0]) | {"key": "0123456789abcdef"}
    assert Measured(planned, [row]).all_rows() == []


def test_paper_table_is_whole() -> None:
    assert paper.float_accuracy("mobilenet") == 85.10
    assert paper.drop(2, "round", "res8") == -17.35
    assert all(
        paper.drop(bits, variable, task) is not None
        for bits in grids.ALL_WIDTHS
        for variable in grids.VARIABLES
        for task in grids.MAIN_TASKS
    )


def test_page_from_few_rows(tmp_path: Path) -> None:
    planned = grids.cells_of(grids.GRIDS)
    few = [*cells("table_two", seed=0)[::7], *cells("figure_four")[::9], *cells("figure_six")[:2]]
    rows = [made_up_row(cell, 0.6 + 0.01 * bits_of(cell.setting)[0]) for cell in few]
    findings = "text before\n\n## Figure 4\n\nWe found **this**.\n"
    for folder in ("first", "second"):
        render.write(planned, rows, tmp_path / folder / "study.md", findings)
    page = (tmp_path / "first" / "study.md").read_text()
    assert f"**{len(few)} of {len({c.key for c in planned})} cells measured.**" in page
    assert page.count("We found **this**.") == 1
    assert page.index("figure_4.svg") < page.index("We found") < page.index("## Figure 5")
    assert "text before" not in page
    assert "algorithms before" not in page
    rows[0]["results"] = RESULTS - 1
    render.write(planned, rows, tmp_path / "study.md")
    older = f"1 of {len(rows)} rows of keras_lowbit are of its algorithms before today's"
    assert older in (tmp_path / "study.md").read_text()
    names = sorted(path.name for path in (tmp_path / "first" / "figures").iterdir())
    assert names == [f"figure_{number}.svg" for number in (4, 6, 7, 8)]  # no row for Figure 5
    for path in (tmp_path / "first").rglob("*.*"):
        twin = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == twin.read_bytes()
    assert b"<dc:date>" not in (tmp_path / "first" / "figures" / "figure_4.svg").read_bytes()


def test_page_without_rows(tmp_path: Path) -> None:
    render.write(grids.quick(), [], tmp_path / "study.md", note="a note")
    page = (tmp_path / "study.md").read_text()
    assert "**0 of" in page
    assert "a note" in page
    assert not (tmp_path / "figures").exists()


def test_findings_need_a_known_heading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Figure 99"):
        render.write([], [], tmp_path / "study.md", "## Figure 99\n\ntext\n")
