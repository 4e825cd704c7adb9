"""Records, placements and the rules of the operators."""

import dataclasses

import numpy as np
import pytest
from programs import Builder

from keras_lowbit.export import flatbuffer
from keras_lowbit.export.ir import (
    CodeRange,
    Op,
    Program,
    Tensor,
    activation_names,
    activation_placement,
    linear_placements,
    quantize_bias,
)

GOOD = {
    "name": "x",
    "shape": (1, 2),
    "scale": np.float32([0.5]),
    "zero_point": 0,
    "bits": 8,
    "qmin": -128,
    "qmax": 127,
}


@pytest.mark.parametrize("bits", range(2, 9))
def test_placements_hold_the_whole_grid(bits):
    steps = 2**bits - 1
    for zero in (0, 1, steps):
        high, low = activation_placement(bits, zero), activation_placement(bits, zero, low=True)
        assert high == CodeRange(127 - steps + zero, 127 - steps, 127)
        assert low == CodeRange(zero - 128, -128, steps - 128)
    raw, *rest = linear_placements(bits, 1)
    assert raw == CodeRange(128 - steps, -128, 127)
    assert rest == ([] if bits == 8 else [CodeRange(-127, -128, steps - 128)])


@pytest.mark.parametrize(("bits", "zero"), [(1, 0), (9, 0), (4, 16), (4, -1)])
def test_placements_refuse(bits, zero):
    with pytest.raises(ValueError, match="Received: "):
        activation_placement(bits, zero)


def test_bias_is_rounded_at_the_float32_product_of_scales():
    scale = np.float32([0.1, 0.3])
    codes, bias_scale = quantize_bias(np.array([1.0, -2.0]), 0.7, scale, "conv")
    assert codes.dtype == np.int32
    assert np.array_equal(bias_scale, np.float32(0.7) * scale)
    assert codes.tolist() == [round(1 / float(bias_scale[0])), round(-2 / float(bias_scale[1]))]


@pytest.mark.parametrize("bias", [1.1e9, -1.1e9, np.nan, np.inf])
def test_bias_beyond_the_accumulator_names_the_layer_and_channel(bias):
    with pytest.raises(ValueError, match="Layer 'stem'.*channel 1.*Received: "):
        quantize_bias(np.array([0.0, bias]), 1.0, np.float32([1.0]), "stem")
    assert quantize_bias(np.array([2.0**30 - 65]), 1.0, np.float32([1.0]))[0][0] == 2**30 - 65


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int16"},
        {"shape": (1, 0)},
        {"scale": None},
        {"scale": np.array([0.5])},
        {"scale": np.float32([0.0])},
        {"scale": np.float32([np.nan])},
        {"scale": np.float32([1, 1])},
        {"bits": 1},
        {"bits": 9},
        {"zero_point": 128},
        {"qmin": 1},
        {"qmax": 300},
        {"data": np.zeros((1, 2), np.int32)},
        {"data": np.zeros((2, 1), np.int8)},
        {"data": np.full((1, 2), 9, np.int8), "qmax": 8},
    ],
)
def test_tensors_refuse_contradictions(change):
    Tensor(**GOOD)
    with pytest.raises(ValueError, match=r"Received: "):
        Tensor(**{**GOOD, **change})


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Tensor(**GOOD).bits = 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [("CONV_3D", {}), ("CONV_2D", {"padding": "SAME"}), ("RELU", {"activation": "RELU"})],
)
def test_operators_refuse_unknown_kinds_and_options(kind, options):
    with pytest.raises(ValueError, match="Layer 'layer'.*Received: "):
        Op(kind, "layer", ("x",), ("y",), options)


def test_programs_refuse_dangling_names():
    x, y = Tensor(**GOOD), Tensor(**{**GOOD, "name": "y"})
    relu = Op("RELU", "relu", ("x",), ("y",))
    program = Program({"x": x, "y": y}, (relu,), ("x",), ("y",))
    assert activation_names(program) == ("x", "y")
    for tensors, ops, inputs, outputs in [
        ({"x": x, "z": y}, (relu,), ("x",), ("y",)),
        ({"x": x}, (relu,), ("x",), ("x",)),
        ({"x": x, "y": y}, (relu,), (), ("y",)),
        ({"x": x, "y": y}, (relu, relu), ("x",), ("y",)),
        ({"x": x, "y": y}, (), ("x",), ("x",)),
        ({"x": x, "y": y}, (relu,), ("x",), ("z",)),
    ]:
        with pytest.raises(ValueError, match="Received: "):
            Program(tensors, ops, inputs, outputs)


