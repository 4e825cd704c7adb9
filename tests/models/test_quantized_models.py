"""The networks of the study, quantized to ranges: what TFLM runs is the reference, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
from networks import randomize

from keras_lowbit import PTQConfig
from keras_lowbit.export import runtimes
from models import data, digits, har_cnn, pretrained

pytestmark = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
CALIBRATION, PROVEN = 32, 3

NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], np.ndarray]]] = {
    "Res8": (pretrained.load_res8, lambda: data.cifar10_calibration(CALIBRATION + PROVEN)),
    "MobileNetV1": (pretrained.load_mobilenet, lambda: data.load_vww().x_calib),
    "DS-CNN": (pretrained.load_ds_cnn, lambda: data.load_kws().x_calib),
    "HAR CNN": (lambda: randomize(har_cnn.build()), lambda: data.load_uci_har().x_train),
}


def prove(model: Any, samples: np.ndarray, bits: int, folder: Path) -> None:
    config = PTQConfig.uniform(bits, optimize=(), tune_steps=0)
    qmodel = pipelines.quantized(model, config, samples[:CALIBRATION])
    qmodel.export(folder / "model.tflite")
    verification = qmodel.verify(folder / "model.tflite", samples[-PROVEN:])
    assert verification.ok, verification
    result = verification.runtimes["tflm"]
    assert (result.mismatches, result.off_grid) == (0, ())
    assert result.compared > PROVEN * qmodel.cost().peak_activation_elements / 2


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_on_tflm(name: str, bits: int, shared_data: Path, tmp_path: Path) -> None:
    del shared_data
    load, samples = NETWORKS[name]
    prove(load(), samples()[: CALIBRATION + PROVEN], bits, tmp_path)


@pytest.mark.parametrize("bits", range(2, 9))
def test_digits_at_every_width(bits: int, tmp_path: Path) -> None:
    """The net that comes with the repository."""
    prove(digits.load(), data.load_digits().x_train[: CALIBRATION + PROVEN], bits, tmp_path)
