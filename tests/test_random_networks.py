"""Random architectures at random widths: quantized, exported, exact on TFLM.

The same without Keras is ``export/test_random_graphs.py``, far faster.
``KERAS_LOWBIT_EXAMPLES=500 pytest tests/test_random_networks.py`` looks further.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_lowbit import PTQConfig
from keras_lowbit.export import runtimes
from keras_lowbit.export.containers import PACKINGS, STRIPS

pytestmark = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
EXAMPLES = int(os.environ.get("KERAS_LOWBIT_EXAMPLES", "15"))

Draw = Callable[[st.SearchStrategy[Any]], Any]
widths = st.integers(2, 8)
configs = st.builds(
    PTQConfig,
    weight_bits=widths,
    activation_bits=widths,
    linear_activation_bits=widths,
    input_bits=widths,
    first_last_bits=st.sampled_from([None, 8]),
    weight_grid=st.sampled_from(["auto", "narrow", "full", "midrise", "centred"]),
    weight_range=st.sampled_from(["mse", "minmax", "output"]),
    activation_range=st.sampled_from(["mse", "minmax", "output"]),
    equalize=st.booleans(),
    optimize=st.sampled_from([(), ("bitsplit",)]),
    units=st.just("layer"),
    correct_bias=st.booleans(),
    tune_steps=st.just(0),
)


def architecture(draw: Draw) -> Any:
    """A model of two to six random layers and a head."""
    layers = tf_keras.layers
    one_axis = draw(st.booleans())
    sizes = draw(st.lists(st.integers(5, 8), min_size=2 - one_axis, max_size=2 - one_axis))
    inputs = tf_keras.Input((*sizes, draw(st.integers(1, 3))), name="input")
    tensor = inputs
    for _ in range(draw(st.integers(2, 6))):
        tensor = draw(st.sampled_from(SEQUENCE if one_axis else IMAGE))(draw, tensor)
    head = draw(st.sampled_from(["pool", "flatten", "none"]))
    if head != "none":
        pool = layers.GlobalAveragePooling1D if one_axis else layers.GlobalAveragePooling2D
        tensor = (pool if head == "pool" else layers.Flatten)()(tensor)
        activation = draw(st.sampled_from(["linear", "softmax", "sigmoid", "relu"]))
        tensor = layers.Dense(3, activation=activation)(tensor)
    return networks.randomize(tf_keras.Model(inputs, tensor), draw(st.integers(0, 99)))


def activated(draw: Draw, tensor: Any, may_norm: bool = True) -> Any:
    """Nothing, a batch norm, a ReLU or a ReLU6, in every combination."""
    layers = tf_keras.layers
    if may_norm and draw(st.booleans()):
        tensor = layers.BatchNormalization()(tensor)
    largest = draw(st.sampled_from(["linear", None, 6.0]))
    return tensor if largest == "linear" else layers.ReLU(largest)(tensor)


def window(draw: Draw, tensor: Any) -> tuple[int, str]:
    """A kernel size and padding that fit."""
    smallest = min(tensor.shape[1:-1])
    return draw(st.integers(1, min(3, smallest))), draw(st.sampled_from(["same", "valid"]))


def conv2d(draw: Draw, tensor: Any) -> Any:
    size, padding = window(draw, tensor)
    stride, bias = draw(st.integers(1, 2)), draw(st.booleans())
    filters = draw(st.integers(1, 5))
    layer = tf_keras.layers.Conv2D(filters, size, stride, padding, use_bias=bias)
    return activated(draw, layer(tensor))


def depthwise(draw: Draw, tensor: Any) -> Any:
    size, padding = window(draw, tensor)
    multiplier = draw(st.integers(1, 2))
    layer = tf_keras.layers.DepthwiseConv2D(size, padding=padding, depth_multiplier=multiplier)
    return activated(draw, layer(tensor))


def separable(draw: Draw, tensor: Any) -> Any:
    size, padding = window(draw, tensor)
    return activated(draw, tf_keras.layers.SeparableConv2D(3, size, padding=padding)(tensor))


def conv1d(draw: Draw, tensor: Any) -> Any:
    size, padding = window(draw, tensor)
    padding = draw(st.sampled_from([padding, "causal"]))
    return activated(draw, tf_keras.layers.Conv1D(3, size, padding=padding)(tensor))


def pool(draw: Draw, tensor: Any) -> Any:
    size, padding = window(draw, tensor)
    axes = len(tensor.shape) - 2
    kind = draw(st.sampled_from(["Max", "Average"]))
    layer = getattr(tf_keras.layers, f"{kind}Pooling{axes}D")
    return layer(size, draw(st.integers(1, 2)), padding)(tensor)


def padded(draw: Draw, tensor: Any) -> Any:
    layer = getattr(tf_keras.layers, f"ZeroPadding{len(tensor.shape) - 2}D")
    return layer(draw(st.integers(1, 2)))(tensor)


def residual(draw: Draw, tensor: Any) -> Any:
    convolution = getattr(tf_keras.layers, f"Conv{len(tensor.shape) - 2}D")
    inner = activated(draw, convolution(tensor.shape[-1], 3, padding="same")(tensor))
    joined = tf_keras.layers.Add()([tensor, inner])
    # Behind the add of a sequence, no layer could take a batch norm in.
    return activated(draw, joined, may_norm=len(tensor.shape) == 4)


def dense_block(draw: Draw, tensor: Any) -> Any:
    convolution = getattr(tf_keras.layers, f"Conv{len(tensor.shape) - 2}D")
    inner = activated(draw, convolution(2, 1)(tensor))
    return tf_keras.layers.Concatenate()([inner, tensor])


EVERYWHERE = [pool, padded, residual, dense_block]
IMAGE = [conv2d, depthwise, separable, *EVERYWHERE]
SEQUENCE = [conv1d, *EVERYWHERE]


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    data=st.data(), config=configs,
    packing=st.sampled_from(PACKINGS), strip=st.sampled_from(STRIPS),
)  # fmt: skip
def test_exact_on_tflm(data: st.DataObject, config: PTQConfig, packing: str, strip: str) -> None:
    qmodel = pipelines.quantized(architecture(data.draw), config)
    with tempfile.TemporaryDirectory() as folder:
        pipelines.prove(qmodel, Path(folder), count=4, packing=packing, strip=strip)
    for name in qmodel.student.kernels:
        kernel = qmodel.to_program().tensors[f"{name}/kernel"]
        for channel in np.moveaxis(kernel.data, kernel.axis, 0):
            assert len(np.unique(channel)) <= 2**kernel.bits
