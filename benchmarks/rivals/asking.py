"""A tool asked in another process, by files."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.rivals.networks import Network
from benchmarks.rivals.plan import Cell
from benchmarks.study.tasks import Samples
from benchmarks.study.worker import ONE_THREAD

REPOSITORY = Path(__file__).resolve().parents[2]
LAST_LINES = 15


class Answer(NamedTuple):
    """What a tool made of a network.

    Attributes:
      told: "refused" (empty if not), "runs_on", "settings", "seconds" and "versions".
      floats: outputs of the float network in the tool's process, for the first test samples.
      outputs: of the quantized network, for all test samples; None if the tool refused.
    """

    told: dict[str, Any]
    floats: np.ndarray | None
    outputs: np.ndarray | None


def write_inputs(folder: Path, networks: Sequence[Network], samples: Samples) -> None:
    """Networks and samples as files."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = samples.calibration_labels
    if labels is None:
        labels = np.full(len(samples.calibration), -1)
    for name, array in (
        ("calibration", samples.calibration), ("labels", labels), ("x_test", samples.x_test),
    ):  # fmt: skip
        np.save(folder / f"{name}.npy", array)
    for network in networks:
        place = folder / (network.name or "as it is")
        place.mkdir(exist_ok=True)
        (place / "architecture.json").write_text(network.architecture)
        np.savez(place / "weights.npz", *network.weights)


def ask(cell: Cell, python: str, inputs: Path, networks: Sequence[Network]) -> Answer:
    """The answer of the tool of a cell, of which a process of its own is started.

    Args:
      cell: what is asked.
      python: the interpreter of the tool's environment.
      inputs: folder that :func:`write_inputs` has written.
      networks: those of the folder that are tried, in this order, until one is not refused.

    Raises:
      ValueError: the process ended without an answer.
    """
    request = {
        "module": cell.contestant.module, "options": cell.contestant.options, "seed": cell.seed,
        "weight_bits": cell.weight_bits, "activation_bits": cell.activation_bits,
        "inputs": str(inputs.resolve()),
        "networks": [network.name or "as it is" for network in networks],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        threads = dict.fromkeys(ONE_THREAD, str(cell.threads))
        done = subprocess.run(
            [python, "-m", "benchmarks.rivals.worker", str(folder)],
            cwd=REPOSITORY, env=os.environ | threads | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        answer = folder / "answer.json"
        if done.returncode or not answer.exists():
            lines = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
            raise ValueError(
                f"The process of {cell.contestant} ended without an answer, with status "
                f"{done.returncode}. Received: {lines}"
            )
        told = json.loads(answer.read_text())
        if told["refused"]:
            return Answer(told, None, None)
        return Answer(told, np.load(folder / "floats.npy"), np.load(folder / "outputs.npy"))
