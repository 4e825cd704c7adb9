"""Every supported layer, lowered at every width: exact on TFLM, and what the simulation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from networks import Network, chain

import keras_lowbit
from keras_lowbit import QuantizedModel
from keras_lowbit.config import PTQConfig
from keras_lowbit.export import integer_reference, runtimes
from keras_lowbit.export.lower import lower

pytestmark = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)

IMAGE = (7, 6, 3)
SEQUENCE = (12, 3)


def mixed_concatenation(keras: Any) -> Any:
    """A ReLU tensor, a linear one and a pooled one on one shared grid, which a kernel reads."""
    layers = keras.layers
    image = keras.Input(IMAGE, name="image")
    positive = layers.Conv2D(3, 3, padding="same", activation="relu", name="positive")(image)
    linear = layers.Conv2D(2, 3, padding="same", name="linear")(image)
    pooled = layers.MaxPooling2D(3, 1, padding="same", name="pooled")(linear)
    joined = layers.Concatenate(name="joined")([positive, linear, pooled])
    return keras.Model(image, layers.Conv2D(4, 1, name="last")(joined))


def concatenation_of_rows(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input(IMAGE, name="image")
    first = layers.Conv2D(2, 3, activation="relu", name="first")(image)
    second = layers.Conv2D(2, 3, activation="relu", name="second")(image)
    return keras.Model(image, layers.Concatenate(axis=1, name="joined")([first, second]))


def addition(relu: bool, terms: int) -> Network:
    def build(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input(IMAGE, name="image")
        sources = [
            layers.Conv2D(3, 3, padding="same", name=f"term_{i}")(image) for i in range(terms)
        ]
        total = layers.Add(name="total")(sources)
        total = layers.ReLU(name="relu")(total) if relu else total
        return keras.Model(image, layers.Conv2D(2, 1, name="last")(total))

    return build


def addition_to_the_input(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input(IMAGE, name="image")
    inner = layers.Conv2D(3, 3, padding="same", activation="relu", name="inner")(image)
    return keras.Model(image, layers.Add(name="total")([image, inner]))


def shared_linear_tensor(keras: Any) -> Any:
    """A linear tensor that is an output, feeds a ReLU of its own and a kernel."""
    layers = keras.layers
    image = keras.Input(IMAGE, name="image")
    linear = layers.Conv2D(3, 3, name="linear")(image)
    positive = layers.ReLU(name="positive")(linear)
    last = layers.Conv2D(2, 1, name="last")(positive)
    return keras.Model(image, [last, layers.Conv2D(2, 2, name="other")(linear)])


def before_activation(most: float | None) -> Network:
    """A linear tensor that a sum reads, and a kernel behind a ReLU."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input(IMAGE, name="image")
        linear = layers.Conv2D(3, 3, name="linear")(image)
        inner = layers.Conv2D(3, 1, name="inner")(layers.ReLU(most, name="positive")(linear))
        return keras.Model(image, layers.Add(name="total")([linear, inner]))

    return build


