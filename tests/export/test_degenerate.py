"""Networks with nothing in them: dead channels, empty kernels, constant activations; exact all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import pipelines
import pytest
import tf_keras

import keras_lowbit
from keras_lowbit.export import runtimes
from keras_lowbit.export.containers import PACKINGS

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
STRIPS = {"int8": "none", "int4": "none", "lut": "names", "auto": "micro"}
Edit = Callable[[str, list[np.ndarray]], list[np.ndarray]]

network = networks.chain(
    (5, 5, 3), lambda k: k.Conv2D(8, 3, activation="relu", name="conv"),
    lambda k: k.DepthwiseConv2D(3, activation="relu", name="depthwise"),
    lambda k: k.Flatten(name="flat"), lambda k: k.Dense(6, activation="relu", name="hidden"),
    lambda k: k.Dense(3, activation="softmax", name="last"),
)  # fmt: skip


def dead_channels(name: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """Every other channel without weights; some of them with a large bias."""
    kernel, bias = weights
    if name == "depthwise":
        kernel[:, :, ::2] = 0.0
    else:
        kernel[..., ::2] = 0.0
    bias[::4] = 5.0
    return [kernel, bias]


def empty(name: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """No kernel at all: every activation is constant."""
    return [0.0 * weights[0], weights[1]]


def silent(name: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """ReLUs that never open: constant zeros."""
    return [weights[0], weights[1] - 100.0]


def nothing(name: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """Neither kernels nor biases."""
    return [0.0 * w for w in weights]


def unchanged(name: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """As it was."""
    return weights


@needs_tflm
@pytest.mark.parametrize(
    ("edit", "bits", "data"),
    [
        (dead_channels, 2, None),
        (empty, 4, None),
        (silent, 3, None),
        (nothing, 3, 3.0),
        (unchanged, 2, 0.0),
    ],
)
def test_exact_in_every_packing(edit: Edit, bits: int, data: float | None, tmp_path: Path) -> None:
    model = networks.randomize(network(tf_keras))
    for name in ("conv", "depthwise", "hidden", "last"):
        layer = model.get_layer(name)
        layer.set_weights(edit(name, layer.get_weights()))
    samples = None if data is None else np.full((40, 5, 5, 3), data, np.float32)
    config = pipelines.ranges_only(bits, activation_bits=8)
    qmodel = pipelines.quantized(model, config, samples)
    for packing in PACKINGS:
        pipelines.prove(qmodel, tmp_path, count=2, packing=packing, strip=STRIPS[packing])
        tensors = keras_lowbit.load_tflite(tmp_path / "model.tflite")
        for name, quantizer in qmodel.student.weight_quantizers.items():
            kernel = qmodel.student.kernels[name]
            simulated = quantizer(kernel, False, quantizer.variables).numpy()
            stored = tensors[f"{name}/kernel"].values
            np.testing.assert_array_equal(np.sort(stored, None), np.sort(simulated, None))
    qmodel.export(tmp_path / "model.cc", format="c")
