"""Reading Keras models of both flavours, and refusing what cannot be quantized."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras as keras3
import networks
import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras
from networks import FLAVOURS, chain

from keras_lowbit._keras import load_float_model
from keras_lowbit.graph import build
from keras_lowbit.reader import UnsupportedModelError, read

IMAGE = (9, 8, 3)
SERIES = (12, 3)


def _branches(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input(IMAGE, name="image")
    relu = layers.ReLU(name="shared_relu")  # one layer object, two calls
    left = relu(layers.Conv2D(3, 1, name="left")(image))
    right = relu(layers.Conv2D(3, 3, padding="same", name="right")(image))
    joined = layers.Concatenate(name="concat")([left, right, image])
    return keras.Model(image, [joined, layers.Add(name="sum")([left, right, image])])


def _shared_add(keras: Any) -> Any:
    add = keras.layers.Add()
    image = keras.Input((4,), name="image")
    hidden = keras.layers.Dense(4)(image)
    return keras.Model(image, add([image, add([image, hidden])]))


def _nested(keras: Any) -> Any:
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same"), layers.ReLU()], name="inner"
    )
    skip = keras.Input((8, 8, 4))
    block = keras.Model(skip, layers.Add()([skip, inner(skip)]), name="block")
    image = keras.Input((8, 8, 3), name="image")
    hidden = layers.Conv2D(4, 1, name="stem")(image)
    return keras.Model(image, layers.Flatten()(layers.Dropout(0.5)(block(hidden))))


def _nested_by_names(keras: Any) -> Any:
    """Nested models that are built on lists and dicts and called with dicts, also by keyword."""

    def inner(name: str, units: int, form: Any = list) -> Any:
        later, earlier = keras.Input((4,), name="b"), keras.Input((4,), name="a")
        joined = keras.layers.Concatenate()([later, earlier])
        inputs = [later, earlier] if form is list else {"b": later, "a": earlier}
        return keras.Model(inputs, keras.layers.Dense(units)(joined), name=name)

    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    third = inner("positional", 4)({"a": second, "b": first, "c": second})
    fourth = inner("keyword", 4)(inputs={"a": third, "b": second})
    fifth = inner("second_keyword", 4)(training=False, inputs={"a": fourth, "b": second})
    last = inner("on_a_dict", 3, dict)({"b": fifth, "a": first, "z": second})
    return keras.Model([first, second], last)


def _nested_on_a_nested_list(keras: Any) -> Any:
    """Keras 2 then goes by the order of the keys."""
    later, earlier = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    joined = keras.layers.Concatenate()([later, earlier])
    inner = keras.Model([later, [earlier]], keras.layers.Dense(3)(joined), name="inner")
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    given = {"a": second, "b": first} if keras is tf_keras else [second, [first]]
    return keras.Model([first, second], inner(given))


def _sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([
        keras.Input(IMAGE), layers.SeparableConv2D(5, 3, activation="relu"), layers.Flatten(),
        layers.Dense(4, activation="softmax"),
    ])  # fmt: skip


def _two_inputs(keras: Any) -> Any:
    first, second = keras.Input((4,), name="first"), keras.Input((6,), name="second")
    hidden = keras.layers.Dense(4)(second)
    return keras.Model([first, second], keras.layers.Add()([first, hidden]))


NETWORKS: dict[str, networks.Network] = {
    "conv valid": chain(IMAGE, lambda k: k.Conv2D(4, (3, 2))),
    "conv same strided": chain(IMAGE, lambda k: k.Conv2D(4, 3, strides=(2, 3), padding="same")),
    "conv dilated": chain(IMAGE, lambda k: k.Conv2D(4, 3, dilation_rate=2, padding="same")),
    "conv no bias, relu": chain(IMAGE, lambda k: k.Conv2D(4, 3, use_bias=False, activation="relu")),
    "conv relu6": chain(IMAGE, lambda k: k.Conv2D(4, 3), lambda k: k.ReLU(6.0)),
    "activation relu6": chain(IMAGE, lambda k: k.Conv2D(4, 3), lambda k: k.Activation("relu6")),
    "depthwise": chain(IMAGE, lambda k: k.DepthwiseConv2D(3, depth_multiplier=2)),
    "depthwise strided": chain(
        IMAGE, lambda k: k.DepthwiseConv2D(3, strides=2, padding="same", activation="relu")
    ),
    "depthwise dilated": chain(IMAGE, lambda k: k.DepthwiseConv2D(3, dilation_rate=(2, 2))),
    "separable": chain(
        IMAGE,
        lambda k: k.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2),
        lambda k: k.SeparableConv2D(4, 2, use_bias=False, activation="relu"),
    ),
    "conv1d valid": chain(SERIES, lambda k: k.Conv1D(4, 3, strides=2)),
    "conv1d same": chain(SERIES, lambda k: k.Conv1D(4, 4, padding="same", activation="relu")),
    "conv1d causal": chain(SERIES, lambda k: k.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    "dense": chain((5,), lambda k: k.Dense(4, activation="sigmoid")),
    "activations": chain(
        (5,), lambda k: k.Dense(4), lambda k: k.Activation("relu"), lambda k: k.Dense(3),
        lambda k: k.Activation("linear"), lambda k: k.Softmax(),
    ),
    "sigmoid": chain((5,), lambda k: k.Dense(4), lambda k: k.Activation("sigmoid")),
    "softmax": chain((5,), lambda k: k.Dense(4), lambda k: k.Activation("softmax")),
    "average pool": chain(IMAGE, lambda k: k.AveragePooling2D((2, 3), strides=2, padding="same")),
    "max pool": chain(IMAGE, lambda k: k.MaxPooling2D(2), lambda k: k.MaxPooling2D(2, 1, "same")),
    "pools 1d": chain(SERIES, lambda k: k.MaxPooling1D(2), lambda k: k.AveragePooling1D(3, 1)),
    "global pool": chain(IMAGE, lambda k: k.GlobalAveragePooling2D(keepdims=True)),
    "global pool 1d": chain(SERIES, lambda k: k.GlobalAveragePooling1D()),
    "padding": chain(IMAGE, lambda k: k.ZeroPadding2D(((1, 0), (2, 1))), lambda k: k.Conv2D(2, 3)),
    "padding 1d": chain(SERIES, lambda k: k.ZeroPadding1D((2, 1)), lambda k: k.Conv1D(2, 3)),
    "reshape": chain(IMAGE, lambda k: k.Reshape((-1, 6)), lambda k: k.Flatten()),
    "batch norm": chain(IMAGE, lambda k: k.Conv2D(4, 3), lambda k: k.BatchNormalization()),
    "bare batch norm": chain(
        (5,), lambda k: k.Dense(4),
        lambda k: k.BatchNormalization(center=False, scale=False, epsilon=0.01),
    ),
    "scalings": chain(
        IMAGE, lambda k: k.Rescaling(1 / 127.5, offset=-1.0), lambda k: k.Conv2D(4, 3, padding="same"),
        lambda k: k.Normalization(mean=[0.5, -1.0, 2.0, 0.0], variance=[4.0, 0.25, 1e-3, 1.0]),
        lambda k: k.Flatten(), lambda k: k.Dense(2), lambda k: k.Rescaling([2.0, 3.0], [0.1, -0.2]),
        lambda k: k.Normalization(axis=None, mean=3.0, variance=0.25, invert=True),
    ),
    "noise": chain((5,), lambda k: k.GaussianNoise(0.1), lambda k: k.Dense(2)),
    "augmented": chain(
        IMAGE, lambda k: k.RandomFlip(), lambda k: k.RandomContrast(0.1), lambda k: k.AlphaDropout(0.1),
        lambda k: k.Flatten(), lambda k: k.Dense(2, activation=tf.nn.softmax),
    ),
    "branches": _branches,
    "shared add": _shared_add,
    "nested": _nested,
    "nested by names": _nested_by_names,
    "nested on a nested list": _nested_on_a_nested_list,
    "sequential": _sequential,
    "two inputs": _two_inputs,
    "residual": networks.residual,
    "two outputs": networks.two_outputs,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_both_flavours_give_the_same_graph_and_the_same_outputs(name: str) -> None:
    graphs = []
    for keras in FLAVOURS.values():
        model = networks.randomize(NETWORKS[name](keras))
        weights = [w.copy() for w in model.get_weights()]
        inputs = networks.samples(model)
        expected = networks.outputs(model, inputs)
        graph = read(model)
        actual = networks.outputs(build(graph), inputs)
        for left, right in zip(actual, expected, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5, rtol=1e-5)
        for before, after in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
        graphs.append(graph)
    position = [{n.name: i for i, n in enumerate(graph.nodes)} for graph in graphs]
    assert len(graphs[0].nodes) == len(graphs[1].nodes)
    for nodes in zip(*(graph.nodes for graph in graphs), strict=True):
        described = [
            (n.kind, n.shape, dict(n.config), [place[i] for i in n.inputs])
            for n, place in zip(nodes, position, strict=True)
        ]
        assert described[0] == described[1]
        assert nodes[0].weights.keys() == nodes[1].weights.keys()
        for role, value in nodes[0].weights.items():
            np.testing.assert_array_equal(value, nodes[1].weights[role])


def test_graphs_hold_copies_of_the_weights() -> None:
    for keras in FLAVOURS.values():
        model = networks.randomize(chain((3,), lambda k: k.Dense(2))(keras))
        graph = read(model)
        before = graph.nodes[-1].weights["kernel"].copy()
        model.set_weights([w + 1 for w in model.get_weights()])
        np.testing.assert_array_equal(graph.nodes[-1].weights["kernel"], before)


def test_reading_normalises() -> None:
    graph = read(_branches(tf_keras))
    assert [n.kind for n in graph.nodes].count("ReLU") == 2
    assert [n.kind for n in graph.nodes].count("Add") == 2  # of three: two sums of two
    nested = read(_nested(keras3))
    assert [n.kind for n in nested.nodes] == ["Input", "Conv2D", "Conv2D", "ReLU", "Add", "Flatten"]
    assert all(n.name.startswith("block_") for n in nested.nodes if n.kind in ("ReLU", "Add"))


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_integer_inputs_are_read_as_float(keras: Any) -> None:
    codes = keras.Input((4,), dtype="uint8")
    model = networks.randomize(keras.Model(codes, keras.layers.Dense(2)(codes)))
    x = np.arange(8, dtype=np.uint8).reshape(2, 4)
    np.testing.assert_allclose(build(read(model))(x), np.asarray(model(x)), rtol=1e-5)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_an_adapted_normalization_is_read_as_it_is(keras: Any) -> None:
    x = np.random.default_rng(0).normal(3.0, [1.0, 10.0, 0.1], (64, 3)).astype(np.float32)
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    model = networks.randomize(
        keras.Sequential([keras.Input((3,)), normalization, keras.layers.Dense(2)])
    )
    normalization.adapt(x)  # networks.randomize has changed its mean, too
    expected = (x - x.mean(0)) / x.std(0) @ model.get_weights()[-2] + model.get_weights()[-1]
    np.testing.assert_allclose(build(read(model))(x), expected, atol=1e-4)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_features_that_a_normalization_has_never_seen_vary(keras: Any) -> None:
    """Keras divides them by 1e-7; as they are, they are zero, and a kernel with that factor would be of nothing else."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    x[:, 1] = 2.0
    normalization = keras.layers.Normalization(name="norm")
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(3)])
    graph = read(model)
    assert graph["norm"].weights["gamma"][1] == graph["norm"].weights["beta"][1] == 0.0
    np.testing.assert_allclose(build(graph)(x), np.asarray(model(x)), atol=1e-5)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_a_part_of_a_model_can_be_read(keras: Any) -> None:
    whole = networks.randomize(networks.residual(keras))
    part = keras.Model(whole.inputs, whole.get_layer("add").output)
    inputs = networks.samples(part)
    actual = networks.outputs(build(read(part)), inputs)
    np.testing.assert_allclose(actual[0], networks.outputs(part, inputs)[0], atol=1e-5)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_deep_models_are_read(keras: Any) -> None:
    model = chain((2,), *[lambda k: k.Activation("relu")] * 600)(keras)
    assert len(read(model).nodes) == 601


