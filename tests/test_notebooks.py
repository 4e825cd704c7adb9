"""The notebooks run from top to bottom, from the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def executed(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each code cell printed."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3",
        resources={"metadata": {"path": str(REPOSITORY)}},
    )  # fmt: skip
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute()
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "\n".join(executed(REPOSITORY / "notebooks/01_quick_start.ipynb", monkeypatch))
    for words in (
        "float accuracy: 9",
        "proven exact: True",
        "same bytes: True",
        "stem/kernel",
        "W2A8: ",
        "predicted error",
        "within the budget: 1",
    ):
        assert words in printed


def test_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "\n".join(executed(REPOSITORY / "notebooks/02_the_pipeline.ipynb", monkeypatch))
    for words in (
        "float accuracy: 9",
        "stem_norm: ",
        "accuracy with MSE ranges: ",
        "0 is the code below, 1 the one above: [0, 1]",
        "rounded away from the nearest code: ",
        "accuracy after reconstruction: ",
        "accuracy after bias tuning: ",
        "bitsplit  ",
    ):
        assert words in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    """So that a change of a notebook is a change of its text."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
