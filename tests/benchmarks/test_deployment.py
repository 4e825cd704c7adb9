"""The deployment table: what is planned, measured once, and rendered from rows alone."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import tf_keras
from networks import chain

from benchmarks.deployment import plan, render, rival, tflm
from benchmarks.deployment.measure import measure, spread
from benchmarks.deployment.plan import ETHOS_U, INCUMBENT, OURS, RIVAL, Cell, cells
from benchmarks.rows import read_rows
from benchmarks.runtime_accuracy import input_codes
from benchmarks.study import backends
from benchmarks.study.runner import run
from benchmarks.study.tasks import Samples, Task
from keras_lowbit import PTQConfig
from keras_lowbit.export import runtimes
from keras_lowbit.export.vela import vela_command

pytest.importorskip("tflite_micro")

network = chain(
    (6, 6, 2), lambda k: k.Conv2D(32, 3, activation="relu", name="first"),
    lambda k: k.Conv2D(32, 3, activation="relu", name="second"), lambda k: k.Flatten(),
    lambda k: k.Dense(10, name="last"),
)  # fmt: skip
RANGES = PTQConfig(weight_bits=3, optimize=(), tune_steps=0)
COUNT = 40
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny() -> Task:
    """A network of random weights; the labels are what it says."""
    model = networks.randomize(network(tf_keras))
    [x] = networks.samples(model, 3 * COUNT)

    def samples(seed: int) -> Samples:
        labels = model.predict(x[COUNT:], verbose=0).argmax(axis=1)
        return Samples(x[seed:COUNT], x[COUNT:], labels)

    return Task("tiny", "Tiny", lambda: model, samples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployment")


def ours(variant: str, **fields: Any) -> Cell:
    return Cell("tiny", OURS, variant, 3, config=RANGES, limit=COUNT, **fields)


def test_plan() -> None:
    planned = cells()
    assert len(planned) == len({cell.key for cell in planned}) == 4 * (2 + 2 + 3 + 3 * 5)
    some = [str(cell) for cell in cells(["ds_cnn"], [8, 2])]
    assert some == [
        "ds_cnn TFLiteConverter W8 int8, TFLM",
        "ds_cnn TFLiteConverter W8 int8, Ethos-U55-128",
        "ds_cnn keras_lowbit W8 int8, TFLM",
        "ds_cnn keras_lowbit W8 auto, micro, TFLM",
        "ds_cnn keras_lowbit W8 int8, Ethos-U55-128",
        "ds_cnn keras_lowbit W2 int8, TFLM",
        "ds_cnn keras_lowbit W2 int4, TFLM",
        "ds_cnn keras_lowbit W2 lut, TFLM",
        "ds_cnn keras_lowbit W2 auto, micro, TFLM",
        "ds_cnn keras_lowbit W2 int8, Ethos-U55-128",
    ]


def test_what_makes_another_row() -> None:
    cell = ours("int4")
    for change in (
        {"variant": "lut"}, {"seed": 1}, {"limit": None}, {"task": "har_cnn"},
        {"config": dataclasses.replace(RANGES, steps=7)}, {"device": ETHOS_U},
    ):  # fmt: skip
        assert dataclasses.replace(cell, **change).key != cell.key
    compiled = dataclasses.replace(cell, device=ETHOS_U)
    assert dataclasses.replace(compiled, limit=None).key == compiled.key


@pytest.fixture(scope="module")
def rows(tiny: Task, folder: Path) -> dict[str, dict[str, Any]]:
    """Measured as `run` does it, once."""
    path = folder / "rows.jsonl"
    planned = [
        Cell("tiny", INCUMBENT, "int8", 8, limit=COUNT),
        *map(ours, ("int8", "int4", "auto, micro")),
    ]

    def work(cell: Cell) -> dict[str, Any]:
        return measure(cell, folder, tiny)

    arguments = (backends.sequential, path, lambda text: None, plan.known_rows)
    assert run(planned[:2], work, *arguments) == {}
    quantized = [p.name for p in (folder / "quantized").iterdir()]
    assert len(quantized) == 1
    assert run(planned, work, *arguments) == {}
    assert [p.name for p in (folder / "quantized").iterdir()] == quantized
    found = read_rows(path)
    assert [row["key"] for row in found] == [cell.key for cell in planned]
    return {row["variant"] if row["tool"] == OURS else row["tool"]: row for row in found}


def test_rows(rows: dict[str, dict[str, Any]], tiny: Task, folder: Path) -> None:
    for name in ("int8", "int4", "auto, micro"):
        row = rows[name]
        assert row["proof"]["mismatches"] == row["codes_unlike_unpacked"] == 0
        assert row["proof"]["compared"] > 0
        assert row["codes"] == 10 * COUNT
        assert row["accuracy"]["TFLM"] >= 0.6
    sizes = [rows[name]["file_bytes"] for name in ("auto, micro", "int4", "int8")]
    assert sizes == sorted(sizes)
    arenas = {name: row["arena"]["smallest"] for name, row in rows.items()}
    assert 0 < arenas["int8"] < arenas["int4"]
    assert rows["int8"]["codes_unlike_int8"] == rows["int8"]["predictions_unlike_int8"] == 0
    assert set(rows[INCUMBENT]["accuracy"]) == {"TFLM", "float"}
    # The file of the row, run once more.
    [path] = (folder / "converted").glob("*.tflite")
    _, x, y, _ = tiny.data(0)
    assert len(x) == 2 * COUNT
    [outputs] = runtimes.run(path.read_bytes(), "tflm", [input_codes(path.read_bytes(), x[::2])])
    share = (outputs.argmax(axis=1) == y[::2]).mean()
    assert rows[INCUMBENT]["accuracy"]["TFLM"] == share
    assert rows[INCUMBENT]["file_bytes"] == path.stat().st_size


def test_packing_that_changed_an_output_would_be_counted(
    rows: dict[str, Any],
    tiny: Task,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With outputs that are off by one code wherever weights are packed."""
    shutil.copytree(folder / "quantized", tmp_path / "quantized")
    true_outputs = tflm.outputs
    packed_size = rows["int4"]["file_bytes"]

    def wrong(blob: bytes, *arguments: Any) -> np.ndarray:
        return true_outputs(blob, *arguments) + np.int8(len(blob) == packed_size)

    monkeypatch.setattr(tflm, "outputs", wrong)
    row = measure(ours("int4"), tmp_path, tiny)
    assert row["codes_unlike_unpacked"] == row["codes"]


