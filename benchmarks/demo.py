"""``make demo``: quantize the embedded digits net, export it, run it, prove it, print a table.

Everything is offline: scikit-learn's handwritten digits and weights in ``models/``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import keras_lowbit
from benchmarks.incumbent import convert_int8
from benchmarks.runtime_accuracy import accuracy
from keras_lowbit import PTQConfig
from models import digits
from models.data import load_digits

OUTPUT = Path("out/demo")
PROVEN_SAMPLES = 32
CONFIGS = {
    "W8A8": PTQConfig(weight_bits=8, activation_bits=8, steps=100, tune_steps=200),
    "W4A8": PTQConfig(weight_bits=4, activation_bits=8),
    "W2A8": PTQConfig(weight_bits=2, activation_bits=8),
    "W4A4": PTQConfig.uniform(4),
}


def main() -> int:
    """Print the table; the exit status says whether every file was proven exact on TFLM."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    data = load_digits()
    model = digits.load()
    calibration = data.x_train[:512]
    float_accuracy = float((model.predict(data.x_test, verbose=0).argmax(1) == data.y_test).mean())
    parameter_bytes = 4 * keras_lowbit.cost(model).parameters
    rows = [("float", f"{float_accuracy:.2%}", "", "", "", f"{parameter_bytes:,}", "")]
    _say(f"Digits: {len(data.x_test)} test images, {len(calibration)} calibration images.")

    path = OUTPUT / "converter_int8.tflite"
    convert_int8(model, calibration, path)
    on_runtimes = _measured(path, data.x_test, data.y_test)
    rows.append(("int8 TFLiteConverter", "", *on_runtimes, "", "", f"{path.stat().st_size:,}"))

    proven = True
    for name, config in CONFIGS.items():
        _say(f"keras_lowbit {name} ...")
        qmodel = keras_lowbit.quantize(model, calibration, config=config, verbose=0)
        path = OUTPUT / f"{name.lower()}.tflite"
        qmodel.export(path, overwrite=True)
        verification = qmodel.verify(path, data.x_test[:PROVEN_SAMPLES])
        proven = proven and verification.ok
        predicted = qmodel.model.predict(data.x_test, verbose=0).argmax(1)
        rows.append((
            f"keras_lowbit {name}", f"{float((predicted == data.y_test).mean()):.2%}",
            *_measured(path, data.x_test, data.y_test),
            _verdict(verification), f"{qmodel.cost().weight_bytes:,}", f"{path.stat().st_size:,}",
        ))  # fmt: skip
    header = (
        "model", "simulation", "LiteRT", "TFLM", "TFLM = reference", "weight bytes", "file bytes",
    )  # fmt: skip
    _print_table([header, *rows])
    _say(
        "\nTFLM = reference: elements that differ between TFLM and the integer reference, over every\n"
        f"intermediate tensor of {PROVEN_SAMPLES} images. Weight bytes: at their own width; the file "
        "keeps each\nweight in an int8 container."
        f"\nFiles are in {OUTPUT}/. Took {time.monotonic() - started:.0f} s."
    )
    return 0 if proven else 1


def _measured(path: Path, x: np.ndarray, y: np.ndarray) -> tuple[str, str]:
    """Accuracy on LiteRT and on TFLM."""
    return (f"{accuracy(path, 'litert', x, y):.2%}", f"{accuracy(path, 'tflm', x, y):.2%}")


def _verdict(verification: object) -> str:
    result = verification.runtimes["tflm"]  # type: ignore[attr-defined]
    return f"{result.mismatches} of {result.compared:,} differ"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        _say("  ".join(cells))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
