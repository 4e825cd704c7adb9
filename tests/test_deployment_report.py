"""The deployment report: its numbers are those of the exported file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from networks import chain

from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.analysis import deployment
from keras_lowbit.analysis.deployment import weight_codes
from keras_lowbit.export import runtimes
from keras_lowbit.export.vela import vela_command

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
needs_vela = pytest.mark.skipif(
    vela_command() is None, reason="Vela is not installed: pip install ethos-u-vela"
)

network = chain(
    (6, 6, 16), lambda k: k.Conv2D(32, 3, activation="relu", name="large"), lambda k: k.Flatten(),
    lambda k: k.Dense(24, name="last"),
)  # fmt: skip


@pytest.fixture(scope="module")
def qmodel() -> QuantizedModel:
    """2-bit weights in the first layer, 4 in the last."""
    config = PTQConfig(2, 8, optimize=(), tune_steps=0, layer_bits={"last": 4})
    return pipelines.quantized(networks.randomize(network(tf_keras)), config)


@needs_tflm
def test_for_tflm(qmodel: QuantizedModel, tmp_path: Path) -> None:
    report = qmodel.deployment_report()
    qmodel.export(tmp_path / "m.tflite", packing="auto", strip="micro")
    assert report.file.total == (tmp_path / "m.tflite").stat().st_size
    assert json.loads(json.dumps(report.to_dict()))["file"]["total"] == report.file.total
    assert {"AddConv2D", "AddFullyConnected", "AddReshape"} <= set(report.operators)
    assert report.arena is not None
    # The convolution's input and output are alive at once.
    assert report.arena.head >= 6 * 6 * 16 + 4 * 4 * 32
    assert set(report.latency_seconds) == {"tflm"}
    assert report.latency_seconds["tflm"] > 0
    assert (report.vela, report.notes) == (None, ())
    assert report.cost == qmodel.cost()
    for words in (
        "Exported for tflm, packing auto, strip micro", f"{report.file.total:,} bytes",
        f"{report.arena.smallest:,} bytes, the smallest that works", "AddConv2D, ",
        "on this host, which is not the device", f"{report.cost.bops:,}",
        "fewer activation bits save no RAM", f"{report.cost.peak_memory_bytes:,} bytes of weights",
    ):  # fmt: skip
        assert words in str(report)
    assert "Not measured" not in str(report)


def test_for_litert(qmodel: QuantizedModel) -> None:
    report = qmodel.deployment_report("litert", invocations=1)
    assert (report.strip, report.arena, report.operators) == ("names", None, ())
    assert set(report.latency_seconds) == {"litert_ref", "litert"}
    assert report.file.weights == (16 * 9 * 32 + 512 * 24) // 2
    assert "arena" not in str(report)


def test_the_weights_by_hand(qmodel: QuantizedModel) -> None:
    program = qmodel.to_program()
    weights = weight_codes(program)
    first, last = 16 * 9 * 32, 512 * 24
    assert weights.count == first + last
    assert weights.ideal_bytes == (2 * first + 4 * last) // 8
    assert weights.bits_per_weight == (2 * first + 4 * last) / (first + last)
    bits = 0.0
    for name in ("large/kernel", "last/kernel"):
        codes = np.ravel(program.tensors[name].data).tolist()
        bits += sum(n * math.log2(len(codes) / n) for n in Counter(codes).values())
    assert weights.entropy_bits_per_weight == pytest.approx(bits / (first + last))
    assert weights.entropy_bytes == math.ceil(bits / 8)
    assert 0 < weights.entropy_bytes < weights.ideal_bytes


@needs_vela
def test_for_ethos_u(qmodel: QuantizedModel) -> None:
    report = qmodel.deployment_report("ethos-u", accelerator="ethos-u55-64", invocations=1)
    assert report.file.weights == 16 * 9 * 32 + 512 * 24
    assert report.vela is not None
    assert report.vela.accelerator == "ethos-u55-64"
    assert report.vela.weight_bytes == report.file.weights
    assert report.weights.entropy_bytes < report.vela.encoded_weight_bytes
    assert report.vela.encoded_weight_bytes < 0.6 * report.file.weights
    assert report.operators == ("AddEthosU",)
    for words in ("Compiled by Vela", "none on the CPU", f"{report.vela.encoded_weight_bytes:,}"):
        assert words in str(report)
    left = dataclasses.replace(report.vela, cpu_operators=("SOFTMAX",))
    assert "1 on the CPU: SOFTMAX" in str(dataclasses.replace(report, vela=left))


def test_what_is_not_installed_is_said(
    qmodel: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "vela_command", lambda _: None)
    monkeypatch.setattr(runtimes, "available", lambda: ("litert_ref", "litert"))
    report = qmodel.deployment_report("ethos-u", strip="names", invocations=1)
    assert (report.vela, report.operators) == (None, ())
    assert "Not measured: what Vela makes of the file" in str(report)
    assert "pip install ethos-u-vela" in str(report)
    report = qmodel.deployment_report(invocations=1)
    assert report.arena is None
    assert "Not measured: TFLM's arena, for want of tflite_micro" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tvm"}, "`target` must be one of.*Received: target='tvm'"),
        ({"target": "ethos-u", "packing": "int4"}, "Vela compiles weights in int8.*'int4'"),
        ({"target": "litert", "strip": "micro"}, "single zero point.*strip='micro'"),
        ({"accelerator": "ethos-u55-64"}, "are for target='ethos-u'.*Received: target='tflm'"),
        ({"target": "ethos-u", "vela": "/no/vela"}, "no such Vela executable.*'/no/vela'"),
        ({"target": "litert", "invocations": 0}, "`invocations` must be at least 1.*Received: 0"),
    ],
)
def test_mistakes(qmodel: QuantizedModel, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qmodel.deployment_report(**options)
