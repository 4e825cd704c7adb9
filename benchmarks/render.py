"""Render committed rows as the Markdown table of the README: ``python -m benchmarks.render``.

With ``--write`` it puts the table between the markers in README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.rows import read_rows

RESULTS = Path("benchmarks/results/real.jsonl")
README = Path("README.md")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, one line per row, in the order of the file."""
    lines = [
        "| setting | float | simulation | LiteRT | TFLM, first images | simulation, same images | "
        "TFLM against the reference | weights | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['preset']}, seed {row['seed']} | {row['float']:.2%} | {row['simulation']:.2%} "
            f"| {row['litert']:.2%} | {row['tflm']:.2%} of {row['tflm_samples']:,} "
            f"| {row['simulation_on_tflm_samples']:.2%} "
            f"| {row['tflm_mismatches']} of {row['tflm_compared']:,} differ "
            f"| {row['weight_bytes']:,} B | {row['quantize_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    rows = {row["key"]: row for row in read_rows(RESULTS)}  # measured again: the last
    text = table(list(rows.values()))
    if "--write" in sys.argv:
        page = README.read_text()
        head, rest = page.split(BEGIN)
        tail = rest.split(END)[1]
        README.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
