"""The command line: a file comes out, mistakes say what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import pytest
import tf_keras
from networks import chain

import keras_lowbit
from keras_lowbit import cli
from keras_lowbit.export import runtimes

Command = Callable[..., tuple[int, str, str]]
needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)

network = chain(
    (5, 5, 2), lambda k: k.Conv2D(4, 3, activation="relu", name="first"), lambda k: k.Flatten(),
    lambda k: k.Dense(3, name="last"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a model, samples and a short configuration."""
    monkeypatch.chdir(tmp_path)
    model = networks.randomize(network(tf_keras))
    model.save("model.keras")
    x = networks.samples(model, 40)[0]
    np.save("x.npy", x)
    np.savez("one.npz", images=x)
    np.savez("two.npz", images=x, labels=np.zeros(40))
    config = keras_lowbit.PTQConfig(weight_bits=3, optimize=(), tune_steps=0)
    Path("config.json").write_text(config.to_json())
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``python -m keras_lowbit ...`` in this process; exit status, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keras_lowbit", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.run()
        shown = capsys.readouterr()
        return exit_.value.code or 0, shown.out, shown.err

    return run


def test_quantize_verify_and_inspect(folder: Path, command: Command) -> None:
    shared = ("--output=out/m.tflite", "--calib=x.npy", "--saved=out/saved")
    status, shown, _ = command(
        "quantize", "--model=model.keras", "--config=config.json", "--verbose=0", *shared
    )
    assert status == 0
    for words in ("first", "3 bit", "out/m.tflite: ", "exact"):
        assert words in shown
    blob = (folder / "out/m.tflite").read_bytes()
    x = np.load("x.npy")
    config = keras_lowbit.PTQConfig.from_json(Path("config.json").read_text())
    model = tf_keras.models.load_model("model.keras")
    keras_lowbit.quantize(model, x, config=config, verbose=0).export("expected.tflite")
    assert blob == Path("expected.tflite").read_bytes()

    status, shown, _ = command("verify", *shared, "--verify_samples=5")
    assert status == 0
    assert "5 samples: exact" in shown
    status, shown, _ = command("inspect", "--output=out/m.tflite")
    assert status == 0
    assert shown == f"{keras_lowbit.inspect('out/m.tflite')}\n"
    status, shown, _ = command("inspect", "--output=out/m.tflite", "--json")
    assert status == 0
    assert json.loads(shown) == keras_lowbit.read_metadata("out/m.tflite")

    status, _, error = command("quantize", "--model=model.keras", *shared)
    assert status == 1
    assert "pass --overwrite" in error
    assert (folder / "out/m.tflite").read_bytes() == blob


def test_packed_and_stripped(folder: Path, command: Command) -> None:
    shared = ("--output=m.tflite", "--calib=x.npy", "--saved=saved")
    quantize = ("quantize", "--model=model.keras", "--config=config.json", "--verbose=0", *shared)
    status, shown, _ = command(*quantize, "--packing=int4", "--strip=micro", "--target=tflm")
    assert status == 0
    assert "samples: exact" in shown
    assert (folder / "m.tflite.json").exists()
    status, shown, _ = command("inspect", "--output=m.tflite", "--json")
    assert status == 0
    assert json.loads(shown)["tensors"]["first/kernel"]["container"] == "int4"
    assert command("verify", *shared)[0] == 0
    status, shown, _ = command("report", "--saved=saved", "--strip=names", "--target=litert")
    assert status == 0
    for words in (
        "Exported for litert, packing auto, strip names",
        "ideal",
        "which is not the device",
    ):
        assert words in shown
    (folder / "m.tflite").unlink()
    status, _, error = command(*quantize[:-1], "--strip=names")
    assert status == 1
    assert "--overwrite to replace it. Received: 'm.tflite.json'" in error


@needs_tflm
def test_c_source(folder: Path, command: Command) -> None:
    quantize = ("quantize", "--model=model.keras", "--config=config.json", "--verbose=0")
    shared = ("--output=net.cc", "--calib=x.npy", "--saved=saved")
    status, shown, error = command(*quantize, *shared, "--format=c", "--strip=names")
    assert status == 0, error
    for words in ("net.cc: ", "net.h: ", "net.cc.json: ", "samples: exact"):
        assert words in shown
    assert command("verify", *shared)[0] == 0
    status, _, error = command(*quantize, "--output=net.h", "--calib=x.npy", "--format=c")
    assert status == 1
    assert "--overwrite to replace it. Received: 'net.cc'" in error


def test_a_file_that_is_not_the_saved_models_fails(folder: Path, command: Command) -> None:
    model = tf_keras.models.load_model("model.keras")
    config = keras_lowbit.PTQConfig(optimize=(), tune_steps=0)
    for name, shift in (("a", 0.0), ("b", 0.5)):
        model.set_weights([w + shift for w in model.get_weights()])
        qmodel = keras_lowbit.quantize(model, np.load("x.npy"), config=config, verbose=0)
        qmodel.export(f"{name}.tflite")
        qmodel.save(name)
    status, shown, _ = command("verify", "--saved=a", "--output=b.tflite", "--calib=x.npy")
    assert status == 1
    assert "NOT PROVEN EXACT" in shown
    assert re.search(r"written from other values, in \d+ tensors .*Export it again", shown)


