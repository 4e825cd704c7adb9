"""Bias correction: the means of the float network, channel by channel."""

from __future__ import annotations

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from networks import chain

from keras_lowbit.finetune.bias_correction import correct_biases
from keras_lowbit.quantized_model import QuantizedModel

SAMPLES = 96


def corrected(network: networks.Network, bits: int = 3) -> tuple[QuantizedModel, list[np.ndarray]]:
    qmodel = pipelines.quantized(
        networks.randomize(network(tf_keras)), pipelines.ranges_only(bits, weight_grid="narrow")
    )
    data = networks.samples(qmodel.model, SAMPLES)
    correct_biases(
        qmodel.student, qmodel.teacher, dict(zip(qmodel.student.graph.inputs, data, strict=True))
    )
    return qmodel, data


@pytest.mark.parametrize(
    "network", [networks.residual, networks.two_outputs], ids=["residual", "two outputs"]
)
def test_every_layer_has_the_mean_of_the_float_layer(network: networks.Network) -> None:
    qmodel, data = corrected(network)
    student = qmodel.student
    names = list(student.biases)
    quantized = tf_keras.Model(student.model.inputs, [student.tensor(name) for name in names])
    floats = tf_keras.Model(
        qmodel.teacher.inputs, [qmodel.teacher.get_layer(name).output for name in names]
    )
    compared = 0
    for name, is_output, wanted in zip(
        names, networks.outputs(quantized, data), networks.outputs(floats, data), strict=True
    ):
        group = student.placement.groups.get(name)
        if group is not None:  # its own quantizer comes behind: see the next test
            continue
        axes = tuple(range(wanted.ndim - 1))
        np.testing.assert_allclose(
            is_output.mean(axes), wanted.mean(axes), atol=1e-4 * np.abs(wanted).max(), err_msg=name
        )
        compared += 1
    assert compared


def test_a_known_shift_is_taken_off() -> None:
    """One dense layer of ones times 1.3 on inputs that are all 1: rounding the kernel is the shift."""
    network = chain((4,), lambda k: k.Dense(2, name="only"))
    model = network(tf_keras)
    model.layers[-1].set_weights([np.array([[1.3, 7.0]] + [[1.3, 1.3]] * 3, "f"), np.zeros(2, "f")])
    x = np.ones((SAMPLES, 4), np.float32)
    config = pipelines.ranges_only(4, weight_range="minmax", weight_grid="narrow")
    qmodel = pipelines.quantized(model, config, [x])
    rounded = qmodel.student.kernels["only"].numpy()
    scale = qmodel.student.weight_quantizers["only"].scale().numpy()
    assert scale[0, 1] == 1.0
    correct_biases(qmodel.student, qmodel.teacher, {qmodel.student.graph.inputs[0]: x})
    # The second channel has the codes 7, 1, 1, 1: 0.9 less than 10.9.
    assert qmodel.student.biases["only"].numpy()[1] == pytest.approx(0.9, abs=0.02), rounded


def test_layers_without_a_bias_are_left_alone() -> None:
    qmodel, data = corrected(chain((6,), lambda k: k.Dense(4, use_bias=False, name="only")))
    assert "only" not in qmodel.student.biases
    assert np.isfinite(networks.outputs(qmodel.model, data)[0]).all()