def _custom(keras: Any) -> Any:
    class Twice(keras.layers.Layer):  # type: ignore[name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    class ReLU(keras.layers.Layer):  # type: ignore[name-defined]
        def call(self, x: Any) -> Any:
            return x * 3

    image = keras.Input((4,))
    return keras.Model(image, ReLU(name="false_relu")(Twice(name="twice")(image)))


def _siamese(keras: Any) -> Any:
    layers = [keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4, activation="relu")]
    inner = keras.Sequential(layers, name="tower")
    first, second = keras.Input((4,)), keras.Input((4,))
    return keras.Model([first, second], keras.layers.Add()([inner(first), inner(second)]))


def _shared_within_others(keras: Any) -> Any:
    """Each of two nested models calls the same third."""
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="encoder")
    first, second = keras.Input((4,)), keras.Input((4,))
    left = keras.Model(first, encoder(first), name="left")
    right = keras.Model(second, encoder(second), name="right")
    image = keras.Input((4,))
    return keras.Model(image, right(left(image)))


def _shared_conv(keras: Any) -> Any:
    conv = keras.layers.Conv2D(3, 1, name="shared")
    image = keras.Input(IMAGE)
    return keras.Model(image, conv(conv(image)))


def _broadcast_add(keras: Any) -> Any:
    first, second = keras.Input((4, 4, 2)), keras.Input((1, 1, 2))
    return keras.Model([first, second], keras.layers.Add(name="sum")([first, second]))


