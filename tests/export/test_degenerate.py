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
from keras_lowbit import PTQConfig
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


@needs_tflm
def test_a_nearly_dead_relu6_is_exact(tmp_path: Path) -> None:
    """Six is no 32-bit code of a grid this fine, and far off it."""
    model = networks.chain(
        (5, 5, 3), lambda k: k.Conv2D(4, 3, name="conv"), lambda k: k.ReLU(6.0, name="cap"),
        lambda k: k.DepthwiseConv2D(3, name="depthwise"),
    )(tf_keras)  # fmt: skip
    networks.randomize(model)
    model.get_layer("conv").set_weights([w * 1e-12 for w in model.get_layer("conv").get_weights()])
    qmodel = pipelines.quantized(model, pipelines.ranges_only(8))
    assert pipelines.prove(qmodel, tmp_path).compared > 0


def test_answers_that_do_not_differ_are_refused_with_advice() -> None:
    model = networks.chain((6,), lambda k: k.Dense(3, activation="softmax", name="last"))(tf_keras)
    model.set_weights([w * 1e-12 for w in networks.randomize(model).get_weights()])
    with pytest.raises(ValueError, match="last_softmax.*train first, or leave the softmax out"):
        pipelines.quantized(model, pipelines.ranges_only(8))


@needs_tflm
@pytest.mark.parametrize("packing", ["int8", "auto"])
def test_biases_behind_a_tensor_of_zeros_are_kept(
    packing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are stored in steps of its scale, which nothing decides; two such tensors in a row."""
    calls = (
        lambda k: k.Conv2D(4, 3, activation="relu", name="dead"), lambda k: k.Conv2D(4, 3, name="dead_too"),
        lambda k: k.ReLU(name="dead_relu"), lambda k: k.Conv2D(4, 1, name="after"),
    )  # fmt: skip
    model = networks.randomize(networks.chain((8, 8, 3), *calls)(tf_keras))
    for name in ("dead", "dead_too"):
        model.get_layer(name).bias.assign([-50.0] * 4)
    model.get_layer("after").bias.assign([0.03, -0.02, 0.05, 0.01])
    with caplog.at_level("WARNING", logger="absl"):
        qmodel = pipelines.quantized(model, PTQConfig(optimize=(), tune_steps=0))
    assert "dead_relu is zero in all calibration samples" in caplog.text
    qmodel.export(tmp_path / "m.tflite", packing=packing)
    report = qmodel.verify(tmp_path / "m.tflite", networks.samples(model, 8)[0])
    assert report.ok
    assert report.runtimes["tflm"].simulation_difference <= 1
