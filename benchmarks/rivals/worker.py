"""One tool and one network in a process of its own: ``python -m benchmarks.rivals.worker FOLDER``.

Reads what :mod:`benchmarks.rivals.asking` writes into the folder, and writes its answer there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals.answers import Quantized, Request
from benchmarks.study.backends import end_with_parent

BATCH_SIZE = 256


def main(folder: Path) -> None:
    """Quantize, and predict the test samples."""
    end_with_parent()
    asked = json.loads((folder / "request.json").read_text())
    tool = importlib.import_module(asked["module"])
    inputs = Path(asked["inputs"])
    x_test = np.load(inputs / "x_test.npy")
    request = Request(
        asked["weight_bits"], asked["activation_bits"], np.load(inputs / "calibration.npy"),
        np.load(inputs / "labels.npy"), asked["options"], asked["seed"],
    )  # fmt: skip
    answer: dict[str, Any] = {"versions": _versions(tool.PACKAGES), "refused": ""}
    refusals: list[str] = []
    for name in asked["networks"]:
        model = _load(inputs / name)
        floats = model.predict(x_test[:BATCH_SIZE], verbose=0)
        started, used = time.monotonic(), time.process_time()
        quantized = _attempt(tool, model, request, refusals)
        seconds = {"quantize": time.monotonic() - started, "cpu": time.process_time() - used}
        answer["seconds"] = {key: round(value, 2) for key, value in seconds.items()}
        if quantized is not None:
            rewritten = {"network": name, "refused_as_it_is": refusals[0]} if refusals else {}
            answer |= {"runs_on": quantized.runs_on, "settings": quantized.settings | rewritten}
            np.save(folder / "floats.npy", floats)
            np.save(folder / "outputs.npy", quantized.predict(x_test))
            break
    else:
        answer["refused"] = "; ".join(dict.fromkeys(refusals))
    (folder / "answer.json").write_text(json.dumps(answer))


def _attempt(tool: Any, model: Any, request: Request, refusals: list[str]) -> Quantized | None:
    """The quantized network; None and one refusal more if the tool raises an error."""
    _keras().utils.set_random_seed(request.seed)
    try:
        return tool.quantize(model, request)
    except (MemoryError, ImportError):
        raise  # the machine's answer or ours, not the tool's
    except Exception as error:
        refusals.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return None


def _load(folder: Path) -> Any:
    model = _keras().models.model_from_json((folder / "architecture.json").read_text())
    with np.load(folder / "weights.npz") as arrays:
        model.set_weights([arrays[f"arr_{number}"] for number in range(len(arrays.files))])
    return model


def _keras() -> Any:
    """Keras 2: tf_keras, or what TensorFlow 2.15 has inside."""
    try:
        return importlib.import_module("tf_keras")
    except ImportError:
        return importlib.import_module("tensorflow").keras


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in packages}
    return {**found, "python": platform.python_version()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
