"""Splitting keeps the function, lowers the largest weights and costs no weight its precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from networks import chain

import keras_lowbit
from keras_lowbit import PTQConfig
from keras_lowbit.accounting import cost_of
from keras_lowbit.config import TensorSpec
from keras_lowbit.export import runtimes
from keras_lowbit.graph import Graph, build
from keras_lowbit.layer_table import LAYERS
from keras_lowbit.preprocess.preprocess import preprocess
from keras_lowbit.preprocess.split_channels import _chosen, _split, split_channels
from keras_lowbit.quantizers.numerics import quantize
from keras_lowbit.quantizers.ranges import kernel_range
from keras_lowbit.reader import read

CHAINS = {  # and, by layer, how many input channels are split of how many, at a ratio of 0.25
    "conv, conv": (
        chain((7, 7, 3), lambda k: k.Conv2D(6, 3, activation="relu", name="a"),
              lambda k: k.Conv2D(4, 3, padding="same", name="b"), lambda k: k.Conv2D(5, 1, name="c")),
        {"b": (2, 6), "c": (1, 4)},
    ),
    "relu6": (
        chain((7, 7, 3), lambda k: k.Conv2D(6, 3, use_bias=False), lambda k: k.ReLU(6.0),
              lambda k: k.Conv2D(4, 3, strides=2, name="b")),
        {"b": (2, 6)},
    ),
    "conv, depthwise, conv": (
        chain((7, 7, 3), lambda k: k.Conv2D(8, 3, activation="relu", name="a"),
              lambda k: k.DepthwiseConv2D(3, use_bias=False), lambda k: k.ReLU(6.0),
              lambda k: k.DepthwiseConv2D(2, strides=2, activation="relu"),
              lambda k: k.Conv2D(4, 1, name="c")),
        {"c": (2, 8)},
    ),
    "conv1d": (
        chain((9, 3), lambda k: k.Conv1D(6, 3, activation="sigmoid", name="a"),
              lambda k: k.ZeroPadding1D(1), lambda k: k.MaxPooling1D(2),
              lambda k: k.Conv1D(4, 3, padding="causal", name="b"),
              lambda k: k.AveragePooling1D(2), lambda k: k.GlobalAveragePooling1D(),
              lambda k: k.Dense(3, name="c")),
        {"b": (2, 6), "c": (1, 4)},
    ),
    "dense": (
        chain((5,), lambda k: k.Dense(7, activation="relu", name="a"), lambda k: k.Dense(3, name="b"),
              lambda k: k.Dense(2, activation="softmax", name="c")),
        {"b": (2, 7), "c": (1, 3)},
    ),
    "pools and padding": (
        chain((9, 9, 2), lambda k: k.Conv2D(1, 3), lambda k: k.ZeroPadding2D(1),
              lambda k: k.MaxPooling2D(2), lambda k: k.AveragePooling2D(2),
              lambda k: k.Conv2D(6, 1, name="b"), lambda k: k.GlobalAveragePooling2D(),
              lambda k: k.Dense(3, name="c")),
        {"b": (1, 1), "c": (2, 6)},
    ),
    "a depth multiplier": (
        chain((7, 7, 3), lambda k: k.Conv2D(4, 3), lambda k: k.DepthwiseConv2D(3, depth_multiplier=2),
              lambda k: k.Conv2D(4, 1)),
        {},
    ),
    "flatten": (
        chain((4, 4, 2), lambda k: k.Conv2D(4, 3), lambda k: k.Flatten(), lambda k: k.Dense(3)), {},
    ),
    "inputs": (chain((4, 4, 2), lambda k: k.DepthwiseConv2D(3), lambda k: k.Conv2D(4, 1)), {}),
}  # fmt: skip


def specs(graph: Graph, bits: int = 4) -> dict[str, TensorSpec]:
    axes = {node.name: LAYERS[node.kind].kernel_axis for node in graph.weighted()}
    return {name: TensorSpec(bits, True, axis) for name, axis in axes.items()}


def note(counts: tuple[int, int]) -> str:
    return f"{counts[0]} of {counts[1]} input channels split"


@pytest.mark.parametrize("name", CHAINS)
def test_function_kept_and_shapes_right(name: str) -> None:
    network, expected = CHAINS[name]
    model = networks.randomize(network(tf_keras))
    graph = read(model)
    split, notes = split_channels(graph, 0.25, specs(graph))
    assert notes == {layer: note(counts) for layer, counts in expected.items()}
    inputs = networks.samples(model, 16)
    before = networks.outputs(build(graph), inputs)[0]
    after = networks.outputs(build(split), inputs)[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6 * np.abs(before).max())
    again = read(build(split))
    for node in split.nodes:
        assert again[node.name].shape == node.shape
        assert again[node.name].config == node.config
        assert all(value.dtype == np.float32 for value in node.weights.values())
    for layer, (count, channels) in expected.items():
        assert split[layer].weights["kernel"].shape[-2] == channels + count


def test_forks_adds_concatenations_and_outputs_are_left_alone() -> None:
    def network(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((6, 6, 2))
        trunk = layers.Conv2D(4, 1, name="trunk")(image)
        left = layers.Conv2D(4, 1, name="left")(trunk)  # reads a fork
        added = layers.Add()([trunk, left])
        output = layers.Conv2D(3, 1, name="behind_add")(added)  # and is read twice
        joined = layers.Concatenate()([output, added])
        return keras.Model(
            image, [output, layers.Conv2D(2, 1)(joined), layers.Conv2D(2, 1)(output)]
        )

    for model in (network(tf_keras), networks.two_outputs(tf_keras)):
        graph = read(networks.randomize(model))
        split, notes = split_channels(graph, 0.5, specs(graph))
        assert notes == {}
        assert split is graph


def test_one_warning_where_nothing_is_split(caplog: pytest.LogCaptureFixture) -> None:
    alone, pair = networks.two_outputs, CHAINS["conv, conv"][0]
    with caplog.at_level("WARNING", logger="absl"):
        for network, ratio in ((alone, 0.1), (alone, 0.0), (pair, 0.1)):
            graph = read(networks.randomize(network(tf_keras)))
            preprocess(graph, PTQConfig(split_channels=ratio))
    assert caplog.text.count("found no layer to split") == 1
    assert "split_channels=0.1 found" in caplog.text


def test_the_inside_of_a_residual_block_is_split() -> None:
    graph = read(networks.randomize(networks.residual(tf_keras)))
    prepared, notes = preprocess(graph, PTQConfig(split_channels=0.2))
    assert {name: text for name, text in notes.items() if "split" in text} == {
        "second": note((2, 8)), "classifier": note((4, 16)),
    }  # fmt: skip
    assert prepared["first"].weights["bias"].shape == (10,)
    assert prepared["first_relu"].shape == (8, 8, 10)
    assert prepared["second"].shape == (8, 8, 8)


def test_a_ratio_of_zero_changes_nothing() -> None:
    graph = read(networks.randomize(CHAINS["conv, conv"][0](tf_keras)))
    assert split_channels(graph, 0.0, specs(graph)) == (graph, {})
    prepared, notes = preprocess(graph, PTQConfig(split_channels=0.0))
    assert prepared is graph
    assert notes == {}


def test_shares_are_rounded_up_from_the_exact_product() -> None:
    network = chain((3,), lambda k: k.Dense(100), lambda k: k.Dense(2, name="b"))
    graph = read(networks.randomize(network(tf_keras)))
    for ratio, count in ((0.07, 7), (0.071, 8), (0.001, 1), (0.5, 50)):
        assert split_channels(graph, ratio, specs(graph))[1] == {"b": note((count, 100))}


def test_notes_of_equalization_stay() -> None:
    graph = read(networks.randomize(CHAINS["conv, conv"][0](tf_keras)))
    _, notes = preprocess(graph, PTQConfig(equalize=True, split_channels=0.25))
    assert notes["a"] == "equalized with b"
    assert notes["b"] == "equalized with c; 2 of 6 input channels split"
    assert notes["c"] == "1 of 4 input channels split"


# ---- the equation


def codes(values: Any, scale: float, bits: int = 8) -> np.ndarray:
    spec = TensorSpec(bits, symmetric=True)
    return np.asarray(quantize(np.float32(values), scale, 0.0, spec.qmin, spec.qmax))


def test_two_halves_by_hand() -> None:
    # Scale 1: 3.4 -> (1.45, 1.95) -> 1 + 2 = 3, where plain halves give 2 + 2.
    # Scale 2, in the second output channel: 5 is 2.5 steps -> (2, 3) -> 1 + 2 = 3, -5 -> -2.
    kernel = np.array([[3.4, 5.0], [0.2, -5.0]])
    split = _split(kernel, [0, 1], np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(split, [[1.45, 2.0], [-0.15, -3.0], [1.95, 3.0], [0.35, -2.0]])
    rounded = codes(split, np.float32([1.0, 2.0]))
    np.testing.assert_array_equal(rounded, [[1, 1], [0, -1], [2, 2], [0, -1]])
    np.testing.assert_array_equal(rounded[:2] + rounded[2:], codes(kernel, np.float32([1.0, 2.0])))
    plain = _split(kernel, [0, 1], 0.0)
    np.testing.assert_array_equal(plain, np.concatenate([kernel, kernel]) / 2)
    assert 2 * codes(plain, 1.0)[0, 0] == 4


@pytest.mark.parametrize("chosen", [[0], [0, 0], [0, 1, 2, 0]])
def test_rounded_parts_sum_to_the_rounded_weight(chosen: list[int]) -> None:
    weights = np.arange(-100, 101)[None] / 8.0  # among them every kind of half
    parts = codes(_split(weights, chosen, 1.0), 1.0)
    assert len(parts) == 1 + len(chosen)
    np.testing.assert_array_equal(parts.sum(axis=0), codes(weights[0], 1.0))


# ---- the choice of the channel


def test_with_one_output_channel_the_largest_weight_is_split() -> None:
    kernel = np.array([1.0, -6.0, 2.5, 4.0])[:, None]
    # 6 -> 3 3, then 4 -> 2 2, then the 3s, the copy at index 4 too.
    assert _chosen(kernel, 2) == [1, 3]
    assert sorted(_chosen(kernel, 4)) == [1, 1, 3, 4]
    split = _split(kernel, _chosen(kernel, 4), 0.0)
    assert np.abs(split).max() == 2.5  # the largest of what was not split


def test_with_many_the_largest_fall_of_the_scales_decides() -> None:
    kernel = np.array([[9.0, 0.1, 0.1], [8.8, 0.1, 0.1], [1.0, 6.0, 6.0]])
    assert _chosen(kernel, 1) == [2]  # not the 9, beside which 8.8 would stay


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_scales_and_errors_fall_on_planted_outliers(bits: int, method: str) -> None:
    network = chain((6, 6, 3), lambda k: k.Conv2D(16, 3, activation="relu", name="a"),
                    lambda k: k.Conv2D(8, 3, name="b"))  # fmt: skip
    graph = read(networks.randomize(network(tf_keras)))
    kernel = graph["b"].weights["kernel"].copy()
    sizes = np.random.default_rng(0).uniform(2.0, 3.0, (2, 8)) * np.abs(kernel).max()
    kernel[1, 1, [3, 11]] = sizes * [[1], [-1]]
    graph = graph.updated(graph["b"].replace(weights={"kernel": kernel}))
    grid = specs(graph, bits)["b"]
    split, _ = split_channels(graph, 2 / 16, {"b": grid}, method)
    widened = split["b"].weights["kernel"]
    filters, copies = (g["a"].weights["kernel"].reshape(27, -1).T for g in (graph, split))
    sources = [int(np.abs(filters - copy).sum(axis=1).argmin()) for copy in copies]
    assert sources[:16] == list(range(16))
    assert sorted(sources[16:]) == [3, 11]

    def error(values: np.ndarray, rows: list[int]) -> float:
        """Squared error of what multiplies each of the original channels."""
        scale = kernel_range(values, grid, method)[0]
        rounded = scale * np.asarray(quantize(values, scale, 0.0, grid.qmin, grid.qmax))
        summed = np.zeros_like(kernel)
        np.add.at(summed, (slice(None), slice(None), rows), rounded)
        return float(((summed - kernel) ** 2).mean())

    original = list(range(16))
    assert error(widened, sources) < 0.7 * error(kernel, original)
    half = _split(kernel, [3, 11], 0.0).astype(np.float32)
    assert error(widened, sources) < error(half, [*original, 3, 11])
    before, after = (kernel_range(k, grid, "minmax")[0] for k in (kernel, widened))
    # Half the largest weight, and half of the half step that it was moved by.
    largest = np.abs(widened).max(axis=(0, 1, 2))
    assert (largest <= np.abs(kernel).max(axis=(0, 1, 2)) / 2 + before.ravel() / 4).all()
    assert (after < 0.7 * before).all()


# ---- the whole pipeline

small = chain(
    (8, 8, 3), lambda k: k.Conv2D(8, 3, use_bias=False, name="a"), lambda k: k.BatchNormalization(),
    lambda k: k.ReLU(6.0), lambda k: k.DepthwiseConv2D(3, activation="relu", name="d"),
    lambda k: k.Conv2D(12, 1, activation="relu", name="b"),
    lambda k: k.Conv2D(6, 1, name="c"), lambda k: k.GlobalAveragePooling2D(),
    lambda k: k.Dense(4, activation="softmax", name="e"),
)  # fmt: skip


@pytest.mark.skipif("tflm" not in runtimes.available(), reason="tflite_micro is not installed")
def test_exact_on_tflm(tmp_path: Path) -> None:
    config = pipelines.ranges_only(3, split_channels=0.1, optimize=("adaround", "lsq"), steps=4)
    qmodel = pipelines.quantized(networks.randomize(small(tf_keras)), config)
    assert qmodel.notes["b"] == note((1, 8))
    assert qmodel.notes["c"] == note((2, 12))
    pipelines.prove(qmodel, tmp_path)
    qmodel.save(tmp_path / "saved")
    loaded = keras_lowbit.load(tmp_path / "saved")
    assert loaded.student.graph["b"].weights["kernel"].shape == (1, 1, 9, 14)
    assert f"c: {note((2, 12))}" in str(loaded.report())


def test_what_it_costs() -> None:
    model = networks.randomize(small(tf_keras))
    ranges = [pipelines.ranges_only(4, split_channels=ratio) for ratio in (0.0, 0.25)]
    plain, wide = (pipelines.quantized(model, config).cost() for config in ranges)
    # Added channels: 2 of a's and d's 8, 3 of b's 12, 2 of c's 6. First parameters ...
    kernels = 2 * 27 + 2 * 9 + (10 * 15 - 8 * 12) + (15 * 8 - 12 * 6) + 2 * 4
    biases = 2 + 2 + 3 + 2
    assert wide.parameters - plain.parameters == kernels + biases
    # ... then operations: 36 positions for a, 16 for d, b and c.
    macs = 36 * 2 * 27 + 16 * (kernels - 2 * 27 - 2 * 4) + 2 * 4
    assert wide.macs - plain.macs == macs
    assert wide.weight_bytes - plain.weight_bytes == math.ceil(kernels / 2) + 4 * biases
    assert wide.bops > plain.bops
    prepared, _ = preprocess(read(model), ranges[1])
    assert cost_of(prepared).macs == wide.macs
