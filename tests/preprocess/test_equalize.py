"""Equalization keeps the function and makes ranges equal."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import tf_keras
from networks import chain

from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph, build
from keras_lowbit.layer_table import LAYERS
from keras_lowbit.preprocess.equalize import equalize
from keras_lowbit.preprocess.preprocess import preprocess
from keras_lowbit.reader import read

CHAINS = {
    "conv, conv": (
        chain((7, 7, 3), lambda k: k.Conv2D(6, 3, activation="relu", name="a"),
              lambda k: k.Conv2D(4, 3, padding="same", name="b")),
        (("a", "b"),),
    ),
    "conv, depthwise, conv": (
        chain((7, 7, 3), lambda k: k.Conv2D(6, 3, activation="relu", name="a"),
              lambda k: k.DepthwiseConv2D(3, activation="relu", use_bias=False, name="b"),
              lambda k: k.Conv2D(4, 1, name="c")),
        (("a", "b"), ("b", "c")),
    ),
    "depthwise with a multiplier": (
        chain((7, 7, 3), lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="a"),
              lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="b"),
              lambda k: k.Conv2D(4, 1, name="c")),
        (("a", "b"), ("b", "c")),
    ),
    "conv1d": (
        chain((9, 3), lambda k: k.Conv1D(6, 3, activation="relu", name="a"),
              lambda k: k.Conv1D(4, 3, padding="causal", name="b")),
        (("a", "b"),),
    ),
    "dense": (
        chain((5,), lambda k: k.Dense(6, activation="relu", name="a"), lambda k: k.Dense(3, name="b")),
        (("a", "b"),),
    ),
    "relu6": (
        chain((5,), lambda k: k.Dense(6, name="a"), lambda k: k.ReLU(6.0),
              lambda k: k.Dense(3, name="b")),
        (),
    ),
    "sigmoid": (
        chain((5,), lambda k: k.Dense(6, activation="sigmoid"), lambda k: k.Dense(3)), (),
    ),
    "pool": (
        chain((7, 7, 3), lambda k: k.Conv2D(6, 3), lambda k: k.MaxPooling2D(2),
              lambda k: k.Conv2D(4, 1)),
        (),
    ),
}  # fmt: skip


def ranges(graph: Graph, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    kernel1, kernel2 = (graph[name].weights["kernel"] for name in (first, second))
    axis = LAYERS[graph[first].kind].kernel_axis
    others = tuple(a for a in range(kernel1.ndim) if a not in axis)
    rows = tuple(a for a in range(kernel2.ndim) if a != kernel2.ndim - 2)
    return np.abs(kernel1).max(others).ravel(), np.abs(kernel2).max(rows)


@pytest.mark.parametrize("name", CHAINS)
def test_function_kept_and_ranges_equal(name: str) -> None:
    network, expected_pairs = CHAINS[name]
    model = networks.randomize(network(tf_keras))
    graph = read(model)
    uneven = np.random.default_rng(0)
    graph = graph.updated(*(
        n.replace(weights={**n.weights, "kernel": (
            n.weights["kernel"] * 10 ** uneven.uniform(-1, 1, n.weights["kernel"].shape[-1])
        ).astype(np.float32)})
        for n in graph.weighted()
    ))  # fmt: skip
    equalized, pairs = equalize(graph)
    assert pairs == expected_pairs
    inputs = networks.samples(model, 16)
    expected = networks.outputs(build(graph), inputs)[0]
    actual = networks.outputs(build(equalized), inputs)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    for first, second in pairs:
        left, right = ranges(equalized, first, second)
        np.testing.assert_allclose(left, right, rtol=0.02)


def test_forks_are_skipped() -> None:
    _, pairs = equalize(read(networks.two_outputs(tf_keras)))
    assert pairs == ()


@pytest.mark.parametrize("name", CHAINS)
def test_one_warning_where_nothing_is_equalized(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    network, pairs = CHAINS[name]
    graph = read(networks.randomize(network(tf_keras)))
    with caplog.at_level("WARNING", logger="absl"):
        preprocess(graph, PTQConfig(equalize=True))
        preprocess(graph, PTQConfig())
    assert caplog.text.count("found no pair of layers to equalize") == (0 if pairs else 1)


def test_dead_channels_keep_everything_finite() -> None:
    model = networks.randomize(CHAINS["conv, conv"][0](tf_keras))
    graph = read(model)
    dead = graph["a"].weights["kernel"].copy()
    dead[..., 2] = 0.0
    graph = graph.updated(graph["a"].replace(weights={**graph["a"].weights, "kernel": dead}))
    equalized, _ = equalize(graph)
    assert all(np.isfinite(v).all() for n in equalized.nodes for v in n.weights.values())
    inputs = networks.samples(model)
    np.testing.assert_allclose(
        networks.outputs(build(equalized), inputs)[0], networks.outputs(build(graph), inputs)[0],
        atol=1e-4,
    )  # fmt: skip