def test_a_row_outlives_a_new_field_of_the_configuration(
    rows: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    row = json.loads(json.dumps(rows["int4"]))
    del row["config"]["split_channels"]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row | {"key": "as it was"}) + "\n")
    assert [r["key"] for r in plan.known_rows(path)] == [ours("int4").key]
    row["config"]["no such field"] = 1
    path.write_text(json.dumps(row) + "\n")
    assert [r["key"] for r in plan.known_rows(path)] == [row["key"]]


def test_spread() -> None:
    rows = np.arange(10)
    assert list(spread(rows, 4)) == [0, 2, 5, 7]
    for all_of_them in (None, 10, 11):
        assert list(spread(rows, all_of_them)) == list(rows)


def line_of(page: str, *start: str) -> list[str]:
    """The cells of the first table line that starts so."""
    head = f"| {' | '.join(start)} |"
    found = next(line for line in page.splitlines() if line.startswith(head))
    return [text.strip() for text in found.strip("|").split("|")]


def made_up(cell: Cell, **fields: Any) -> dict[str, Any]:
    """A row that nobody measured."""
    return {
        "key": cell.key, "task": cell.task, "tool": cell.tool, "variant": cell.variant,
        "refused": "", "accuracy": {"TFLM": 0.5, "float": 0.75}, "file_bytes": 100_000,
        "arena": {"smallest": 1234}, "samples": 10, "test_samples": 20, "codes": 100,
        "codes_unlike_unpacked": 0, "codes_unlike_int8": 7, "predictions_unlike_int8": 3,
        "proof": {"mismatches": 0, "compared": 5000}, "versions": {"numpy": "2.0"}, "source": "a",
        **fields,
    }  # fmt: skip


def test_page_without_rows() -> None:
    page = render.page(cells(), [])
    assert "**0 of 88 files measured.**" in page
    assert line_of(page, "Res8 W4")[1:] == ["49.0 kB", *["–"] * 4, "98.6 kB", "–"]
    assert set(line_of(page, "keras_lowbit W4", "lut")[2:]) == {"–"}
    for network in ("Res8", "DS-CNN", "MobileNetV1", "HAR CNN"):
        assert f"### {network}" in page