BREAKS = {
    "share scale and zero point": lambda b, x: b.apply(
        "MAX_POOL_2D",
        (x,),
        b.activation((1, 3, 3, 4), 0.7, 0),
        window=(2, 2),
        strides=(2, 2),
        padding="SAME",
    ),
    "the output shape": lambda b, x: b.apply(
        "MAX_POOL_2D", (x,), b.like(x, (1, 2, 3, 4)), window=(2, 2), strides=(2, 2), padding="SAME"
    ),
    "padding SAME or VALID": lambda b, x: b.apply(
        "MAX_POOL_2D", (x,), b.like(x), window=(1, 1), strides=(1, 1), padding="same"
    ),
    "output scale 1/256": lambda b, x: b.apply("SOFTMAX", (x,), b.like(x)),
    "below 2.19 times": lambda b, x: b.apply("ADD", (x, x), b.activation((1, 6, 6, 4), 1e-8, 0)),
    "6 to be an int32 code": lambda b, x: b.apply(
        "ADD", (x, x), b.activation((1, 6, 6, 4), 2e-9, 0), activation="RELU6"
    ),
    "a rescaling factor": lambda b, x: b.apply(
        "QUANTIZE", (x,), b.activation((1, 6, 6, 4), 1e-12, 0)
    ),
    "beta times the input scale": lambda b, x: b.probability(
        "SOFTMAX", b.apply("QUANTIZE", (x,), b.activation((1, 6, 6, 4), 1e-8, 0))
    ),
    "2.-28 or more and below 8.*leave the sigmoid out": lambda b, x: b.probability(
        "LOGISTIC", b.apply("QUANTIZE", (x,), b.activation((1, 6, 6, 4), 8, 0))
    ),
    "an input scale of 2.-28": lambda b, x: b.probability(
        "LOGISTIC", b.apply("QUANTIZE", (x,), b.activation((1, 6, 6, 4), 2**-28.01, 0))
    ),
    "a bias scale within 0.02 output scales": lambda b, x: b.apply(
        "FULLY_CONNECTED",
        (
            b.reshape(x, (1, 144)),
            b.constant(np.ones((1, 144), np.int8), np.float32([0.1])),
            b.constant(np.zeros(1, np.int32), np.float32([0.1001 * 0.05])),
        ),
        b.activation((1, 1), 1e-5, 0),
    ),
    "equal shapes": lambda b, x: b.apply("ADD", (x, b.input((1, 1, 1, 4))), b.like(x)),
    "an axis other than the batch": lambda b, x: b.apply(
        "CONCATENATION", (x, x), b.like(x), axis=0
    ),
    "a batch of 1": lambda b, x: b.reshape(x, (2, 72)),
    "144 elements": lambda b, x: b.reshape(x, (1, 143)),
    "no batch padding": lambda b, x: b.pad(x, [(0, 0), (0, -1), (0, 0), (0, 0)]),
    "activations, then constants": lambda b, x: b.apply(
        "ADD", (x, b.constant(np.ones((1, 6, 6, 4), np.int8), np.float32([1]))), b.like(x)
    ),
    "an int8 number of the output's rank": lambda b, x: b.apply(
        "ADD", (x, b.constant(np.ones((1, 1), np.int8), np.float32([1]))), b.like(x)
    ),
    "1 to 1 inputs": lambda b, x: b.apply("RELU", (x, x), b.like(x)),
    "rescaling factor to": lambda b, x: b.apply(
        "FULLY_CONNECTED",
        (b.reshape(x, (1, 144)), b.constant(np.ones((1, 144), np.int8), np.float32([1e9]))),
        b.activation((1, 1), 1e-6, 0),
    ),
    "int32 accumulator": lambda b, x: b.apply(
        "FULLY_CONNECTED",
        (
            b.reshape(x, (1, 144)),
            b.constant(np.ones((1, 144), np.int8), np.float32([1])),
            b.constant(np.int32([2**31 - 1]), np.float32([1])),
        ),
        b.activation((1, 1), 1, 0),
    ),
}


@pytest.mark.parametrize("message", BREAKS)
def test_broken_rules_name_the_layer(message):
    build = Builder(0, 4)
    program = build.program(BREAKS[message](build, build.input((1, 6, 6, 4))))
    with pytest.raises(ValueError, match=rf"Layer 'layer_\d'.*{message}.*Received: "):
        flatbuffer.write(program)
