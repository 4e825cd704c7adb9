"""What rows of measurements have in common: keys, versions, and files of one JSON object a line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras_lowbit

Row = dict[str, Any]
# Of the algorithms. Raised when the same configuration comes to give other results, so that rows are measured again.
# 2: samples of ranges and search from all of the calibration set; images distilled over views.
# 3: scales of kernels without a zero beside dead inputs; mirror images on one side of the hold-out. Concerns MobileNetV1 alone.
# 4: zero points of 2 and 3-bit kernels by the layer's output. Concerns the recipe "fast" alone.
# 5: activations of 2 and 3 bits are rounded little by little in the end-to-end stage.
RESULTS = 5


def short_hash(document: Any) -> str:
    """16 hexadecimal digits of a JSON-able document."""
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = (
        "tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert",
        "tflite-micro", "numpy",
    )  # fmt: skip
    found = {name: importlib.metadata.version(name) for name in packages}
    return {**found, "keras_lowbit": keras_lowbit.__version__, "python": platform.python_version()}


def source_hash() -> str:
    """A short hash of the source of keras_lowbit as it lies on the disk now."""
    package = Path(keras_lowbit.__file__).parent
    files = sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))
    return short_hash([(name, (package / name).read_text()) for name in files])


def read_rows(path: Path) -> list[Row]:
    """The rows of a file in its order; none if there is no such file.

    Raises:
      ValueError: a line that is no row; the message tells its number.
    """
    rows = []
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"A line of the results is no row with a key: {error}. Remove it, and it is "
                f"measured again. Received: {path}, line {number}"
            ) from error
        rows.append(row)
    return rows


def is_of_today(row: Row) -> bool:
    """Whether the row is of another tool, or of our algorithms as they are."""
    return not row.get("config") or row.get("results", 1) == RESULTS


def mark(row: Row) -> str:
    """What stands behind a number of a row: ° where its algorithms are older than today's."""
    return "" if is_of_today(row) else "°"


def of_today(read: Callable[[Path], list[Row]]) -> Callable[[Path], list[Row]]:
    """Read likewise, but for rows that are to be measured again."""
    return lambda path: [row for row in read(path) if is_of_today(row)]


def states_of_source(rows: Iterable[Row]) -> list[str]:
    """What a page has to say where the source changed between its rows; nothing if it did not."""
    count = len({row["source"] for row in rows if row.get("source")})
    return [f"Rows were measured with {count} states of the source of keras_lowbit."] * (count > 1)


def older_rows(rows: Iterable[Row]) -> list[str]:
    """What a page has to say of rows that are to be measured again; nothing if there are none."""
    ours = [row for row in rows if row.get("config")]
    older = sum(not is_of_today(row) for row in ours)
    text = f"{older} of {len(ours)} rows of keras_lowbit are of its algorithms before today's"
    return [f"{text}, and are to be measured again."] * (older > 0)