def _joined_batches(keras: Any) -> Any:
    first, second = keras.Input((4,)), keras.Input((4,))
    joined = keras.layers.Concatenate(axis=0, name="join")([first, second])
    return keras.Model([first, second], joined)


def _joined_by_twelve(keras: Any) -> Any:
    image = keras.Input((4,))
    branches = [keras.layers.Dense(2)(image) for _ in range(12)]
    return keras.Model(image, keras.layers.Concatenate(name="join")(branches))


def _gelu(keras: Any) -> Any:
    return chain((4,), lambda k: k.Dense(4, activation="gelu", name="odd"))(keras)


REFUSED = {
    "LSTM": (chain(SERIES, lambda k: k.LSTM(4, name="memory")), "memory: LSTM is not supported"),
    "dense on 3-D": (chain(SERIES, lambda k: k.Dense(4, name="wide")), "wide: .*flat inputs only"),
    "groups": (chain((4, 4, 4), lambda k: k.Conv2D(4, 1, groups=2, name="g")), "g: grouped"),
    "channels first": (
        chain(IMAGE, lambda k: k.MaxPooling2D(2, data_format="channels_first", name="pool")),
        "pool: .*channels_last",
    ),
    "relu with a cap": (chain((4,), lambda k: k.ReLU(4.0, name="cap")), "cap: .*None or 6"),
    "leaky relu": (chain((4,), lambda k: k.ReLU(negative_slope=0.1, name="l")), "l: .*slope 0"),
    "softmax axis": (chain(IMAGE, lambda k: k.Softmax(axis=1, name="s")), "s: .*last axis"),
    "batch norm axis": (
        chain(IMAGE, lambda k: k.BatchNormalization(axis=1, name="norm")),
        "norm: .*last axis",
    ),
    "rescaling by place": (
        chain(IMAGE, lambda k: k.Rescaling(np.ones((8, 1)), name="scale")),
        "scale: Rescaling is supported with a value a channel, or one, only",
    ),
    "normalization by place": (
        chain(IMAGE, lambda k: k.Normalization(axis=1, mean=0.0, variance=1.0, name="norm")),
        "norm: Normalization is supported with a value a channel",
    ),
    "dynamic shape": (chain((None, 3), lambda k: k.Conv1D(2, 3)), "image: .*not static"),
    "custom": (_custom, "twice: Twice is a class of your own\n  false_relu: ReLU is a class"),
    "shared conv": (_shared_conv, "shared: it is called more than once"),
    "siamese": (_siamese, r"1 layer\(s\)[^\0]*\n  tower: it is called more than once; give each call"),
    "shared within others": (
        _shared_within_others, r"1 layer\(s\)[^\0]*\n  right_encoder: it is called more than once"
    ),
    "joined by twelve": (_joined_by_twelve, "join: .*at most 10 inputs, not 12; nest two"),
    "broadcast add": (_broadcast_add, "sum: .*equal shapes"),
    "joined batches": (_joined_batches, "join: .*samples"),
    "activation": (
        _gelu,
        "odd: the activation 'gelu' is not supported; use one of linear, relu, relu6, softmax, sigmoid",
    ),
    "several": (
        chain(SERIES, lambda k: k.LSTM(4, name="memory"), lambda k: k.Dense(2, activation="gelu",
              name="odd")),
        r"2 layer\(s\)[^\0]*memory: LSTM[^\0]*odd: the activation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_layer_and_the_reason(name: str, keras: Any) -> None:
    network, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        read(network(keras))


@pytest.mark.parametrize("name", ["output layer", "_x", "dense:1", "größe", "x(2)"])
def test_names_that_tensorflow_cannot_take_are_refused(name: str) -> None:
    layers = keras3.layers
    image = keras3.Input((4,), name="input 1")
    inner = keras3.Sequential([keras3.Input((3,)), layers.Dense(3, name="dense")], name="my model")
    hidden = inner(layers.Dropout(0.5, name="not read")(layers.Dense(3, "relu", name=name)(image)))
    model = keras3.Model(image, hidden)
    listed = rf"  input 1: names must.*\n  {re.escape(name)}: .*\n  my model_dense: names must"
    with pytest.raises(
        UnsupportedModelError, match=rf"3 layer.*\n{listed}.*layer.name = 'output_la"
    ):
        read(model)
    model.layers[0].name, model.layers[1].name, inner.name = "input_1", "output_layer", "inner"
    assert build(read(model)).input_names == ["input_1"]


def test_names_that_tf_keras_takes_alone_are_refused() -> None:
    image = tf_keras.Input((4,), name="input 1")
    model = tf_keras.Model(image, tf_keras.layers.Dense(2)(image))
    with pytest.raises(UnsupportedModelError, match=r"input 1: names must be of letters"):
        read(model)
    model.layers[0]._name = "_x"  # inputs may begin so
    assert read(model).inputs == ("_x",)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_layers_keep_their_names_whatever_is_added(keras: Any) -> None:
    """Names of activations and parts make way, as `layer_bits` means layers of the caller's model."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    hidden = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    hidden = layers.SeparableConv2D(2, 3, name="conv_relu")(hidden)
    inner = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(2, 1, name="b")], name="a")
    hidden = layers.Conv2D(2, 1, name="conv_relu_pointwise")(inner(hidden))
    hidden = layers.Dense(3, name="a_b")(layers.Flatten(name="conv_relu_1")(hidden))
    graph = read(keras.Model(image, hidden))
    kinds = {node.name: node.kind for node in graph.nodes}
    assert kinds == {
        "image": "Input", "conv": "Conv2D", "conv_relu_2": "ReLU", "conv_relu_depthwise": "DepthwiseConv2D",
        "conv_relu_pointwise_1": "Conv2D", "a_b_1": "Conv2D", "conv_relu_pointwise": "Conv2D",
        "conv_relu_1": "Flatten", "a_b": "Dense",
    }  # fmt: skip


def test_layers_of_other_weights_are_refused() -> None:
    """Of a LoRA, or of what Keras 3 quantized, the kernel alone is not what the layer computes."""
    lora, plain = keras3.layers.Dense(3, name="lora"), keras3.layers.Dense(2, name="integers")
    model = keras3.Sequential([keras3.Input((6,)), lora, plain])
    lora.enable_lora(2)
    plain.quantize("int8")
    listed = (
        r"lora: it has weights \['lora_kernel_a', 'lora_kernel_b'\][^\0]*integers: .*'kernel_scale'"
    )
    with pytest.raises(UnsupportedModelError, match=listed):
        read(model)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, keras: Any) -> None:
    network = chain(
        IMAGE, lambda k: k.SeparableConv2D(4, 3, name="apart"), lambda k: k.Flatten(),
        lambda k: k.Dense(3, name="last"),
    )  # fmt: skip
    model = networks.randomize(network(keras))
    weights = model.get_weights()
    weights[0][1, 2] = weights[-1][1] = value
    model.set_weights(weights)
    expected = "NaN or infinite .*'apart_depthwise/kernel': 3, 'last/bias': 1"
    with pytest.raises(UnsupportedModelError, match=expected):
        read(model)


def test_functions_are_refused_by_name() -> None:
    image = keras3.Input(IMAGE)
    tensor = keras3.layers.Conv2D(3, 1)(image) + image
    tensor = keras3.ops.concatenate([keras3.ops.relu(tensor), image])
    with pytest.raises(UnsupportedModelError, match=r"3 layer[^\0]*add[^\0]*function, not a layer"):
        read(keras3.Model(image, tensor))
    image = tf_keras.Input(IMAGE)
    with pytest.raises(UnsupportedModelError, match=r"tf.nn.relu: it is a function"):
        read(tf_keras.Model(image, tf.nn.relu(image) + image))


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_models_without_a_graph_are_refused(keras: Any) -> None:
    class Subclassed(keras.Model):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    subclassed = Subclassed()
    subclassed(np.zeros((1, 3), np.float32))
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    for model in (subclassed, unbuilt, 3):
        with pytest.raises(UnsupportedModelError, match="built Functional or Sequential"):
            read(model)


@pytest.mark.parametrize(
    ("flavour", "suffix"),
    [("tf_keras", ".keras"), ("tf_keras", ".h5"), ("tf_keras", ""), ("keras3", ".keras"),
     ("keras3", ".h5")],
)  # fmt: skip
def test_models_are_loaded_from_paths(flavour: str, suffix: str, tmp_path: Path) -> None:
    model = networks.randomize(networks.residual(FLAVOURS[flavour]))
    path = tmp_path / f"model{suffix}"
    model.save(path)
    loaded = load_float_model(path)
    assert load_float_model(model) is model
    inputs = networks.samples(model)
    np.testing.assert_allclose(
        networks.outputs(build(read(loaded)), inputs)[0], networks.outputs(model, inputs)[0],
        atol=1e-5,
    )  # fmt: skip


def test_paths_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model at this path"):
        load_float_model(str(tmp_path / "absent.keras"))
    file = tmp_path / "text.keras"
    file.write_text("not a model")
    with pytest.raises(ValueError, match=r"Tried tf_keras: .*Keras 3: .*text\.keras"):
        load_float_model(file)


@pytest.mark.parametrize("touch_first", [False, True])
def test_importing_changes_nothing_global(touch_first: bool) -> None:
    script = "\n".join([
        "import os, tensorflow as tf",
        "tf.keras.layers.Dense(1)" if touch_first else "",
        "before = dict(os.environ)",
        "import keras_lowbit.quantizers.quantize_configs",
        "import keras_lowbit.quantizers.tensor_quantizers",
        "import keras",
        "same = dict(os.environ) == before",
        "right = tf.keras.layers.Dense is keras.layers.Dense and keras.__version__[0] == '3'",
        "raise SystemExit(0 if same and right else f'{same} {right} {tf.keras.layers.Dense}')",
    ])  # fmt: skip
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-400:]


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_what_no_output_depends_on_is_left_out(keras: Any) -> None:
    layers = keras.layers
    start, other = keras.Input((6, 6, 2)), keras.Input((4,))
    features = layers.Conv2D(4, 3, name="features")(start)
    ends = [features, layers.Conv2D(2, 1, name="unused")(features), layers.Dense(3)(other)]
    inner = keras.Model([start, other], ends, name="inner")
    image, idle = keras.Input((6, 6, 2), name="image"), keras.Input((4,), name="idle")
    model = keras.Model([image, idle], layers.Flatten(name="flat")(inner([image, idle])[0]))
    graph = read(model)
    assert [node.name for node in graph.nodes] == ["image", "idle", "inner_features", "flat"]
    with pytest.raises(ValueError, match=r"make the model without them.*\['idle'\]"):
        pipelines.quantized(model, pipelines.ranges_only(8))


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_joins_of_one_tensor_do_nothing(keras: Any) -> None:
    image = keras.Input((5,), name="image")
    tensor = image
    for join in (keras.layers.Add(), keras.layers.Concatenate()):
        tensor = join([keras.layers.Dense(4)(tensor)])
    model = keras.Model(image, tensor)
    graph = read(model)
    assert [node.kind for node in graph.nodes] == ["Input", "Dense", "Dense"]
    inputs = networks.samples(model)
    np.testing.assert_allclose(
        networks.outputs(build(graph), inputs)[0], networks.outputs(model, inputs)[0], atol=1e-6
    )
