"""The graph as data."""

import numpy as np
import pytest
import tf_keras
from networks import graph_of, node

from keras_lowbit.graph import Node, build, role_of

DIAMOND = graph_of(
    node("sum", "Add", "left", "right"),
    node("right", "ReLU", "image", max_value=None),
    node("left", "ReLU", "image", max_value=6.0),
    node("image", "Input"),
    outputs=("sum",),
)


def test_nodes_are_sorted_and_found() -> None:
    assert [n.name for n in DIAMOND.nodes] == ["image", "left", "right", "sum"]
    assert DIAMOND["left"].config == {"max_value": 6.0}
    assert "left" in DIAMOND
    assert "up" not in DIAMOND
    assert {n.name for n in DIAMOND.consumers("image")} == {"left", "right"}


def test_the_given_order_is_kept_where_it_is_one() -> None:
    names = ["b", "a", "d", "c"]
    nodes = [node(name, "Input") for name in names]
    assert [n.name for n in graph_of(*nodes).nodes] == names


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match=r"unique.*\['twin'\]"):
        graph_of(node("twin", "Input"), node("twin", "Input"), node("other", "Input"))


def test_only_consumer() -> None:
    first = DIAMOND.only_consumer("left")
    assert first is not None
    assert first.name == "sum"
    assert DIAMOND.only_consumer("image") is None  # two readers
    assert DIAMOND.only_consumer("sum") is None  # a model output
    twice = graph_of(node("image", "Input"), node("sum", "Add", "image", "image"))
    only = twice.only_consumer("image")
    assert only is not None
    assert only.name == "sum"


def test_nodes_are_removed_and_replaced_without_touching_the_original() -> None:
    shorter = DIAMOND.without("left")
    assert shorter["sum"].inputs == ("image", "right")
    assert "left" in DIAMOND
    longer = shorter.updated(node("last", "Softmax", "sum"), shorter["sum"].replace(shape=(5,)))
    assert longer["sum"].shape == (5,)
    assert longer.nodes[-1].name == "last"
    moved = longer.redirected("sum", "last", keep="last")
    assert moved.outputs == ("last",)
    assert moved["last"].inputs == ("sum",)


def test_weighted() -> None:
    dense = Node("dense", "Dense", ("image",), (2,), {"units": 2})
    assert graph_of(node("image", "Input"), dense).weighted() == (dense,)


def test_build_wraps_layers_and_sets_weights() -> None:
    kernel = np.float32([[1, 2], [3, 4]])
    dense = Node("dense", "Dense", ("image",), (2,), {"units": 2, "use_bias": False},
                 {"kernel": kernel})  # fmt: skip
    graph = graph_of(node("image", "Input", shape=(2,)), dense, node("grid", "Quantize", "dense"))
    seen = []

    def wrap(node: Node, layer: tf_keras.layers.Layer | None) -> tf_keras.layers.Layer | None:
        seen.append(node.name)
        return layer or tf_keras.layers.Rescaling(10.0)

    model = build(graph, wrap)
    assert seen == ["image", "dense", "grid"]
    np.testing.assert_allclose(model(np.float32([[1, 1]])), [[40, 60]])


def test_roles() -> None:
    assert role_of("block/depthwise/depthwise_kernel:0") == "kernel"
    assert role_of("norm/moving_variance:0") == "variance"
    assert role_of("dense/bias:0") == "bias"
