"""quantize(budget=...): the file on disk keeps the budget, and everything behind works as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import uneven

import keras_lowbit
from keras_lowbit import Budget, BudgetError, PTQConfig, QuantizedModel
from keras_lowbit.export import runtimes
from keras_lowbit.search import within_budget
from keras_lowbit.search.bit_search import BitSearch
from keras_lowbit.search.within_budget import ATTEMPTS, quantize_within
from models import data, pretrained

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
BRIEFLY = PTQConfig(steps=8, tune_steps=8)


def exported_size(qmodel: QuantizedModel, folder: Path) -> int:
    path = folder / "model.tflite"
    qmodel.export(path, overwrite=True, packing="auto", strip="micro")
    return path.stat().st_size


def test_the_file_keeps_the_budget_once_trained(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"config": BRIEFLY, "budget": Budget(flash="6kB"), "verbose": 0}
    qmodel, resumed = (
        keras_lowbit.quantize(
            uneven.model(), uneven.samples(), checkpoint_dir=tmp_path / "run", **arguments
        )
        for _ in range(2)
    )
    assert 5000 < exported_size(qmodel, tmp_path) <= 6000
    chosen = {row.name: row.weight_bits for row in qmodel.report().rows if row.weight_bits}
    assert dict(qmodel.config.layer_bits) == {name: (bits, 8) for name, bits in chosen.items()}
    assert len(set(chosen.values())) > 1
    qmodel.save(tmp_path / "saved")
    assert keras_lowbit.load(tmp_path / "saved").config == qmodel.config
    for name, value in qmodel.student.values().items():
        np.testing.assert_array_equal(resumed.student.values()[name], value)


@needs_tflm
def test_real_network_and_data(shared_data: Path, tmp_path: Path) -> None:
    """DS-CNN: closer to the float network than 3 bits everywhere, in a smaller file."""
    del shared_data
    x = data.load_kws().x_calib[:128].astype(np.float32)
    model = pretrained.load_ds_cnn()
    wanted = model.predict(x, verbose=0).argmax(-1)
    uniform = pipelines.quantized(model, PTQConfig(3, 8, optimize=(), tune_steps=0), x)
    budget = Budget(flash=exported_size(uniform, tmp_path) - 1)
    mixed = pipelines.quantized(
        model, uneven.RANGES_ONLY, x, budget=budget, candidate_bits=(2, 3, 4)
    )  # fmt: skip
    assert exported_size(mixed, tmp_path) <= budget.limits()["flash"]
    agreeing = [
        np.mean(qmodel.model.predict(x, verbose=0).argmax(-1) == wanted)
        for qmodel in (uniform, mixed)
    ]
    assert agreeing[1] > agreeing[0] + 0.01
    assert mixed.verify(tmp_path / "model.tflite", x[:1]).ok


def test_a_file_that_grew_in_training_is_made_again(search: BitSearch, tmp_path: Path) -> None:
    seen: list[PTQConfig] = []

    def larger_at_first(config: PTQConfig, attempt: int) -> QuantizedModel:
        assert attempt == len(seen)
        seen.append(config)
        wide = PTQConfig(8, optimize=(), tune_steps=0)
        return pipelines.quantized(
            uneven.model(), config if attempt else wide, uneven.samples()
        )  # fmt: skip

    # All kernels at 8 bits make a file of some 11,000 bytes, 2,000 more than asked for.
    qmodel = quantize_within(Budget(flash=9000), search, larger_at_first)
    assert len(seen) == 2
    assert seen[0] != seen[1] == qmodel.config
    assert exported_size(qmodel, tmp_path) <= 9000 - 1900


def test_another_choice_where_there_was_room_but_less_than_it_grew(
    search: BitSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same choice would grow as much again."""
    seen: list[dict[str, int]] = []

    def stored(config: PTQConfig, attempt: int) -> Any:
        del attempt
        seen.append({name: bits for name, (bits, _) in config.layer_bits})
        return None

    def grown(qmodel: Any, budget: Budget) -> dict[str, int]:
        del qmodel, budget
        return {"flash": search.flash(seen[-1]) + 40}

    monkeypatch.setattr(within_budget, "_sizes", grown)
    widest = search.flash(dict.fromkeys(search.widths, 8))
    quantize_within(Budget(flash=widest + 39), search, stored)
    assert len(seen) == 2
    assert seen[0] == dict.fromkeys(search.widths, 8)
    assert search.flash(seen[1]) <= widest - 1


def test_a_file_that_stays_too_large_is_refused(search: BitSearch) -> None:
    wide = pipelines.quantized(uneven.model(), PTQConfig(8, optimize=(), tune_steps=0))
    attempts: list[int] = []

    def too_wide(config: PTQConfig, attempt: int) -> QuantizedModel:
        attempts.append(attempt)
        return wide

    with pytest.raises(BudgetError, match=r"exceeds the budget by.*Received: \{'flash': 10500\}"):
        quantize_within(Budget(flash=10_500), search, too_wide)
    assert attempts == list(range(ATTEMPTS))


def test_no_room_left_is_said_in_the_limits_that_were_given(search: BitSearch) -> None:
    least = search.choice({name: min(widths) for name, widths in search.widths.items()}).flash
    assert least is not None
    wide = pipelines.quantized(uneven.model(), PTQConfig(8, optimize=(), tune_steps=0))
    with pytest.raises(
        BudgetError, match=rf"exceeds the budget by.*Received: \{{'flash': {least}\}}"
    ):
        quantize_within(Budget(flash=least), search, lambda config, attempt: wide)


def test_an_arena_needs_tflm_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "available", lambda: ("litert",))
    with pytest.raises(ValueError, match="install the extra 'micro'.*Received: arena=9000"):
        keras_lowbit.quantize("no model is here", budget=Budget(arena=9000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidate_bits": (2, 4)}, "give `budget` too"),
        ({"budget": 40_000}, "must be a Budget. Received: int"),
        ({"budget": Budget(flash=9000), "weight_bits": 4}, "leave `weight_bits` out"),
        ({"budget": Budget(flash=9000), "candidate_bits": (4,)}, "at least two different widths"),
        ({"budget": Budget(flash=9000), "candidate_bits": (4, 9)}, "widths from 2 to 8"),
        ({"budget": Budget(flash=9000), "candidate_bits": "2348"}, "at least two"),
        ({"budget": Budget(flash=9000), "candidate_bits": ()}, "at least two different widths"),
        ({"budget": Budget(flash=900)}, "smallest `flash`"),
        ({"seed": -1}, "at least 0. Received: seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keras_lowbit.quantize(uneven.model(), uneven.samples(), verbose=0, **arguments)
