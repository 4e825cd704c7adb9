"""The side-by-side: what is planned, asked in other processes, kept, and rendered from rows alone."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import tf_keras
from networks import chain

from benchmarks.rivals import converter_tool, edge_tool, environments, render
from benchmarks.rivals.answers import Request
from benchmarks.rivals.measure import measure
from benchmarks.rivals.networks import networks_of
from benchmarks.rivals.plan import (
    AEQ,
    CONTESTANTS,
    INCUMBENT,
    MCT,
    OURS,
    SETTINGS,
    TFMOT,
    Cell,
    Contestant,
    cells,
    known_rows,
)
from benchmarks.rows import read_rows
from benchmarks.study import backends
from benchmarks.study.runner import run
from benchmarks.study.tasks import TASKS, Samples, Task

COUNT = 40

series = chain(
    (12, 3), lambda k: k.Conv1D(6, 3, strides=2, padding="same", name="first"),
    lambda k: k.BatchNormalization(), lambda k: k.ReLU(), lambda k: k.MaxPooling1D(2),
    lambda k: k.Flatten(), lambda k: k.Dense(5), lambda k: k.BatchNormalization(),
    lambda k: k.Dense(4, activation="softmax", name="last"),
)  # fmt: skip


def contestant(name: str) -> Contestant:
    """The one of this name, or the first of this tool."""
    return next(c for c in CONTESTANTS if name in (c.tool, str(c)))


@pytest.fixture(scope="module")
def tiny() -> Task:
    """A network of random weights; the labels are what it says."""
    model = networks.randomize(series(tf_keras))
    [x] = networks.samples(model, 3 * COUNT)
    labels = model.predict(x, verbose=0).argmax(axis=1)
    samples = Samples(x[:COUNT], x[COUNT:], labels[COUNT:], labels[:COUNT])
    return Task("tiny", "Tiny", lambda: model, lambda seed: samples)


def trained_briefly() -> Contestant:
    return dataclasses.replace(contestant(TFMOT), options={"epochs": 1, "learning_rate": 1e-3})


@pytest.fixture(scope="module")
def rows(tiny: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Measured as `run` does it, in processes, and resumed."""
    folder = tmp_path_factory.mktemp("rivals")
    path = folder / "rows.jsonl"
    planned = [
        Cell("tiny", contestant(INCUMBENT), "W4A4"),
        Cell("tiny", trained_briefly(), "W4A8"),
    ]
    asked: list[str] = []

    def work(cell: Cell) -> dict[str, Any]:
        asked.append(str(cell))
        return measure(cell, folder / "inputs", tiny)

    for these in (planned[:1], planned, planned):
        assert run(these, work, backends.sequential, path, lambda text: None, known_rows) == {}
    assert asked == [str(cell) for cell in planned]
    found = read_rows(path)
    assert [row["key"] for row in found] == [cell.key for cell in planned]
    return {f"{row['tool']} {row['setting']}": row for row in found}


def test_plan() -> None:
    planned = cells()
    assert len(planned) == len({c.key for c in planned})
    assert len(planned) == len(SETTINGS) * sum(len(c.tasks) for c in CONTESTANTS)
    longest = {cell.task for cell in planned if cell.contestant.variant == "GPTQ 50 epochs"}
    assert longest == {"har_cnn"}
    some = cells(["har_cnn"], ["W2A2"], [OURS, "MCT PTQ"])
    assert [str(cell) for cell in some] == [
        "har_cnn W2A2 keras_lowbit default", "har_cnn W2A2 keras_lowbit fast",
        "har_cnn W2A2 keras_lowbit best", "har_cnn W2A2 MCT PTQ",
    ]  # fmt: skip
    assert (some[0].weight_bits, some[0].activation_bits) == (2, 2)
    assert some[0].full_config()["input_bits"] == 2
    assert cells(["har_cnn"], ["W4A8"], [OURS])[0].full_config()["input_bits"] == 8


