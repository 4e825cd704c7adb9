"""The simulation of average pooling rounds halves as the integer kernels do."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import keras_lowbit
from keras_lowbit.export import integer_reference
from keras_lowbit.quantizers.tensor_quantizers import ActivationQuantizer, AverageQuantizer


@pytest.mark.parametrize(
    ("bits", "offset", "value", "expected"),
    [
        (8, -128, 10.5, 10.0),  # code -117.5, away from zero is down
        (8, -128, 200.5, 201.0),  # code 72.5, up
        (8, -128, 128.5, 129.0),
        (8, -128, 127.5, 127.0),
        (4, 112, 3.5, 4.0),  # high end of int8: up
        (4, -128, 3.5, 3.0),  # low end: down
        (4, 112, 99.0, 15.0),
        (4, 112, -3.0, 0.0),
    ],
)
def test_halves_go_away_from_zero_of_the_int8_code(
    bits: int, offset: int, value: float, expected: float
) -> None:
    scale, zero_point = 0.25, 0.0
    weights = {"scale": tf.constant(scale), "zero_point": tf.constant(zero_point)}
    quantizer = AverageQuantizer(ActivationQuantizer(bits), offset)
    result = quantizer(tf.constant(value * scale), training=False, weights=weights)
    assert float(result) == expected * scale


@pytest.mark.parametrize("bits", [8, 5, 3])
def test_pooled_network_input_is_simulated_to_the_bit(bits: int) -> None:
    image = keras.Input((8, 8, 3), name="image")
    pooled = keras.layers.AveragePooling2D(2, name="pool")(image)
    output = keras.layers.Dense(2)(keras.layers.Flatten()(pooled))
    x = np.random.default_rng(0).integers(-40, 90, (64, 8, 8, 3)).astype(np.float32)
    config = keras_lowbit.PTQConfig(
        input_bits=bits, linear_activation_bits=bits, optimize=(), tune_steps=0
    )
    qmodel = keras_lowbit.quantize(keras.Model(image, output), x, config=config, verbose=0)
    program = qmodel.to_program()
    codes = integer_reference.run(program, {"image": qmodel.quantize_input(x)[0]})["pool"]
    tensor = program.tensors["pool"]
    simulated = keras.Model(qmodel.model.inputs, qmodel.student.tensor("pool")).predict(
        x, verbose=0
    )
    assert len(np.unique(codes)) > 3
    np.testing.assert_array_equal(
        np.rint(simulated / tensor.scale[0]).astype(int), codes.astype(int) - tensor.zero_point
    )
