"""Arm's compiler for Ethos-U, called as the program that it is."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INSTALL = "pip install '.[deployment]'"
ACCELERATOR = "ethos-u55-128"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A file compiled by Vela; sizes in bytes, of the weights as the NPU reads them."""

    version: str
    compiled_file_bytes: int
    encoded_weight_bytes: int
    sram_bytes: int


def compile_for_ethos_u(blob: bytes) -> Compiled:
    """Compile a model for :data:`ACCELERATOR`, with the compiler's other defaults.

    Raises:
      ValueError: there is no Vela, or it refuses the model.
    """
    program = shutil.which("vela", path=str(Path(sys.executable).parent)) or shutil.which("vela")
    if program is None:
        raise ValueError(f"The compiler `vela` is missing: {INSTALL}. Received: PATH without it")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(blob)
        _run(program, f"--accelerator-config={ACCELERATOR}", f"--output-dir={folder}", str(source))
        [table] = Path(folder).glob("model_summary_*.csv")
        with table.open(newline="") as file:
            [summary] = csv.DictReader(file)
        size = source.with_name("model_vela.tflite").stat().st_size
    return Compiled(
        version=_run(program, "--version").strip(),
        compiled_file_bytes=size,
        encoded_weight_bytes=int(summary["total_npu_encoded_weights"]),
        sram_bytes=round(1024 * float(summary["sram_memory_used"])),  # the table's are KiB
    )


def _run(*command: str) -> str:
    """What Vela prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"Vela ended with status {done.returncode}: {(done.stdout + done.stderr)[-400:]!r}. "
            f"Received: {' '.join(command)}"
        )
    return done.stdout
