"""The upper reference: quantized, then trained with labels."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.qat.measure import measure
from benchmarks.qat.plan import CONFIGS, NETWORKS, Cell, Labelled, Recipe, Trained, cells
from benchmarks.qat.render import drops
from benchmarks.rows import RESULTS, Row
from benchmarks.study.tasks import Samples, Task
from keras_lowbit import PTQConfig
from models import digits
from models.data import load_digits

pytest.importorskip("sklearn")

CONFIG = PTQConfig.uniform(2, optimize=(), tune_steps=0, calibration_samples=64)


def samples(seed: int) -> Samples:
    data = load_digits()
    return Samples(data.x_train[seed:][:64], data.x_test, data.y_test)


def labelled(seed: int) -> Labelled:
    data = load_digits()
    return Labelled(data.x_train, data.y_train, np.arange(len(data.x_train)) >= 1200)


TASK = Task("digits", "Digits", digits.load, samples)
TRAINED = Trained(Recipe(2, 64, 3e-3), "here", "digits", labelled, lambda x, seed: x)


def test_labels_help_and_the_trained_network_is_proven() -> None:
    cell = Cell("digits", "2/2", CONFIG, TRAINED.recipe)
    row = measure(cell, TASK, TRAINED)
    accuracy = row["accuracy"]
    assert accuracy["float"] > accuracy["trained"] > accuracy["quantized"] + 0.05
    assert (row["tflm_mismatches"], row["labelled_samples"]) == (0, 1347)
    assert row["tflm_compared"] > 0
    # Another recipe starts from the same quantized network, not from the trained one.
    faint = measure(
        Cell("digits", "2/2", CONFIG, Recipe(1, 64, 1e-9)), TASK, TRAINED
    )["accuracy"]  # fmt: skip
    assert faint["quantized"] == faint["trained"] == accuracy["quantized"]


def test_validation_looks_at_no_test_sample() -> None:
    blind = Task("digits", "Digits", digits.load, lambda seed: pytest.fail("test samples are read"))
    row = measure(Cell("digits", "2/2", CONFIG, Recipe(1, 64, 1e-3), validate=True), blind, TRAINED)
    assert (row["labelled_samples"], row["test_samples"]) == (1200, 147)
    assert row["evaluated_on"] == "held-out training samples"


def test_plan() -> None:
    planned = cells(NETWORKS, CONFIGS)
    assert len({cell.key for cell in planned}) == len(NETWORKS) * len(CONFIGS)
    rates = cells(["res8"], ["2/2"], [1e-3, 1e-4], epochs=1)
    assert [cell.recipe[::2] for cell in rates] == [(1, 1e-3), (1, 1e-4)]
    with pytest.raises(ValueError, match="Expected some of.*Received: 'resnet'"):
        cells(["resnet"], ["2/2"])


def test_table_shows_the_longest_training_of_the_test_samples() -> None:
    def row(epochs: int, trained: float, on: str = "test samples", results: int = RESULTS) -> Row:
        return {
            "config": {"weight_bits": 3}, "results": results,
            "task": "res8", "setting": "3/3", "evaluated_on": on, "recipe": {"epochs": epochs},
            "accuracy": {"float": 0.9, "quantized": 0.8, "trained": trained},
        }  # fmt: skip

    table = drops([row(9, 0.87), row(3, 0.85), row(20, 0.9, "held-out training samples")])
    assert "| 3/3 | −10.00 to −3.00 (9) | – | – | – |" in table
    older = row(15, 0.81, results=RESULTS - 1)
    assert "| 3/3 | −10.00 to −3.00 (9) | – | – | – |" in drops([older, row(9, 0.87)])
    assert "| 3/3 | −10.00 to −9.00 (15)° | – | – | – |" in drops([older])