def sigmoid_inside(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((5,), name="image")
    hidden = layers.Dense(6, activation="sigmoid", name="hidden")(image)
    return keras.Model(image, layers.Dense(3, activation="softmax", name="last")(hidden))


# Nets of one kernel, whose codes the simulation must hit but for a rounding.
SINGLE: dict[str, Network] = {
    "Conv2D valid": chain(IMAGE, lambda k: k.Conv2D(4, 3)),
    "Conv2D same, strides": chain(IMAGE, lambda k: k.Conv2D(4, 3, strides=2, padding="same")),
    "Conv2D strides by axis": chain(IMAGE, lambda k: k.Conv2D(4, (3, 2), strides=(2, 1))),
    "Conv2D dilation": chain(IMAGE, lambda k: k.Conv2D(4, (3, 2), dilation_rate=(2, 3))),
    "Conv2D ReLU": chain(IMAGE, lambda k: k.Conv2D(4, 3, activation="relu")),
    "Conv2D ReLU6": chain(IMAGE, lambda k: k.Conv2D(4, 3), lambda k: k.ReLU(6.0)),
    "Conv2D no bias": chain(IMAGE, lambda k: k.Conv2D(4, 3, use_bias=False)),
    "DepthwiseConv2D": chain(IMAGE, lambda k: k.DepthwiseConv2D(3, padding="same")),
    "DepthwiseConv2D multiplier": chain(
        IMAGE, lambda k: k.DepthwiseConv2D((2, 3), depth_multiplier=3, activation="relu")
    ),
    "DepthwiseConv2D strides": chain(
        IMAGE, lambda k: k.DepthwiseConv2D(3, strides=2, padding="same")
    ),
    "DepthwiseConv2D dilation": chain(IMAGE, lambda k: k.DepthwiseConv2D(2, dilation_rate=2)),
    "Conv1D valid": chain(SEQUENCE, lambda k: k.Conv1D(4, 3)),
    "Conv1D same, strides": chain(SEQUENCE, lambda k: k.Conv1D(4, 4, strides=2, padding="same")),
    "Conv1D causal": chain(SEQUENCE, lambda k: k.Conv1D(4, 3, padding="causal")),
    "Conv1D causal dilation": chain(
        SEQUENCE, lambda k: k.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu")
    ),
    "Dense": chain((7,), lambda k: k.Dense(5)),
    "Dense ReLU": chain((7,), lambda k: k.Dense(5, activation="relu")),
    "Add to the input": addition_to_the_input,
    "ReLU of the input": chain(IMAGE, lambda k: k.ReLU()),
    "ReLU6 of the input": chain(IMAGE, lambda k: k.ReLU(6.0)),
    "AveragePooling2D": chain(IMAGE, lambda k: k.AveragePooling2D((2, 3))),
    "MaxPooling2D": chain(IMAGE, lambda k: k.MaxPooling2D(3, 2, padding="same")),
    "Softmax": chain((9,), lambda k: k.Softmax()),
    "Sigmoid": chain((9,), lambda k: k.Activation("sigmoid")),
    "pool, ReLU": chain(IMAGE, lambda k: k.MaxPooling2D(2), lambda k: k.ReLU()),
    "pool, ReLU6": chain(IMAGE, lambda k: k.AveragePooling2D(2), lambda k: k.ReLU(6.0)),
}  # fmt: skip

# Nets of several kernels.
SEVERAL: dict[str, Network] = {
    "SeparableConv2D": chain(
        IMAGE, lambda k: k.SeparableConv2D(4, 3, padding="same", activation="relu"),
        lambda k: k.SeparableConv2D(3, 2, depth_multiplier=2),
    ),
    "AveragePooling2D same": chain(
        IMAGE, lambda k: k.Conv2D(3, 3, activation="relu"),
        lambda k: k.AveragePooling2D(2, 2, padding="same"),
        lambda k: k.Conv2D(2, 1),
    ),
    "AveragePooling2D of a linear tensor": chain(
        IMAGE, lambda k: k.Conv2D(3, 3), lambda k: k.AveragePooling2D(2, 2, padding="same"),
        lambda k: k.Conv2D(2, 1),
    ),
    "GlobalAveragePooling1D of a linear tensor": chain(
        SEQUENCE, lambda k: k.Conv1D(3, 3), lambda k: k.GlobalAveragePooling1D()
    ),
    "pools 1D": chain(
        SEQUENCE, lambda k: k.Conv1D(4, 3, activation="relu"), lambda k: k.MaxPooling1D(2),
        lambda k: k.AveragePooling1D(2, 1, padding="same"), lambda k: k.Conv1D(2, 2),
    ),
    "GlobalAveragePooling2D": chain(
        IMAGE, lambda k: k.Conv2D(3, 3, activation="relu"),
        lambda k: k.GlobalAveragePooling2D(), lambda k: k.Dense(2),
    ),
    "GlobalAveragePooling2D keepdims": chain(
        IMAGE, lambda k: k.Conv2D(3, 3, activation="relu"),
        lambda k: k.GlobalAveragePooling2D(keepdims=True), lambda k: k.Conv2D(2, 1),
    ),
    "GlobalAveragePooling1D": chain(
        SEQUENCE, lambda k: k.Conv1D(3, 3, activation="relu"),
        lambda k: k.GlobalAveragePooling1D(),
        lambda k: k.Dense(2, activation="softmax"),
    ),
    "ZeroPadding2D": chain(
        IMAGE, lambda k: k.ZeroPadding2D(((1, 2), (0, 3))), lambda k: k.Conv2D(3, 3),
        lambda k: k.ZeroPadding2D(1), lambda k: k.DepthwiseConv2D(3, activation="relu"),
    ),
    "ZeroPadding1D": chain(
        SEQUENCE, lambda k: k.ZeroPadding1D((2, 1)), lambda k: k.Conv1D(3, 3),
        lambda k: k.ZeroPadding1D(1), lambda k: k.Conv1D(2, 3),
    ),
    "Reshape": chain(
        IMAGE, lambda k: k.Conv2D(4, 2, activation="relu"), lambda k: k.Reshape((-1, 4)),
        lambda k: k.Conv1D(3, 3), lambda k: k.Reshape((7, 4, 3)), lambda k: k.Conv2D(2, 2),
    ),
    "Flatten": chain(
        IMAGE, lambda k: k.Conv2D(3, 3), lambda k: k.Flatten(),
        lambda k: k.Dense(4, activation="relu"), lambda k: k.Dense(3, activation="sigmoid"),
    ),
    "Concatenate": mixed_concatenation,
    "Concatenate rows": concatenation_of_rows,
    "Add": addition(relu=False, terms=2),
    "Add ReLU": addition(relu=True, terms=2),
    "Add of four": addition(relu=True, terms=4),
    "shared linear tensor": shared_linear_tensor,
    "Sigmoid inside": sigmoid_inside,
}  # fmt: skip


def cases(networks_by_name: dict[str, Network]) -> list[Any]:
    """Three widths for each net; over the nets every width comes up equally often."""
    return [
        pytest.param(network, 2 + (index + step) % 7, id=f"{name}-{2 + (index + step) % 7}")
        for index, (name, network) in enumerate(networks_by_name.items())
        for step in (0, 2, 4)
    ]


@pytest.mark.parametrize(("network", "bits"), cases(SINGLE))
def test_one_kernel(network: Network, bits: int, tmp_path: Path) -> None:
    model = networks.randomize(network(tf_keras))
    qmodel = pipelines.quantized(model, pipelines.ranges_only(bits))
    pipelines.prove(qmodel, tmp_path)
    for name, (simulated, reference) in pipelines.codes_by_tensor(qmodel).items():
        difference = np.abs(simulated - reference)
        assert difference.max() <= 1, name
        assert np.mean(difference) < 0.25, name  # the bias is rounded to fractions of a code


@pytest.mark.parametrize(("network", "bits"), cases(SEVERAL))
def test_several_kernels(network: Network, bits: int, tmp_path: Path) -> None:
    model = networks.randomize(network(tf_keras))
    qmodel = pipelines.quantized(model, pipelines.ranges_only(bits))
    pipelines.prove(qmodel, tmp_path)
    codes = pipelines.codes_by_tensor(qmodel)
    computed = next(name for name in codes if name not in qmodel.student.graph.inputs)
    assert np.abs(np.subtract(*codes[computed])).max() <= 1
    margin = max(0.02, 0.4 / 2 ** (bits - 2))  # one code off is much where there are few codes
    for name, (simulated, reference) in codes.items():
        error = np.sqrt(np.mean((simulated - reference) ** 2))
        assert error <= margin * np.sqrt(np.mean(reference**2)), name


# Tensors of eight bits whose values go on with few.
NARROWING: dict[str, Network] = {
    "GlobalAveragePooling2D": SEVERAL["GlobalAveragePooling2D"],
    "AveragePooling2D of a linear tensor": SEVERAL["AveragePooling2D of a linear tensor"],
    "ReLU": before_activation(None),
    "ReLU6": before_activation(6.0),
}


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", NARROWING)
def test_few_bits_are_rounded_to_once(name: str, bits: int, tmp_path: Path) -> None:
    """QUANTIZE and RELU of the runtimes round to halves or quarters of a code first."""
    model = networks.randomize(NARROWING[name](tf_keras))
    qmodel = pipelines.quantized(model, pipelines.ranges_only(bits, linear_activation_bits=8))
    pipelines.prove(qmodel, tmp_path)
    program = qmodel.to_program()
    inputs = qmodel.quantize_input(networks.samples(qmodel.model, 64, seed=7)[0])
    codes = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
    added = {op: program.tensors[op.inputs[1]] for op in program.ops if op.kind == "ADD"}
    narrowing = [op for op, operand in added.items() if operand.data is not None]
    assert narrowing
    for op in narrowing:
        source, target = program.tensors[op.inputs[0]], program.tensors[op.outputs[0]]
        factor = float(source.scale[0]) / float(target.scale[0])
        assert factor < 0.5
        exact = np.floor((codes[source.name].astype(int) - source.zero_point) * factor + 0.5)
        low = 0 if op.option("activation") == "RELU" else -128 - target.zero_point
        expected = np.clip(exact, low, 127 - target.zero_point) + target.zero_point
        np.testing.assert_array_equal(codes[target.name], expected)


def zero(*roles: str) -> Any:
    """A convolution and a dense layer some of whose weights are set to zero."""

    def build() -> Any:
        network = chain(
            IMAGE, lambda k: k.Conv2D(4, 3, activation="relu", name="first"),
            lambda k: k.DepthwiseConv2D(3, activation="relu", name="second"),
            lambda k: k.Flatten(), lambda k: k.Dense(3, name="last"),
        )  # fmt: skip
        model = networks.randomize(network(tf_keras))
        for layer in model.layers:
            values = {w.name.split("/")[-1].split(":")[0]: w for w in layer.weights}
            for name, variable in values.items():
                role = "kernel" if "kernel" in name else name
                if role in roles:
                    variable.assign(np.zeros(variable.shape))
                if f"channel of {role}" in roles:
                    value = variable.numpy()
                    value[..., :1] = 0.0
                    if name == "depthwise_kernel":
                        value[:, :, 1] = 0.0
                    variable.assign(value)
        return model

    return build


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("method", ["mse", "minmax", "output"])
@pytest.mark.parametrize(
    "roles",
    [("channel of kernel",), ("kernel",), ("bias", "channel of kernel"), ("kernel", "bias")],
)
def test_dead_weights(roles: tuple[str, ...], method: str, bits: int, tmp_path: Path) -> None:
    """Zero channels and kernels, constant and always-zero activations."""
    model = zero(*roles)()
    config = pipelines.ranges_only(bits, weight_range=method, activation_range=method)
    qmodel = pipelines.quantized(model, config)
    pipelines.prove(qmodel, tmp_path)
    codes = pipelines.codes_by_tensor(qmodel)
    for name in ("first_relu", "second_relu", "last"):
        assert np.abs(np.subtract(*codes[name])).max() <= 1


def test_the_bias_of_a_dead_channel_keeps_its_precision(tmp_path: Path) -> None:
    """Inputs of 0..255 and weights of 0.01, as in the official Res8."""
    model = chain((2, 2, 3), lambda k: k.Conv2D(2, 1, activation="relu", name="only"))(tf_keras)
    kernel = np.full((1, 1, 3, 2), 0.002, np.float32)
    kernel[..., 1] = 0.0
    model.get_layer("only").set_weights([kernel, np.array([0.0, 0.031], np.float32)])
    images = np.random.default_rng(0).uniform(0, 255, (64, 2, 2, 3)).astype(np.float32)
    qmodel = keras_lowbit.quantize(
        model, images, config=PTQConfig(optimize=(), tune_steps=0), verbose=0
    )
    program = qmodel.to_program()
    bias = program.tensors["only/bias"]
    assert bias.data[1] * bias.scale[1] == pytest.approx(0.031, rel=0.01)


def test_ties_of_weights_round_as_in_the_simulation(tmp_path: Path) -> None:
    model = chain((3,), lambda k: k.Dense(1, use_bias=False, name="only"))(tf_keras)
    model.set_weights([np.array([[7.0], [2.5], [-3.5]], np.float32)])  # in scales: two ties
    qmodel = pipelines.quantized(
        model, pipelines.ranges_only(4, activation_bits=8, input_bits=8, weight_range="minmax")
    )
    (kernel, quantizer) = qmodel.student.kernels["only"], qmodel.student.weight_quantizers["only"]
    simulated = quantizer(kernel, False, quantizer.variables).numpy()
    tensor = qmodel.to_program().tensors["only/kernel"]
    np.testing.assert_array_equal(tensor.data.T * tensor.scale, simulated)
    np.testing.assert_array_equal(simulated, [[7.0], [3.0], [-3.0]])


@pytest.fixture(scope="module")
def two_heads() -> QuantizedModel:
    return pipelines.quantized(
        networks.randomize(networks.two_outputs(tf_keras)), pipelines.ranges_only(4)
    )


def test_names_of_inputs_and_outputs_are_those_of_the_model(two_heads: QuantizedModel) -> None:
    program = two_heads.to_program()
    assert program.inputs == ("image",)
    assert program.outputs == ("left", "right")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trunk_relu/output_scale", 0.0, "scale must be a positive.*'trunk_relu'"),
        ("trunk/kernel_scale", np.nan, "scales must be positive.*kernel of 'trunk'"),
        ("left/bias", 1e9, "Layer 'left': the bias of channel 0.*beyond"),
        ("left/bias", np.nan, "Layer 'left': the bias of channel 0.*code nan"),
        ("trunk_relu/output_scale", 1e-40, "scale must be a positive.*'trunk_relu'"),
        ("trunk_relu/output_scale", np.inf, "scale must be a positive.*'trunk_relu'"),
        ("trunk_relu/output_scale", np.nan, "scale must be a positive.*'trunk_relu'"),
        ("trunk/kernel_scale", 0.0, "scales must be positive.*kernel of 'trunk'"),
        ("trunk/kernel_scale", 2e-38, "scales must be positive.*kernel of 'trunk'"),
        ("trunk/kernel_scale", np.inf, "scales must be positive.*kernel of 'trunk'"),
        ("trunk/kernel", np.nan, "Weights must be finite.*Received: 72 NaN.*kernel of 'trunk'"),
        ("trunk/kernel", np.inf, "Weights must be finite.*kernel of 'trunk'"),
        ("trunk/kernel_scale", 2e-37, "Layer 'trunk': input scale times weight scale"),
    ],
)
def test_values_that_no_kernel_can_hold(
    name: str, value: float, message: str, two_heads: QuantizedModel
) -> None:
    qmodel = two_heads
    values = qmodel.student.values()
    values[name] = np.full_like(values[name], value)
    with pytest.raises(ValueError, match=message):
        lower(qmodel.student.graph, qmodel.student.placement, values)
