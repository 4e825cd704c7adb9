"""Virtual environments of tools that do not live with today's TensorFlow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.rivals.plan import Contestant

REQUIREMENTS = Path(__file__).with_name("mct_requirements.txt")
NEWEST_PYTHON = (3, 11)


def interpreter(contestant: Contestant) -> str:
    """The Python that a tool runs in.

    Raises:
      ValueError: its environment is not there, or of other requirements.
    """
    if contestant.environment is None:
        return sys.executable
    if not _is_ready(contestant.environment):
        raise ValueError(
            f"{contestant} needs an environment of its own, which `make rivals` makes. Received: "
            f"{contestant.environment}"
        )
    return str(contestant.environment.absolute() / "bin" / "python")


def prepare(contestant: Contestant, say: Callable[[str], None]) -> None:
    """Make the environment of a tool if it is not there; this takes minutes and 2 GB.

    Raises:
      ValueError: no Python that is old enough, or pip fails.
    """
    folder = contestant.environment
    if folder is None or _is_ready(folder):
        return
    say(f"{folder} is made from {REQUIREMENTS.name}")
    _run([_old_python(), "-m", "venv", "--clear", "--without-pip", str(folder)])
    _run([
        sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install",
        "--quiet", "--disable-pip-version-check", "--requirement", str(REQUIREMENTS),
    ])  # fmt: skip
    _marker(folder).write_text(REQUIREMENTS.read_text())


def _marker(folder: Path) -> Path:
    return folder / "installed.txt"


def _is_ready(folder: Path) -> bool:
    marker = _marker(folder)
    return marker.exists() and marker.read_text() == REQUIREMENTS.read_text()


def _old_python() -> str:
    if sys.version_info[:2] <= NEWEST_PYTHON:
        return sys.executable
    name = "python{}.{}".format(*NEWEST_PYTHON)
    path = shutil.which(name)
    if path is None:
        raise ValueError(
            f"{REQUIREMENTS.name} needs {name} or older: put it on the PATH. Received: "
            f"Python {sys.version.split()[0]}"
        )
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"A command failed with status {done.returncode}: {' '.join(command)}. Received: "
            f"{done.stderr[-1000:]}"
        )