@pytest.mark.parametrize("calib", [["--calib=one.npz"], ["--calib=two.npz", "--calib_key=images"]])
def test_archives(folder: Path, command: Command, calib: list[str]) -> None:
    status, shown, _ = command(
        "quantize", "--model=model.keras", "--config=config.json", "--output=m.tflite",
        "--verify_samples=0", "--verbose=0", *calib,
    )  # fmt: skip
    assert status == 0
    assert "exact" not in shown
    assert (folder / "m.tflite").exists()


def test_a_network_of_several_inputs(folder: Path, command: Command) -> None:
    """The samples are an .npz file with an array per input under its name, beside labels or not."""
    x, w = tf_keras.Input((4,), name="x"), tf_keras.Input((3,), name="w")
    joined = tf_keras.layers.Concatenate()([tf_keras.layers.Dense(4)(x), w])
    model = networks.randomize(tf_keras.Model([w, x], tf_keras.layers.Dense(2)(joined)))
    model.save("two.keras")
    data = dict(zip(("w", "x"), networks.samples(model, 40), strict=True))
    np.savez("inputs.npz", labels=np.zeros(40), **data)
    np.savez("missing.npz", x=data["x"], v=data["w"])
    shared = ("--output=m.tflite", "--saved=saved")
    quantize = ("quantize", "--model=two.keras", "--config=config.json", "--verbose=0", *shared)
    for wrong in (
        ["--calib=missing.npz"],
        ["--calib=x.npy"],
        ["--calib=inputs.npz", "--calib_key=x"],
    ):
        status, _, error = command(*quantize, *wrong)
        assert status == 1
        assert "array per input, under the names ['w', 'x'], and no --calib_key. Received" in error
    status, shown, error = command(*quantize, "--calib=inputs.npz", "--verify_samples=5")
    assert status == 0, error
    assert "5 samples: exact" in shown
    blob = (folder / "m.tflite").read_bytes()
    config = keras_lowbit.PTQConfig.from_json(Path("config.json").read_text())
    keras_lowbit.quantize(model, data, config=config, verbose=0).export("expected.tflite")
    assert blob == Path("expected.tflite").read_bytes()
    status, shown, error = command("verify", "--calib=inputs.npz", "--verify_samples=4", *shared)
    assert status == 0, error
    assert "4 samples: exact" in shown


