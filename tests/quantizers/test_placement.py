"""Which tensor gets how many bits, by the rules of the runtime and of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import pytest
import tf_keras
from networks import chain

from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm
from keras_lowbit.quantizers.placement import Placement, insert_requantization, place
from keras_lowbit.reader import UnsupportedModelError, read
from models import digits, har_cnn, pretrained

W3A5 = PTQConfig(weight_bits=3, activation_bits=5)


def placed(model: Any, config: PTQConfig) -> tuple[Graph, Placement]:
    graph = insert_requantization(fold_batch_norm(read(model))[0], config)
    return graph, place(graph, config)


def bits(model: Any, config: PTQConfig) -> dict[str, int]:
    """Bits by the node whose tensor has a grid of its own."""
    return {name: spec.bits for name, spec in placed(model, config)[1].activations.items()}


def weight_bits(model: Any, config: PTQConfig) -> list[int]:
    return [spec.bits for spec in placed(model, config)[1].weights.values()]


def test_res8(shared_data: Path) -> None:
    del shared_data
    model = pretrained.load_res8()
    config = PTQConfig.uniform(4)
    linear = ("conv2d_2", "conv2d_4", "conv2d_5", "conv2d_7", "conv2d_8")  # feed adds only
    eight = {*linear, "activation_6", "dense", "dense_softmax"}  # a pool, logits, probabilities
    actual = bits(model, config)
    assert {name for name, b in actual.items() if b == 8} == eight
    assert {name for name, b in actual.items() if b == 4} == {
        "input_1", "activation", *(f"activation_{i}" for i in range(1, 6)),
        "average_pooling2d_4bit",
    }  # fmt: skip
    assert weight_bits(model, config) == [4] * 10
    narrow = bits(model, PTQConfig.uniform(4, linear_activation_bits=4))
    assert {name for name, b in narrow.items() if b == 8} == {"dense", "dense_softmax"}
    assert "average_pooling2d_4bit" not in narrow  # the pool itself has 4 bits already


def test_digits() -> None:
    assert bits(digits.build(), W3A5) == {
        "image": 8, "stem_relu": 5, "residual_first_relu": 5, "residual_second": 8,
        "residual_relu": 5, "reduce_relu": 5, "separable_depthwise_relu": 5,
        "separable_pointwise_relu": 8, "pool_5bit": 5, "classifier": 8, "classifier_softmax": 8,
    }  # fmt: skip


def test_har() -> None:
    assert bits(har_cnn.build(), W3A5) == {
        "window": 8, "conv_first_relu": 5, "conv_second_relu": 5, "dense_relu": 5,
        "classifier": 8, "classifier_softmax": 8,
    }  # fmt: skip


def test_presets() -> None:
    model = har_cnn.build()
    uniform = PTQConfig.uniform(3)
    assert list(bits(model, uniform).values()) == [3, 3, 3, 3, 8, 8]
    assert weight_bits(model, uniform) == [3, 3, 3, 3]
    edge = PTQConfig.edge8(3)
    assert list(bits(model, edge).values()) == [8, 3, 3, 8, 8, 8]
    assert weight_bits(model, edge) == [8, 3, 3, 8]


def test_layer_bits_set_the_kernel_and_its_input() -> None:
    model = har_cnn.build()
    config = PTQConfig.uniform(3, layer_bits={"conv_.*": 5, "conv_second": (2, 6), "dense": 4})
    assert weight_bits(model, config) == [5, 2, 4, 3]
    assert list(bits(model, config).values()) == [3, 6, 4, 3, 8, 8]  # input_bits rules the input


def test_a_tensor_has_the_most_bits_that_any_reader_wants() -> None:
    def network(keras: Any) -> Any:
        image = keras.Input((4, 4, 2), name="image")
        trunk = keras.layers.Conv2D(3, 1, activation="relu", name="trunk")(image)
        left = keras.layers.Conv2D(3, 1, name="left")(trunk)
        right = keras.layers.Conv2D(3, 1, name="right")(trunk)
        return keras.Model(image, keras.layers.Add(name="sum")([left, right]))

    config = PTQConfig.uniform(4, layer_bits={"left": 6, "right": 5}, linear_activation_bits=7)
    actual = bits(network(tf_keras), config)
    assert actual == {"image": 4, "trunk_relu": 6, "left": 7, "right": 7, "sum": 8}


def test_concatenated_tensors_share_a_grid() -> None:
    def network(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((4, 4, 2), name="image")
        relu = layers.Conv2D(3, 1, activation="relu", name="left")(image)
        linear = layers.Conv2D(3, 1, name="right")(image)
        joined = layers.MaxPooling2D(2)(layers.Concatenate(name="joined")([relu, linear]))
        wide = layers.Concatenate(name="again")([joined, layers.MaxPooling2D(2)(linear)])
        return keras.Model(image, layers.Conv2D(2, 1, name="last")(wide))

    _, placement = placed(network(tf_keras), W3A5)
    assert placement.groups["left_relu"] == placement.groups["right"] == "left_relu"
    assert set(placement.activations) == {"image", "left_relu", "last"}
    shared = placement.activations["left_relu"]
    assert (shared.bits, shared.unsigned) == (5, False)  # one of them is signed
    assert placement.heads == ("image", "left_relu", "right", "last")


def test_the_mean_of_a_signed_concatenation_is_signed() -> None:
    def network(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((4, 4, 2), name="image")
        relu = layers.Conv2D(3, 1, activation="relu")(image)
        joined = layers.Concatenate()([relu, layers.Conv2D(3, 1, name="linear")(image)])
        pooled = layers.GlobalAveragePooling2D(name="pool")(joined)
        return keras.Model(image, layers.Dense(2)(pooled))

    _, placement = placed(network(tf_keras), W3A5)
    spec = placement.activations["pool_5bit"]
    assert (spec.bits, spec.unsigned) == (5, False)


def test_pools_reshapes_and_padding_add_no_grid() -> None:
    model = chain(
        (8, 8, 2), lambda k: k.ZeroPadding2D(1), lambda k: k.Conv2D(3, 3, name="conv"),
        lambda k: k.MaxPooling2D(2), lambda k: k.Reshape((16, 3)), lambda k: k.MaxPooling1D(2),
        lambda k: k.Flatten(), lambda k: k.Dense(2, name="dense"),
    )(tf_keras)  # fmt: skip
    assert bits(model, W3A5) == {"image": 8, "conv": 5, "dense": 8}


def test_average_pools_are_put_on_a_narrower_grid_only_where_needed() -> None:
    def network(*behind: Any) -> Any:
        return chain((8, 8, 2), lambda k: k.Conv2D(3, 3, activation="relu", name="conv"),
                     lambda k: k.AveragePooling2D(2, name="pool"), *behind)(tf_keras)  # fmt: skip

    def conv(layers: Any) -> Any:
        return layers.Conv2D(2, 1, name="next")

    graph, placement = placed(network(conv), W3A5)
    assert graph["next"].inputs == ("pool_5bit",)
    assert placement.activations["conv_relu"].bits == 8
    assert placement.activations["pool_5bit"].unsigned
    assert placement.groups["pool"] == "conv_relu"
    graph, _ = placed(network(conv), PTQConfig(activation_bits=8))
    assert "Quantize" not in {n.kind for n in graph.nodes}
    graph, _ = placed(network(), W3A5)
    assert "Quantize" not in {n.kind for n in graph.nodes}


def test_unsigned_are_the_outputs_of_relus() -> None:
    _, placement = placed(networks.residual(tf_keras), W3A5)
    unsigned = {name for name, spec in placement.activations.items() if spec.unsigned}
    assert unsigned == {
        "stem_relu", "first_relu", "add_relu", "depthwise_relu", "pointwise_relu", "pool_5bit",
        "classifier_softmax",
    }  # fmt: skip


def test_kernels_are_symmetric_per_channel() -> None:
    graph, placement = placed(networks.residual(tf_keras), W3A5)
    for name, spec in placement.weights.items():
        assert spec.symmetric
        expected = {"Conv2D": (3,), "DepthwiseConv2D": (2, 3), "Dense": (1,)}
        assert spec.axis == expected[graph[name].kind]


def test_fixed_ranges_cannot_be_concatenated() -> None:
    def network(keras: Any) -> Any:
        image = keras.Input((4,))
        gate = keras.layers.Dense(3, activation="sigmoid", name="gate")(image)
        return keras.Model(image, keras.layers.Concatenate()([gate, image]))

    with pytest.raises(UnsupportedModelError, match=r"range TFLite fixes.*gate_sigmoid"):
        placed(network(tf_keras), W3A5)


def test_an_output_keeps_the_grid_of_the_pool_that_a_layer_reads_in_few_bits() -> None:
    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 3))
    pool = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, activation="relu")(image))
    model = tf_keras.Model(image, [layers.Dense(3, name="last")(pool), pool])
    graph, placement = placed(model, PTQConfig.uniform(4))
    assert graph.outputs == ("last", "pool")
    assert placement.activations[placement.inputs["last"]].bits == 4
    assert placement.activations[placement.groups["pool"]].bits == 8


def test_a_name_that_is_taken_is_not_given_again() -> None:
    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 3))
    pool = layers.AveragePooling2D(name="pool")(layers.Conv2D(4, 3)(image))
    graph, placement = placed(
        tf_keras.Model(image, layers.Conv2D(4, 1, name="pool_4bit")(pool)), PTQConfig.uniform(4)
    )
    assert graph["pool_4bit"].kind == "Conv2D"
    assert graph["pool_4bit"].inputs == ("pool_4bit_1",)
    assert placement.activations[placement.inputs["pool_4bit"]].bits == 4


def test_a_pool_of_the_input_gives_the_bits_that_its_reader_wants() -> None:
    network = chain(
        (8, 8, 3), lambda k: k.AveragePooling2D(name="pool"), lambda k: k.Conv2D(4, 3, name="conv")
    )
    config = PTQConfig(weight_bits=4, activation_bits=4, linear_activation_bits=4)
    assert bits(network(tf_keras), config) == {"image": 8, "pool_4bit": 4, "conv": 8}


def test_a_tensor_joined_with_the_input_keeps_its_bits() -> None:
    image = tf_keras.Input((8, 8, 3), name="image")
    layers = tf_keras.layers
    inner = layers.Conv2D(3, 3, padding="same", activation="relu", name="inner")(image)
    joined = layers.Concatenate(name="joined")([image, inner])
    model = tf_keras.Model(image, layers.Conv2D(2, 3, name="conv")(joined))
    for input_bits, own in ((4, 8), (8, 4)):
        config = PTQConfig(weight_bits=4, activation_bits=own, input_bits=input_bits)
        assert bits(model, config)["image"] == 8
