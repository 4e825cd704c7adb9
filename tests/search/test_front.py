"""pareto(): a front, a table, JSON, a figure, and configurations that give what was promised."""

from __future__ import annotations

import json
from pathlib import Path

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
import uneven

import keras_lowbit
from keras_lowbit import Front


@pytest.fixture(scope="module")
def front() -> Front:
    return keras_lowbit.pareto(
        uneven.model(), uneven.samples(), uneven.CANDIDATES, points=np.int64(5),  # type: ignore[arg-type]
        config=uneven.RANGES_ONLY, verbose=0,
    )  # fmt: skip


def test_no_point_is_beaten(front: Front) -> None:
    sizes = [point.flash or 0 for point in front.points]
    harms = [point.harm for point in front.points]
    assert len(sizes) > 3
    assert sizes == sorted(set(sizes))
    assert harms == sorted(set(harms), reverse=True)
    fewest = front.points[0].bits  # the tables of a layer may take more than its weights
    assert {fewest[name] for name in ("small", "large", "hidden")} == {2}
    assert set(front.points[-1].bits.values()) == {8}


def test_configurations_give_the_promised_files(front: Front, tmp_path: Path) -> None:
    for index, point in enumerate(front.points):
        qmodel = pipelines.quantized(uneven.model(), point.config, uneven.samples())
        path = tmp_path / f"{index}.tflite"
        qmodel.export(path, packing="auto", strip="micro")
        # Predicted with biases and grids that are all different; a real file may share a few bytes.
        assert (point.flash or 0) - 64 <= path.stat().st_size <= (point.flash or 0)
        assert qmodel.cost().bops == point.bops


def test_table_and_json(front: Front) -> None:
    table = str(front)
    for point in front.points:
        assert f"{point.flash:,}" in table
    assert "small, large, hidden, last" in table
    rows = json.loads(json.dumps(front.to_dict()))["points"]
    assert [row["bits"] for row in rows] == [point.bits for point in front.points]
    config = keras_lowbit.PTQConfig.from_json(json.dumps(rows[1]["config"]))
    assert config == front.points[1].config


def test_plot(front: Front, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    front.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="overwrite=True"):
        front.plot(tmp_path / "front.png")
    with pytest.raises(ValueError, match="no such folder.*Received: .*nowhere'"):
        front.plot(tmp_path / "nowhere" / "front.png")
    front.plot(tmp_path / "front.svg")
    text = (tmp_path / "front.svg").read_text()
    assert "<svg" in text


def test_without_data_and_by_recipe() -> None:
    """A recipe goes into the configurations; samples are made up from the batch norms."""
    model = networks.randomize(networks.residual(tf_keras))
    fronts = [
        keras_lowbit.pareto(
            model, candidate_bits=(2, 8), points=2, recipe="fast", seed=s, verbose=0
        )
        for s in (0, 0, 1)
    ]
    assert fronts[0] == fronts[1]
    assert [p.harm for p in fronts[0].points] != [p.harm for p in fronts[2].points]
    for point in fronts[0].points:
        assert point.config.correct_bias
        assert point.config.tune_steps == 0


def test_a_recipe_beside_a_config_is_refused() -> None:
    with pytest.raises(ValueError, match="A config says all that a recipe does.*recipe='best'"):
        keras_lowbit.pareto(
            uneven.model(), uneven.samples(), recipe="best", config=uneven.RANGES_ONLY
        )


@pytest.mark.parametrize("points", [1, 2.5, True, "5"])
def test_refused(points: object) -> None:
    with pytest.raises(ValueError, match="`points` must be an integer of at least 2"):
        keras_lowbit.pareto(uneven.model(), uneven.samples(), points=points)  # type: ignore[arg-type]
