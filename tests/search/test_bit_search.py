"""The search keeps its limits, and finds what trying everything finds."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
import uneven

from keras_lowbit import Budget, PTQConfig
from keras_lowbit.export import runtimes
from keras_lowbit.export.arena import measure_arena
from keras_lowbit.reader import read
from keras_lowbit.search.bit_search import BitSearch, Choice
from keras_lowbit.search.choice import candidates

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)


@pytest.fixture(scope="module")
def all_choices(search: BitSearch) -> list[Choice]:
    every = itertools.product(*search.widths.values())
    return [search.choice(dict(zip(search.widths, bits, strict=True))) for bits in every]


def test_harm_falls_with_bits(search: BitSearch) -> None:
    assert list(search.widths) == ["small", "large", "hidden", "last"]
    for widths in search.widths.values():
        assert widths[2].harm > widths[3].harm > 10 * widths[8].harm >= 0


def test_what_a_bias_can_take_is_no_harm() -> None:
    """All samples alike: rounding a kernel shifts the outputs, which the bias makes up for."""
    harm = {}
    for use_bias in (True, False):
        network = networks.chain(
            (12,), lambda k, b=use_bias: k.Dense(9, use_bias=b, name="first"), lambda k: k.ReLU(),
            lambda k: k.Dense(5, name="last"),
        )  # fmt: skip
        model = networks.randomize(network(tf_keras))
        same = np.repeat(networks.samples(model, 1)[0], 16, axis=0)
        widths = BitSearch(read(model), {"image": same}, uneven.RANGES_ONLY, (2, 8)).widths
        harm[use_bias] = widths["first"][2].harm
    assert harm[True] < 1e-9 < 1e-4 < harm[False]


@pytest.mark.parametrize("part", [0.0, 0.15, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_flash_as_good_as_trying_everything(
    search: BitSearch, all_choices: list[Choice], part: float
) -> None:
    sizes = [choice.flash or 0 for choice in all_choices]
    limit = round(min(sizes) + part * (max(sizes) - min(sizes)))
    found = search.within(Budget(flash=limit))
    assert found.flash is not None
    assert found.flash <= limit
    kept = [c.harm for c, size in zip(all_choices, sizes, strict=True) if size <= limit]
    assert found.harm == pytest.approx(min(kept))


@pytest.mark.parametrize(
    "budget",
    [
        Budget(average_weight_bits=2.7), Budget(bops=1e6),
        Budget(flash=6000, average_weight_bits=2.9, bops=1.1e6),
    ],
)  # fmt: skip
def test_sums_as_good_as_trying_everything(
    search: BitSearch, all_choices: list[Choice], budget: Budget
) -> None:
    def keeps(choice: Choice) -> bool:
        return all(getattr(choice, name) <= limit for name, limit in budget.limits().items())

    allowed = [choice.harm for choice in all_choices if keeps(choice)]
    assert 0 < len(allowed) < len(all_choices)
    found = search.choice(search.within(budget).bits)
    assert keeps(found)
    assert found.harm == pytest.approx(min(allowed))


def test_the_least_average_can_be_asked_for() -> None:
    """Also where it is no round number."""
    search = uneven.search(dataclasses.replace(uneven.RANGES_ONLY, layer_bits={"small|last": 3}))
    least = search.choice({name: min(widths) for name, widths in search.widths.items()}, False)
    budget = Budget(average_weight_bits=least.average_weight_bits)
    assert search.within(budget).bits == least.bits


def test_a_budget_that_cannot_be_kept_says_what_can(search: BitSearch) -> None:
    for name, little in (("flash", 999), ("bops", 5.0), ("average_weight_bits", 1.9)):
        with pytest.raises(ValueError, match=f"smallest `{name}` that can be reached") as caught:
            search.within(Budget(**{name: little}))
        found = re.search(r"reached is (\d+\.?\d*)", str(caught.value))
        assert found is not None
        least = float(found[1]) if "." in found[1] else int(found[1])
        assert getattr(search.within(Budget(**{name: least})), name) == least


def test_harm_is_what_a_classifier_makes_of_it_behind_its_average() -> None:
    layers = (lambda k: k.Conv2D(4, 3, name="last"), lambda k: k.GlobalAveragePooling2D())
    model = networks.randomize(networks.chain((6, 6, 2), *layers, lambda k: k.Softmax())(tf_keras))
    data = networks.samples(model, 16)[0]
    last = model.get_layer("last")
    logits = tf_keras.Model(model.input, model.layers[-2].output)
    wanted, floats = logits.predict(data, verbose=0), last.get_weights()
    width = BitSearch(read(model), {"image": data}, uneven.RANGES_ONLY, (2, 8)).widths["last"][2]
    last.set_weights([width.kernel, *floats[1:]])
    error = logits.predict(data, verbose=0) - wanted
    error -= error.mean(axis=0)  # which the bias makes up for
    assert width.harm == pytest.approx((error**2).mean() / (wanted**2).mean(), rel=1e-3)


@needs_tflm
def test_an_arena_is_kept_by_other_layers_than_the_largest() -> None:
    """Three layers are packed, each small enough: less flash than there is would be left without the largest of them."""
    layers = (
        lambda k: k.Conv2D(16, 3, activation="relu", name="a"), lambda k: k.Conv2D(20, 3, activation="relu", name="b"),
        lambda k: k.Conv2D(48, 1, activation="relu", name="c"), lambda k: k.Flatten(),
    )  # fmt: skip
    network = networks.chain((6, 6, 8), *layers, lambda k: k.Dense(4, name="d"))
    model = networks.randomize(network(tf_keras))
    data = networks.samples(model, 48)[0]
    config = dataclasses.replace(uneven.RANGES_ONLY, weight_grid="midrise")  # layers share tables
    search = BitSearch(read(model), {"image": data}, config, (2, 8))
    bits = {"a": 2, "b": 2, "c": 8, "d": 8}
    budget = Budget(flash=search.flash(bits), arena=search.sizes.arena(bits))
    found = search.within(budget)
    assert found.bits == bits
    with pytest.raises(ValueError, match="smallest `flash` that was tried for the arena's sake is"):
        search.within(Budget(flash=budget.flash - 64, arena=budget.arena))


@needs_tflm
def test_arena(search: BitSearch) -> None:
    """Tables of a dense layer are expanded in RAM; with 8 bits it stays in flash."""
    two_bits = search.within(Budget(average_weight_bits=2.0))
    others = tuple(name for name in search.sizes.containers(two_bits.bits) if name != "hidden")
    packed, limit, unpacked = (
        search.sizes.arena(two_bits.bits, layers) for layers in (None, others, ())
    )
    assert packed > limit + 1000 > unpacked + 2000
    found = search.within(Budget(arena=limit, average_weight_bits=6.0))
    assert search.sizes.arena(found.bits) <= limit
    assert found.bits["hidden"] == 8
    assert found.average_weight_bits <= 6.0
    with pytest.raises(ValueError, match=f"even with all weights.*reached is {unpacked}$"):
        search.within(Budget(arena=unpacked - 16))
    network = networks.chain((6, 6, 2), lambda k: k.Flatten(), lambda k: k.Dense(40, name="large"))
    model = networks.randomize(network(tf_keras))
    data = networks.samples(model, 16)[0]
    few = BitSearch(read(model), {"image": data}, uneven.RANGES_ONLY, (2, 3))
    with pytest.raises(ValueError, match="even with all weights left in flash"):
        few.within(Budget(arena=64))


@pytest.mark.parametrize(
    "given", [[3, 2], range(2, 4), {2, 3}, np.array([2, 3]), iter((np.int64(2), 3))]
)
def test_candidates_may_be_of_any_kind(given: Any) -> None:
    graph = read(uneven.model())
    assert repr(candidates(graph, PTQConfig(), given)) == repr(
        dict.fromkeys(["small", "large", "hidden", "last"], (2, 3))
    )


@pytest.mark.parametrize("given", [(2, 2.5), (2, 4, 4), (True, 2, 3), range(3, 10), "24", 4, None])
def test_other_candidates_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="at least two different widths from 2 to 8.*Received: c"):
        candidates(read(uneven.model()), PTQConfig(), given)


def test_a_network_without_kernels_is_refused() -> None:
    graph = read(networks.chain((4, 4, 2), lambda k: k.MaxPooling2D(2, name="pool"))(tf_keras))
    with pytest.raises(ValueError, match=r"has no kernel.*Received: layers \['image', 'pool'\]"):
        candidates(graph, PTQConfig())


def test_fixed_layers_keep_their_bits() -> None:
    config = PTQConfig(
        first_last_bits=6, layer_bits={"hid.*": (5, 7)}, optimize=(), tune_steps=0
    )  # fmt: skip
    search = uneven.search(config)
    found = search.within(Budget(average_weight_bits=5.0))
    assert found.bits == {"small": 6, "large": 3, "hidden": 5, "last": 6}
    assert found.config.layer_bits == (("hid.*", (5, 7)), ("large", (3, 8)))
    assert found.config.first_last_bits == 6
    assert search.widths["hidden"][5].harm == 0.0
    with pytest.raises(ValueError, match="there is nothing to search"):
        uneven.search(PTQConfig(layer_bits={".*": 4}))


@needs_tflm
@pytest.mark.parametrize("activation_bits", [3, 4, 6])
def test_sizes_of_few_bits_behind_an_average(activation_bits: int, tmp_path: Path) -> None:
    """Another operator brings an average of 8 bits to few."""
    model = networks.randomize(
        networks.chain(
            (8, 8, 3), lambda k: k.Conv2D(16, 3, activation="relu"),
            lambda k: k.Conv2D(32, 3, activation="relu"), lambda k: k.GlobalAveragePooling2D(),
            lambda k: k.Dense(5),
        )(tf_keras)
    )  # fmt: skip
    x = networks.samples(model, 64)[0]
    config = dataclasses.replace(uneven.RANGES_ONLY, activation_bits=activation_bits)
    search = BitSearch(read(model), {model.input_names[0]: x}, config, (2, 4, 8))
    for bits in (2, 4, 8):
        choice = search.choice(dict.fromkeys(search.widths, bits))
        path = tmp_path / f"{bits}.tflite"
        pipelines.quantized(model, choice.config, x).export(path, packing="auto", strip="micro")
        assert (choice.flash or 0) - 96 <= path.stat().st_size <= (choice.flash or 0)
        assert measure_arena(path.read_bytes()).smallest <= search.sizes.arena(choice.bits)


def test_a_dead_channel_has_a_bias_too() -> None:
    """Its scale is a ten thousandth of the others'; the biases that sizes are measured with must fit."""
    network = networks.chain(
        (6, 6, 3), lambda k: k.Conv2D(64, 3, use_bias=False, name="first"),
        lambda k: k.BatchNormalization(name="norm"), lambda k: k.ReLU(), lambda k: k.Flatten(),
        lambda k: k.Dense(4, name="last"),
    )  # fmt: skip
    model = networks.randomize(network(tf_keras))
    norm = model.get_layer("norm")
    norm.gamma.assign(norm.gamma * np.r_[np.ones(63), 0].astype(np.float32))
    budget = Budget(flash="20kB")
    qmodel = pipelines.quantized(model, uneven.RANGES_ONLY, budget=budget)
    assert "first" in qmodel.student.kernels
