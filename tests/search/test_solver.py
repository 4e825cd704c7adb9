"""The integer program against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lowbit.search.solver import Limit, solve

WIDTHS = (2, 3, 4, 8)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, dict[int, float]], list[Limit]]:
    """Up to four layers of up to four widths; limits from hopeless to idle."""
    layers = [f"layer_{i}" for i in range(draw(st.integers(1, 4)))]
    widths = {
        layer: draw(st.lists(st.sampled_from(WIDTHS), min_size=1, unique=True)) for layer in layers
    }
    harm = {
        layer: {b: draw(st.integers(0, 10**6)) * 10.0 ** draw(st.integers(-9, 0)) for b in row}
        for layer, row in widths.items()
    }
    limits = []
    for _ in range(draw(st.integers(0, 2))):
        unit = draw(st.sampled_from([1, 16, 36_864]))
        costs = {
            layer: {b: unit * draw(st.integers(-50, 3000)) for b in row}
            for layer, row in widths.items()
        }
        pairs = [(layer, b) for layer, row in widths.items() for b in row]
        sharers = st.sets(st.sampled_from(pairs), min_size=1)
        shared = [
            (draw(sharers), unit * draw(st.integers(-20, 2000)))
            for _ in range(draw(st.integers(0, 3)))
        ]
        limits.append(Limit(costs, draw(st.integers(-100, 6000)) * unit, shared))
    return harm, limits


@settings(max_examples=150)
@given(problems())
def test_as_good_as_trying_everything(
    problem: tuple[dict[str, dict[int, float]], list[Limit]],
) -> None:
    harm, limits = problem
    tried = []
    for bits in itertools.product(*harm.values()):
        choice = dict(zip(harm, bits, strict=True))
        if all(limit.cost(choice) <= limit.most for limit in limits):
            tried.append(sum(harm[n][b] for n, b in choice.items()))
    found = solve(harm, limits)
    assert (found is None) == (not tried)
    if found is not None:
        assert all(limit.cost(found) <= limit.most for limit in limits)
        largest = max(max(row.values()) for row in harm.values())
        assert sum(harm[n][b] for n, b in found.items()) == pytest.approx(
            min(tried), rel=1e-9, abs=1e-9 * largest
        )


def test_limits_of_large_odd_numbers_are_kept() -> None:
    """The solver itself keeps them but for a millionth."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        harm = {f"layer_{i}": dict(zip(WIDTHS, generator.random(4), strict=True)) for i in range(6)}
        costs = {n: {b: int(generator.integers(10**9)) for b in WIDTHS} for n in harm}
        kept = {n: int(generator.choice(WIDTHS)) for n in harm}
        limit = Limit(costs, sum(costs[n][b] for n, b in kept.items()) - 1)
        found = solve(harm, [limit])
        assert found is None or limit.cost(found) <= limit.most


def test_no_layers() -> None:
    assert solve({}, [Limit({}, 0)]) == {}
    assert solve({}, [Limit({}, -1)]) is None


def test_cost_counts_what_is_shared_once() -> None:
    limit = Limit(
        {"a": {2: 10, 3: 20}, "b": {2: 10, 3: 20}},
        0,
        [({("a", 2), ("b", 2)}, 5), ({("a", 3), ("b", 3)}, 7)],
    )
    assert limit.cost({"a": 3, "b": 3}) == 47
    assert limit.cost({"a": 2, "b": 3}) == 42
