"""Compile an exported file for Arm Ethos-U with Vela and read what came out."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from keras_lowbit.export.contents import ETHOS_U, operator_kinds, resolver_calls

ACCELERATOR = "ethos-u55-128"
INSTALL = "pip install ethos-u-vela"


@dataclasses.dataclass(frozen=True)
class VelaResult:
    """A file compiled by Vela; bytes, but for `estimated_seconds`, Vela's own estimate of an inference.

    `encoded_weight_bytes` are the weights as the NPU reads them, `weight_bytes` those in int8 as Vela
    counts them, which makes some of pools.
    `npu_operators` and `cpu_operators` are the operators of the exported file that Vela put on the
    NPU and the kinds of those that it left on the CPU. `resolver_calls` are those of the compiled file.
    """

    version: str
    accelerator: str
    compiled_file_bytes: int
    weight_bytes: int
    encoded_weight_bytes: int
    sram_bytes: int
    estimated_seconds: float
    npu_operators: int
    cpu_operators: tuple[str, ...]
    resolver_calls: tuple[str, ...]


def vela_command(executable: str | None = None) -> list[str] | None:
    """How Vela is called here: the executable given, the installed package, or ``vela`` on the PATH.

    Raises: ValueError if the executable given is not there.
    """
    if executable is not None:
        found = shutil.which(executable)
        if found is None:
            raise ValueError(
                f"There is no such Vela executable; `{INSTALL}` makes one. Received: {executable!r}"
            )
        return [found]
    parent = importlib.util.find_spec("ethosu")
    if parent is not None and importlib.util.find_spec("ethosu.vela") is not None:
        return [sys.executable, "-m", "ethosu.vela"]
    found = shutil.which("vela")
    return [found] if found else None


def compile_for_ethos_u(
    blob: bytes, accelerator: str = ACCELERATOR, executable: str | None = None
) -> VelaResult:
    """Run Vela, with its defaults but for the accelerator.

    Args:
      blob: a model whose weights are in int8 containers.
      accelerator: a name that Vela knows, such as "ethos-u55-128" or "ethos-u85-256".
      executable: Vela's, where it is installed elsewhere.

    Raises: ValueError if Vela is not installed or refuses the model or the accelerator.
    """
    command = vela_command(executable)
    if command is None:
        raise ValueError(
            f"Vela is not installed: `{INSTALL}`, or name the executable of another environment. "
            "Received: no executable"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(blob)
        _run(
            [*command, str(source), "--output-dir", folder, "--accelerator-config", accelerator],
            f"accelerator={accelerator!r}",
        )
        compiled = source.with_name("model_vela.tflite").read_bytes()
        (table,) = Path(folder).glob("model_summary_*.csv")
        with table.open(newline="") as rows:
            summary = next(csv.DictReader(rows))
    cpu = tuple(kind for kind in operator_kinds(compiled) if kind != ETHOS_U)
    return VelaResult(
        version=_version(*command),
        accelerator=accelerator,
        compiled_file_bytes=len(compiled),
        weight_bytes=int(summary["total_original_weights"]),
        encoded_weight_bytes=int(summary["total_npu_encoded_weights"]),
        sram_bytes=round(1024 * float(summary["sram_memory_used"])),  # the table's are KiB
        estimated_seconds=float(summary["inference_time"]),
        npu_operators=len(operator_kinds(blob)) - len(cpu),
        cpu_operators=cpu,
        resolver_calls=resolver_calls(compiled),
    )


@functools.cache
def _version(*command: str) -> str:
    return _run([*command, "--version"], "--version").strip()


def _run(command: list[str], received: str) -> str:
    """What Vela prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        printed = (done.stdout + done.stderr).splitlines()
        # It warns of its own defaults at every start; a crash leaves nothing else.
        shown = [line for line in printed if line.strip() and not line.startswith("Warning: No ")]
        reason = shown[-1] if shown else "it crashed"
        raise ValueError(
            f"Vela ended with status {done.returncode}: {reason!r}. Expected a model in int8 "
            f"containers and an accelerator that Vela knows. Received: {received}"
        )
    return done.stdout