def test_what_makes_another_row() -> None:
    cell = Cell("res8", contestant(MCT), "W4A8")
    other = dataclasses.replace(cell.contestant, options={"epochs": 7})
    for change in (
        {"task": "har_cnn"}, {"setting": "W3A8"}, {"seed": 1}, {"threads": 2}, {"contestant": other},
    ):  # fmt: skip
        assert dataclasses.replace(cell, **change).key != cell.key


def test_rows(rows: dict[str, dict[str, Any]]) -> None:
    row = rows[f"{TFMOT} W4A8"]
    agreement = row["agreement"]
    assert (row["refused"], row["runs_on"], row["test_samples"]) == ("", "simulation", 2 * COUNT)
    assert sum(agreement.values()) == 2 * COUNT
    assert row["accuracy"]["float"] == 1.0
    assert row["accuracy"]["quantized"] == agreement["both"] / (2 * COUNT) > 0.25
    assert 0 < row["seconds"]["quantize"] < row["seconds"]["all"]
    assert row["float_difference"] < 1e-5


def test_a_file_is_scored_on_litert(tiny: Task) -> None:
    samples = tiny.data(0)
    found = converter_tool.quantize(
        tiny.load(), Request(8, 8, samples.calibration, samples.calibration_labels, {}, 0)
    )
    assert found.runs_on == "LiteRT"
    assert found.settings["kernel_containers"] == {"INT8": 3}
    right = found.predict(samples.x_test).argmax(axis=1) == samples.y_test
    assert right.mean() > 0.9


def test_a_refusal_is_a_row_with_the_reason(rows: dict[str, dict[str, Any]]) -> None:
    row = rows[f"{INCUMBENT} W4A4"]
    assert "supported_types" in row["refused"]
    assert row["accuracy"] == {}
    assert "agreement" not in row


def test_a_network_is_rewritten_for_tools_without_conv1d(rows: dict[str, dict[str, Any]]) -> None:
    row = rows[f"{TFMOT} W4A8"]
    assert row["settings"]["network"] == "Conv1D written as Conv2D"
    assert "Conv1D" in row["settings"]["refused_as_it_is"]
    assert row["settings"]["labelled_samples"] == COUNT


def test_rewritten_networks_compute_the_same(tiny: Task) -> None:
    model = tiny.load()
    x = tiny.data(0).x_test
    plain, rewritten = networks_of(model)
    assert "optional" not in plain.architecture
    for network in (plain, rewritten):
        again = tf_keras.models.model_from_json(network.architecture)
        again.set_weights(network.weights)
        np.testing.assert_allclose(
            again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
        )
    kinds = {type(layer).__name__ for layer in again.layers}
    assert {"Conv2D", "MaxPooling2D", "Reshape"} <= kinds
    assert not kinds & {"Conv1D", "MaxPooling1D"}


def test_a_failed_process_is_no_row(tiny: Task, tmp_path: Path) -> None:
    absent = dataclasses.replace(contestant(MCT), environment=tmp_path / "absent")
    with pytest.raises(ValueError, match="make rivals"):
        measure(Cell("tiny", absent, "W8A8"), tmp_path, tiny)
    broken = dataclasses.replace(contestant(INCUMBENT), module="benchmarks.rivals.no_such_tool")
    with pytest.raises(ValueError, match="no_such_tool"):
        measure(Cell("tiny", broken, "W8A8"), tmp_path, tiny)


def test_an_environment_is_made_once_for_its_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", requirements)
    mct = dataclasses.replace(contestant(MCT), environment=tmp_path / "environment")
    said: list[str] = []
    for _ in range(2):
        environments.prepare(mct, said.append)
    assert len(said) == 1
    python = environments.interpreter(mct)
    found = subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(tmp_path / "environment")
    requirements.write_text("no_such_file.whl\n")
    with pytest.raises(ValueError, match="make rivals"):
        environments.interpreter(mct)
    with pytest.raises(ValueError, match="no_such_file"):
        environments.prepare(mct, said.append)