QUANTIZE = ("quantize", "--model=model.keras", "--output=m.tflite")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, r"Usage: .*quantize\|verify\|inspect\|report.*Received: no command"),
        (("compress",), 2, "Usage: .*Received: compress"),
        (("quantize", "inspect"), 2, "Usage: .*Received: quantize inspect"),
        (("quantize", "--model=m"), 1, "needs --calib, --output"),
        (("verify",), 1, "needs --saved, --output, --calib"),
        (("inspect",), 1, "needs --output"),
        (("report",), 1, "needs --saved"),
        (("inspect", "--output=none.tflite"), 1, "Cannot read the model file.*none.tflite"),
        (("quantize", "--model=no", "--output=m", "--calib=x.npy"), 1, "no model at this path"),
        ((*QUANTIZE, "--calib=x.npy", "--packing=zip"), 2, "packing=zip: value should be one of"),
        (
            (*QUANTIZE, "--calib=x.npy", "--packing=lut", "--target=litert"),
            1,
            "LiteRT has no DECODE operator",
        ),
        (
            (*QUANTIZE, "--calib=x.npy", "--format=c", "--target=litert"),
            1,
            "C source is for TensorFlow Lite Micro",
        ),
        ((*QUANTIZE, "--calib=none.npy"), 1, "calibration file cannot be read.*none.npy"),
        ((*QUANTIZE, "--calib=two.npz"), 1, "--calib_key.*'images', 'labels'"),
        ((*QUANTIZE, "--calib=x.npy", "--calib_key=x"), 1, "leave --calib_key out.*calib_key='x'"),
        ((*QUANTIZE, "--calib=x.npy", "--verify_samples=-1"), 2, "verify_samples.*-1"),
        ((*QUANTIZE[:2], "--calib=x.npy", "--output=m.cc"), 1, "is no C source.*path='m.cc'"),
        ((*QUANTIZE, "--calib=empty.npy"), 1, "calibration file cannot be read.*empty.npy"),
        ((*QUANTIZE, "--calib=short.npz"), 1, "calibration file cannot be read.*short.npz"),
        ((*QUANTIZE, "--calib=objects.npz"), 1, "calibration file cannot be read.*objects.npz"),
        ((*QUANTIZE, "--calib=x.npy", "--config=x.npy"), 1, "configuration file cannot.*x.npy"),
        (
            (*QUANTIZE, "--calib=x.npy", "--saved=other", "--overwrite"),
            1,
            "Only a folder with a quan",
        ),
        ((*QUANTIZE[:2], "--output=x.npy/m.tflite", "--calib=x.npy"), 1, "x.npy' is no folder"),
        (
            (*QUANTIZE, "--calib=x.npy", "--saved=run", "--checkpoint_dir=run"),
            1,
            "--saved must be a folder of its own.*--saved=.*run, --checkpoint_dir=.*run",
        ),
        (
            (*QUANTIZE, "--calib=x.npy", "--saved=m.tflite"),
            1,
            "--saved must be a folder of its own.*--output=.*m.tflite",
        ),
        (
            (*QUANTIZE[:2], "--output=run/m.tflite", "--calib=x.npy", "--saved=run"),
            1,
            "--saved must be a folder of its own.*--output=.*run/m.tflite",
        ),
        (
            (*QUANTIZE, "--calib=x.npy", "--checkpoint_dir=m.tflite"),
            1,
            "--checkpoint_dir must be a folder of its own.*--output=.*m.tflite",
        ),
        ((*QUANTIZE, "--calib=x.npy", "--saved=x.npy/a/b"), 1, "x.npy' is no folder"),
        ((*QUANTIZE, "--calib=one.npz", "--calib_key=x"), 1, "--calib_key.*Received: 'x'"),
        ((*QUANTIZE, "--calib=x.npy", "--config=none.json"), 1, "configuration.*none.json"),
        ((*QUANTIZE, "--calib=x.npy", "--config=bad.json"), 1, "no such field.*'wieght_bits'"),
        ((*QUANTIZE, "--calib=x.npy", "--config=model.json"), 1, "is a JSON object"),
        (
            (*QUANTIZE, "--calib=x.npy", "--config=config.json", "--weight_bits=4"),
            1,
            "--weight_bits and --config.*twice: set it in the --config file",
        ),
        ((*QUANTIZE, "--calib=x.npy", "--weight_bits=9"), 2, "weight_bits.*9"),
        (("inspect", "--outptu=m.tflite"), 2, "Unknown command line flag 'outptu'"),
    ],
)
def test_mistakes(
    folder: Path, command: Command, arguments: tuple[str, ...], status: int, message: str
) -> None:
    Path("bad.json").write_text('{"wieght_bits": 4}')
    Path("model.json").write_text("{model")
    Path("other").mkdir()
    Path("empty.npy").write_bytes(b"")
    Path("short.npz").write_bytes(Path("one.npz").read_bytes()[:-40])
    np.savez("objects.npz", images=np.array([None, "a"], dtype=object))
    received, _, error = command(*arguments)
    assert received == status
    assert re.search(message, error.replace("\n", " ")), error
    assert not (folder / "m.tflite").exists()


def test_as_a_program(folder: Path) -> None:
    program = [sys.executable, "-m", "keras_lowbit"]
    done = subprocess.run(
        [*program, *QUANTIZE, "--calib=x.npy", "--config=config.json", "--verbose=0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "samples: exact" in done.stdout
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, check=False)
    for words in ("keras_lowbit quantize --model", "--weight_bits", "--checkpoint_dir"):
        assert words in done.stdout


def test_budgets(folder: Path, command: Command) -> None:
    given = ("--model=model.keras", "--calib=x.npy", "--output=m.tflite", "--verbose=0")
    limit = ("--config=config.json", "--budget_average_weight_bits=3.5", "--verify_samples=0")
    status, shown, _ = command("quantize", *given, *limit, "--candidate_bits=2,5")
    assert status == 0
    assert re.search(r"first +Conv2D +\d bit", shown)
    sizes, bits = {"first": 72, "last": 108}, {}
    for name, tensor in keras_lowbit.read_metadata(folder / "m.tflite")["tensors"].items():
        layer, _, role = name.rpartition("/")
        if role == "kernel":
            bits[layer] = tensor["bits"]
    assert sum(sizes[n] * b for n, b in bits.items()) <= 3.5 * sum(sizes.values())
    assert set(bits.values()) <= {2, 5}
    for wrong, message in (
        (("--budget_flash=2kB",), "packing 'auto' and strip 'micro'"),
        (("--budget_bops=1e6", "--candidate_bits=2,x"), "whole numbers. Received: '2,x'"),
        (("--candidate_bits=2,3",), "--budget_flash. Received: --candidate_bits=2,3"),
        (("--budget_flash=2 lb", "--packing=auto", "--strip=micro"), "`flash` must be"),
        (("--budget_bops=1e6", "--weight_bits=3"), "leave --weight_bits out"),
    ):
        status, _, errors = command("quantize", *given, "--overwrite", *wrong)
        assert status == 1
        assert message in errors