def test_page() -> None:
    planned = cells(["res8"], [4])
    by_name = {(c.tool, c.variant, c.device == ETHOS_U): c for c in planned}
    compiled = {"version": "5", "compiled_file_bytes": 9999, "sram_bytes": 77}
    rows = [
        made_up(by_name[INCUMBENT, "int8", False]),
        made_up(
            by_name[RIVAL, "int4", False], refused="not\n so", arena=None,
            accuracy={"LiteRT": 0.25}, file_bytes=60_000,
        ),
        made_up(by_name[OURS, "int4", False], file_bytes=55_000, source="b"),
        made_up(by_name[OURS, "auto, micro", False], file_bytes=48_000),
        made_up(by_name[INCUMBENT, "int8", True], vela={**compiled, "encoded_weight_bytes": 4000}),
        made_up(by_name[OURS, "int8", True], vela={**compiled, "encoded_weight_bytes": 1000}),
    ]  # fmt: skip
    page = render.page(planned, rows)
    assert line_of(page, "Res8 W4")[1:] == [
        "49.0 kB", "48.0 kB", "auto, micro", "yes", "yes", "98.6 kB", "100.0 kB",
    ]  # fmt: skip
    assert line_of(page, "keras_lowbit W4", "auto, micro")[2:] == [
        "48,000", "48", "1,234", "50.00%", "0 of 100", "3", "0 of 5,000",
    ]  # fmt: skip
    assert line_of(page, "ai-edge-quantizer W4", "int4")[2:6] == [
        "60,000", "60", "refused", "refused (25.00% on LiteRT)",
    ]  # fmt: skip
    assert "TFLM refuses ai-edge-quantizer int4: `not so`" in page
    assert line_of(page, "Res8", "keras_lowbit W4")[2:] == ["1,000", "25", "9,999", "77"]
    assert "10 of 20 test samples; the float network has 75.00%." in page
    assert "**6 of 9 files measured.**" in page
    assert "2 states of the source" in page
    large = made_up(by_name[OURS, "auto, micro", False], file_bytes=49_001, codes_unlike_unpacked=1)
    assert line_of(render.page(planned, [large]), "Res8 W4")[4:6] == ["**no**", "**no**"]


@pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_quantizer") is None,
    reason="ai-edge-quantizer is not installed: pip install '.[rival]'",
)
@pytest.mark.parametrize("units", [8, 2000])
def test_the_rivals_files_run_on_tflm(units: int) -> None:
    """Also those of 256 KiB and more, whose constants it puts behind the flatbuffer."""
    image = tf_keras.Input((8, 8, 1))
    hidden = tf_keras.layers.Conv2D(4, 3, activation="relu")(image)
    hidden = tf_keras.layers.Dense(units, activation="relu")(tf_keras.layers.Flatten()(hidden))
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Model(image, tf_keras.layers.Dense(3)(hidden))
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
    blob = rival.quantize_int4(model, x, ("CONV_2D",))
    codes = input_codes(blob, x)
    on_tflm, on_litert = (
        runtimes.run(blob, name, [codes])[0].astype(int) for name in ("tflm", "litert_ref")
    )
    assert (len(blob) >= 2**18) == (units == 2000)
    assert np.ptp(on_litert) > 100
    assert np.abs(on_tflm - on_litert).max() <= 3  # their dense layers round differently
    assert rival.with_inner_buffers(blob) == blob


@pytest.mark.skipif(vela_command() is None, reason="Vela is not installed")
def test_compiled_for_ethos_u(rows: dict[str, Any], folder: Path, tiny: Task) -> None:
    del rows
    row = measure(ours("int8", device=ETHOS_U), folder, tiny)
    eight = measure(Cell("tiny", INCUMBENT, "int8", 8, ETHOS_U), folder, tiny)
    encoded = [r["vela"]["encoded_weight_bytes"] for r in (row, eight)]
    assert 0 < encoded[0] < encoded[1]


def test_the_command_line(tmp_path: Path) -> None:
    [cell, *_] = cells(["ds_cnn"], [2], seed=1)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps(
            made_up(cell, weight_bits=8, device=cell.device, config=None, seed=1, limit=4000)
        )
    )
    page = tmp_path / "page.md"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.deployment", "report", "--tasks=ds_cnn", "--widths=2",
            "--seed=1", f"--results={tmp_path / 'rows.jsonl'}", f"--report={page}",
        ],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is written" in done.stdout
    assert "**1 of 7 files measured.**" in page.read_text()