def row_of(cell: Cell, counts: tuple[int, int, int, int], seconds: float) -> dict[str, Any]:
    """A row as `measure` writes it."""
    both, float_only, quantized_only, neither = counts
    count = sum(counts)
    return {
        "key": cell.key, "task": cell.task, "tool": cell.contestant.tool,
        "variant": cell.contestant.variant, "options": cell.contestant.options,
        "setting": cell.setting, "seed": 0, "threads": cell.threads, "refused": "", "runs_on": "simulation",
        "settings": {}, "versions": {"numpy": "1.0"}, "processor": "this one", "load_average": 1.0,
        "test_samples": count, "calibration_samples": 1024,
        "seconds": {"quantize": seconds, "cpu": 2 * seconds, "all": 3 * seconds},
        "agreement": {
            "both": both, "float_only": float_only, "quantized_only": quantized_only,
            "neither": neither,
        },
        "accuracy": {"float": (both + float_only) / count, "quantized": (both + quantized_only) / count},
    }  # fmt: skip


def lines_with(page: str, *texts: str) -> list[str]:
    return [line for line in page.splitlines() if all(text in line for text in texts)]


def test_page_of_rows() -> None:
    planned = cells(["res8"], ["W4A8", "W2A8"])
    by_name = {str(cell): cell for cell in planned}
    ours = row_of(by_name["res8 W4A8 keras_lowbit default"], (860, 12, 10, 118), 50)
    fast = row_of(by_name["res8 W4A8 keras_lowbit fast"], (848, 24, 8, 120), 10)
    gptq = row_of(by_name["res8 W4A8 MCT GPTQ 5 epochs"], (850, 22, 5, 123), 400)
    trained = row_of(by_name["res8 W4A8 tfmot n-bit QAT"], (872, 0, 20, 108), 30)
    mixed = row_of(by_name["res8 W4A8 ai-edge-quantizer MSE"], (700, 172, 0, 128), 5)
    mixed["settings"] = {"kernel_containers": {"INT4": 6, "INT8": 4}, "kernels_of_eight_bits": 4}
    refusals = [
        row_of(by_name[f"res8 {setting} TFLiteConverter int8"], (1, 0, 0, 0), 1)
        | {"refused": "ValueError: no such type", "accuracy": {}}
        for setting in ("W4A8", "W2A8")
    ]
    page = render.page(planned, [ours, fast, gptq, trained, mixed, *refusals])
    assert f"**7 of {len(planned)} cells measured.**" in page
    [line] = lines_with(page, "| W4A8 | keras_lowbit default |")
    assert "| 87.00% | +0.20 [−0.70, +1.10] | 50 | 100 | 1.0 |" in line
    [line] = lines_with(page, "| W4A8 | MCT GPTQ 5 epochs |")
    assert "| 85.50% | +1.70 [" in line
    assert line.endswith("| 400 | 800 | 8.0 |")
    # The rival that trains on labels is not among those expected to be less accurate.
    [line] = lines_with(page, f"| {TASKS['res8'].network} | W4A8 |")
    assert "| MCT GPTQ 5 epochs | yes, so far |" in line
    assert line.endswith("| GPTQ 5 epochs +1.70: 40.0 × fast | yes |")
    [line] = lines_with(page, "no such type")
    assert "TFLiteConverter int8 W4A8, TFLiteConverter int8 W2A8. Refused" in line
    assert "- ai-edge-quantizer MSE W4A8. 4 of 10 kernels have eight bits" in page
    assert lines_with(page, "| W2A8 | keras_lowbit default | – |")
    assert lines_with(page, "| W2A8 | TFLiteConverter int8 | refused |")


def test_what_is_said_of_a_setting_without_gaps() -> None:
    planned = cells(["har_cnn"], ["W4A8"])
    rows = [row_of(cell, (800, 72, 0, 128), 400) for cell in planned]
    rows[0] = row_of(planned[0], (860, 12, 10, 118), 50)
    [line] = lines_with(render.page(planned, rows), f"| {TASKS['har_cnn'].network} | W4A8 |")
    assert line.count("| yes |") == 2
    assert "GPTQ 5 epochs +7.20: 8.0 × default; GPTQ 50 epochs +7.20: 8.0 × default" in line
    rows[0] = row_of(planned[0], (790, 82, 10, 118), 50)
    [line] = lines_with(render.page(planned, rows), f"| {TASKS['har_cnn'].network} | W4A8 |")
    assert "| **no** |" in line


