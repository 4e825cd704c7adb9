"""Units are found from the graph alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import tf_keras

from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm
from keras_lowbit.quantizers.placement import Placement, insert_requantization, place
from keras_lowbit.reader import read
from keras_lowbit.reconstruct.units import Unit, find_units, whole_network
from models import digits, har_cnn, pretrained

CONFIG = PTQConfig.uniform(4)


def placed(model: Any) -> tuple[Graph, Placement]:
    graph = insert_requantization(fold_batch_norm(read(model))[0], CONFIG)
    return graph, place(graph, CONFIG)


def units_of(model: Any, size: str) -> tuple[Unit, ...]:
    graph, placement = placed(model)
    units = find_units(graph, placement, size)
    assert_partition(units, placement, graph.inputs)
    assert sorted(name for unit in units for name in unit.layers) == sorted(
        node.name for node in graph.weighted()
    )
    return units


def assert_partition(
    units: tuple[Unit, ...], placement: Placement, inputs: tuple[str, ...]
) -> None:
    """Every tensor is computed in one unit, and every unit reads what came before it."""
    computed = list(inputs)
    for unit in units:
        assert set(unit.inputs) <= set(computed)
        assert unit.outputs
        computed += [*unit.inner, *unit.outputs]
        read_elsewhere = {n for other in units if other is not unit for n in other.inputs}
        assert not read_elsewhere & set(unit.inner)
    assert sorted(computed) == sorted(placement.heads)


def layers(units: tuple[Unit, ...]) -> list[tuple[str, ...]]:
    return [unit.layers for unit in units if unit.layers]


def test_res8_blocks(shared_data: Path) -> None:
    del shared_data
    units = units_of(pretrained.load_res8(), "block")
    assert layers(units) == [
        ("conv2d",),
        ("conv2d_1", "conv2d_2"),
        ("conv2d_5", "conv2d_3", "conv2d_4"),
        ("conv2d_8", "conv2d_6", "conv2d_7"),
        ("dense",),
    ]
    first = units[1]
    assert first.inputs == ("activation",)
    assert first.inner == ("activation_1", "conv2d_2")
    assert first.outputs == ("activation_2",)  # behind the add and its ReLU
    assert first.name == "conv2d_1 + conv2d_2"


def test_res8_layers(shared_data: Path) -> None:
    del shared_data
    units = units_of(pretrained.load_res8(), "layer")
    assert all(len(unit.layers) <= 1 and not unit.inner for unit in units)
    assert len(layers(units)) == 10
    add = next(unit for unit in units if unit.outputs == ("activation_2",))
    assert add == Unit("activation_2", ("activation", "conv2d_2"), (), ("activation_2",), ())


@pytest.mark.parametrize(
    ("load", "pairs"), [(pretrained.load_ds_cnn, 4), (pretrained.load_mobilenet, 13)]
)
def test_depthwise_pairs(shared_data: Path, load: Callable[[], Any], pairs: int) -> None:
    del shared_data
    found = layers(units_of(load(), "block"))
    assert [len(names) for names in found] == [1, *[2] * pairs, 1]
    for depthwise, pointwise in found[1:-1]:
        assert depthwise.startswith("depthwise")
        assert pointwise.startswith("conv2d")


def test_chains_have_the_same_layers_and_blocks() -> None:
    model = har_cnn.build()
    assert units_of(model, "layer") == units_of(model, "block")
    assert layers(units_of(model, "layer")) == [
        ("conv_first",), ("conv_second",), ("dense",), ("classifier",),
    ]  # fmt: skip


def test_digits() -> None:
    assert layers(units_of(digits.build(), "block")) == [
        ("stem",), ("residual_first", "residual_second"), ("reduce",),
        ("separable_depthwise", "separable_pointwise"), ("classifier",),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [2, 3])
def test_merged_blocks(count: int) -> None:
    blocks = layers(units_of(digits.build(), "block"))
    merged = layers(units_of(digits.build(), f"merged:{count}"))
    assert merged == [sum(blocks[i : i + count], ()) for i in range(0, len(blocks), count)]


def test_more_blocks_than_there_are() -> None:
    for network in (networks.residual, networks.two_outputs):
        merged = [unit for unit in units_of(network(tf_keras), "merged:99") if unit.layers]
        (whole,) = (unit for unit in units_of(network(tf_keras), "network") if unit.layers)
        assert [set(unit.layers) for unit in merged] == [set(whole.layers)]


@pytest.mark.parametrize("network", [networks.residual, networks.two_outputs])
def test_network(network: networks.Network) -> None:
    units = [unit for unit in units_of(network(tf_keras), "network") if unit.layers]
    assert len(units) == 1
    assert units[0].inputs == ("image",)


HEADS = {
    "dense": ((4,), [lambda k: k.Dense(3, name="last")], "last", ()),
    "reshaped": ((1, 1, 4), [lambda k: k.Conv2D(3, 1, name="conv"), lambda k: k.Flatten(name="last")],
                 "last", ("conv",)),
    "averaged": ((4, 2, 4), [lambda k: k.Conv2D(3, 1, name="conv"),
                             lambda k: k.GlobalAveragePooling2D(name="last")], "last", ("conv",)),
}  # fmt: skip


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("behind", [[], ["softmax"], ["sigmoid", "reshape"]])
def test_the_whole_network_ends_at_the_logits(head: str, behind: list[str]) -> None:
    made = {
        "softmax": lambda k: k.Softmax(), "sigmoid": lambda k: k.Activation("sigmoid"),
        "reshape": lambda k: k.Reshape((1, 3)),
    }  # fmt: skip
    shape, layers, end, inner = HEADS[head]
    model = networks.chain(shape, *layers, *(made[name] for name in behind))(tf_keras)
    graph, placement = placed(model)
    unit = whole_network(graph, placement)
    assert unit.outputs == (end,)
    assert unit.inner == inner
    assert unit.inputs == graph.inputs


def test_the_whole_network_with_several_ends() -> None:
    keras = tf_keras
    image = keras.Input((4, 4, 3), name="image")
    event = keras.layers.Dense(1, name="event")(keras.layers.Flatten()(image))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(
        keras.layers.Conv2D(5, 3, name="conv")(image)
    )
    both = keras.layers.Add(name="both")(
        [pooled, keras.layers.Activation("sigmoid", name="gate")(pooled)]
    )
    outputs = [
        keras.layers.Activation("sigmoid")(event),
        keras.layers.Softmax()(both),
        both,
        pooled,
    ]
    unit = whole_network(*placed(keras.Model(image, outputs)))
    assert unit.outputs == ("event", "both", "pooled")
    assert set(unit.inner) == {"conv", "gate"}
    assert set(unit.layers) == {"event", "conv"}


def test_a_network_of_its_input() -> None:
    image = tf_keras.Input((4, 4, 3), name="image")
    unit = whole_network(*placed(tf_keras.Model(image, tf_keras.layers.Flatten()(image))))
    assert not unit.layers


@pytest.mark.parametrize("size", ["block", "network", "merged:2"])
@pytest.mark.parametrize("names", [("left", "right"), ("right", "left")])
def test_logits_are_compared_whatever_the_order_of_outputs(
    size: str, names: tuple[str, str]
) -> None:
    layers = tf_keras.layers
    image = tf_keras.Input((6,), name="image")
    trunk = layers.Dense(4, activation="relu", name="trunk")(image)
    outputs = [layers.Dense(3, activation="softmax", name=name)(trunk) for name in names]
    last = [unit for unit in units_of(tf_keras.Model(image, outputs), size) if unit.layers][-1]
    assert set(last.outputs) == set(names)


def test_two_outputs() -> None:
    model = networks.two_outputs(tf_keras)
    (unit,) = units_of(model, "network")
    assert set(unit.outputs) == {"left", "right"}
    for size in ("layer", "block"):
        outputs = {name for unit in units_of(model, size) for name in unit.outputs}
        assert {"left", "right"} <= outputs


def test_a_skip_over_everything_is_one_block() -> None:
    def network(keras: Any) -> Any:
        image = keras.Input((4, 4, 3), name="image")
        hidden = keras.layers.Conv2D(3, 1, activation="relu", name="first")(image)
        hidden = keras.layers.Conv2D(3, 1, activation="relu", name="second")(hidden)
        joined = keras.layers.Add(name="sum")([image, hidden])
        return keras.Model(image, keras.layers.Conv2D(2, 1, name="last")(joined))

    assert layers(units_of(network(tf_keras), "block")) == [("first", "second"), ("last",)]
