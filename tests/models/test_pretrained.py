"""The MLPerf Tiny networks load as functional models and score what was measured.

The accuracies are those of the READMEs beside the data, taken there on the whole test sets.
"""

from pathlib import Path

import numpy as np
import pytest
import tf_keras

from models import data, pretrained


def accuracy(net: tf_keras.Model, inputs: np.ndarray, labels: np.ndarray) -> float:
    predicted = net.predict(inputs, batch_size=200, verbose=0).argmax(axis=1)
    return float((predicted == labels).mean())


def is_functional(net: tf_keras.Model) -> bool:
    """Whether the net can be rebuilt from its own description, layer by layer."""
    return type(net).__name__ == "Functional" and len(net.get_config()["layers"]) == len(net.layers)


@pytest.mark.slow
def test_res8(shared_data: Path) -> None:
    del shared_data
    net = pretrained.load_res8()
    images, labels = data._cifar10_split("test")
    assert is_functional(net)
    assert net.count_params() == 78_666
    assert accuracy(net, images.astype(np.float32), labels) == pytest.approx(0.8719, abs=0.0002)


@pytest.mark.slow
def test_mobilenet(shared_data: Path) -> None:
    del shared_data
    net = pretrained.load_mobilenet()
    photographs = data.load_vww()
    assert is_functional(net)
    assert net.count_params() == 221_794
    assert accuracy(net, photographs.x_test, photographs.y_test) == pytest.approx(0.853, abs=0.0015)


@pytest.mark.slow
def test_ds_cnn(shared_data: Path) -> None:
    del shared_data
    net = pretrained.load_ds_cnn()
    clips = data.load_kws()
    assert is_functional(net)
    assert net.count_params() == 24_908
    assert accuracy(net, clips.x_test, clips.y_test) == pytest.approx(0.9217, abs=0.0003)


def test_absent_networks_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_LOWBIT_DATA", str(tmp_path))
    for loader, name in (
        (pretrained.load_res8, "pretrainedResnet.h5"),
        (pretrained.load_mobilenet, "vww_96.h5"),
        (pretrained.load_ds_cnn, "kws_ref_model/saved_model.pb"),
    ):
        with pytest.raises(ValueError, match=f"models/mlperf_tiny/{name} is missing"):
            loader()