def test_our_default_is_not_another_recipe() -> None:
    planned = cells(["har_cnn"], ["W3A8"])
    by_name = {cell.contestant.variant: cell for cell in planned}
    fast = row_of(by_name["fast"], (820, 52, 0, 128), 10)
    gptq = row_of(by_name["GPTQ 5 epochs"], (830, 42, 0, 128), 300)
    page = render.page(planned, [fast, gptq])
    assert not lines_with(page, "| HAR CNN | W3A8 |")
    [line] = lines_with(page, "| W3A8 | keras_lowbit fast |")
    assert line.endswith("| 10 | 20 | – |")


def test_page_of_what_was_not_kept() -> None:
    planned = cells(["har_cnn"], ["W3A8"])
    by_name = {cell.contestant.variant: cell for cell in planned}
    ours = row_of(by_name["default"], (850, 22, 0, 128), 100)
    fast = row_of(by_name["fast"], (820, 52, 0, 128), 10)
    quick = row_of(by_name["GPTQ 5 epochs"], (830, 42, 0, 128), 300)
    gptq = row_of(by_name["GPTQ 50 epochs"], (851, 21, 0, 128), 3000)
    [line] = lines_with(render.page(planned, [ours, fast, quick, gptq]), "| HAR CNN | W3A8 |")
    assert "| MCT GPTQ 50 epochs | **no** |" in line
    assert "| GPTQ 5 epochs +4.20: 3.0 × default; GPTQ 50 epochs +2.10: more accurate" in line
    assert line.endswith("than ours | **no** |")


def test_committed_rows_are_sound() -> None:
    rows = known_rows(Path(__file__).resolve().parents[2] / "benchmarks/results/rivals.jsonl")
    assert len({row["key"] for row in rows}) == len(rows) > 0
    for row in rows:
        assert bool(row["refused"]) != bool(row["accuracy"])
        if row["accuracy"]:
            counts = row["agreement"]
            assert sum(counts.values()) == row["test_samples"]
            right = counts["both"] + counts["quantized_only"]
            assert row["accuracy"]["quantized"] == right / row["test_samples"]


def test_ai_edge_quantizer_leaves_depthwise_kernels_at_eight_bits() -> None:
    pytest.importorskip("ai_edge_quantizer", reason="make rivals installs it")
    build = chain(
        (6, 6, 2), lambda k: k.Conv2D(4, 3, name="first"), lambda k: k.DepthwiseConv2D(3),
        lambda k: k.Flatten(), lambda k: k.Dense(10, name="last"),
    )  # fmt: skip
    model = networks.randomize(build(tf_keras))
    [x] = networks.samples(model, 8)
    request = Request(4, 8, x, np.zeros(8), contestant(AEQ).options, 0)
    found = edge_tool.quantize(model, request)
    assert found.settings["kernel_containers"] == {"INT4": 2, "INT8": 1}
    assert found.settings["kernels_of_eight_bits"] == 1
    assert found.predict(x).shape == (8, 10)
    with pytest.raises(ValueError, match="Unsupported"):
        edge_tool.quantize(model, dataclasses.replace(request, weight_bits=3))


def test_mct_has_as_many_bits_as_asked_for(tiny: Task, tmp_path: Path) -> None:
    mct = contestant("MCT PTQ")
    try:
        environments.interpreter(mct)
    except ValueError as error:
        pytest.skip(str(error))
    row = measure(Cell("tiny", mct, "W3A4"), tmp_path, tiny)
    assert row["settings"]["kernel_bits"] == {"3": 3}
    assert set(row["settings"]["activation_bits"]) == {"4", "8"}
