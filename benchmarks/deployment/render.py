"""The page of the deployment table, from rows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.deployment.plan import ETHOS_U, EXPORTS, INCUMBENT, OURS, TFLM, Cell
from benchmarks.rows import Row, older_rows, states_of_source
from benchmarks.study.measured import MISSING
from benchmarks.study.tables import markdown
from benchmarks.study.tasks import TASKS

INTRODUCTION = """# On the device

What a low-bit file costs in flash and RAM and what it is worth, beside the files of the tools that people
use: `TFLiteConverter` in full-integer int8, and ai-edge-quantizer with static 4-bit weights and 8-bit
activations. This page is written by `make deployment-report` from the rows that `make deployment` measures; a
dash is a cell without a row.

Activations have 8 bits everywhere. All tools get the same float network and the same calibration
samples, 1,024, of DS-CNN a fold of 979; ours quantizes with the defaults of `keras_lowbit.quantize`, once for all files of a width. The
tasks are those of [the study](study.md). TFLM is the reference build of its Python wheel on x86: arenas
count pointers of 64 bits, and time says nothing about a microcontroller, so none is given."""

EXPECTED_TEXT = """Before anything was measured, of the smallest file of that width; outputs are identical if packing
and stripping change no code of the output and TFLM equals the integer reference (both below). The int8
files expected are those that MLPerf Tiny publishes; measured is TFLiteConverter here."""

COLUMNS = """- **file**: bytes of the `.tflite` file, and in percent of the int8 file of TFLiteConverter.
- **arena**: bytes of RAM, the least in which TFLM starts and runs the file. Packed weights are expanded
  there: four bits of a convolution, and whatever is in lookup tables, a large dense layer too.
- **accuracy**: on TFLM, of the files themselves, over the test samples named above the table
  (where not all, evenly spread).
- **unlike unpacked**: codes of the output, over these samples, that differ from those of the file with the
  very same integers, every weight in a byte of its own. This is what packing and stripping change.
- **unlike int8**: predictions that differ from those of the int8 container of the same width. Integers
  that fit four bits carry a coarser bias than those aligned to the top of a byte, so codes may.
- **proof**: elements that differ between TFLM and the integer reference, over every intermediate tensor."""

RIVAL_NOTE = """ai-edge-quantizer packs convolutions and dense layers in four bits and keeps depthwise convolutions at
eight; TFLM refuses its dense layers, which have a scale per unit, so it is measured without them as well.
Files of 256 KiB and more come from it with the constants behind the flatbuffer, which TFLM does not read and
does not refuse; they were put into it before they were measured."""

ETHOS_U_TEXT = """Ethos-U NPUs read compressed weights: Arm's compiler packs the int8 containers by itself (Vela with its
defaults for {device}). Nothing was run on such a device."""


class Expectation(NamedTuple):
    """What was expected of a network before anything was measured, in bytes of the file."""

    task: str
    weight_bits: int
    at_most: int
    incumbent: int


EXPECTED = (
    Expectation("res8", 4, 49_000, 98_600),
    Expectation("res8", 2, 43_000, 98_600),
    Expectation("mobilenet", 4, 158_000, 333_000),
)


class Measured:
    """The rows of planned cells.

    Args:
      cells: the plan.
      rows: others than those of the plan are passed over.
    """

    def __init__(self, cells: Iterable[Cell], rows: Iterable[Row]) -> None:
        self.cells = list(cells)
        by_key = {row["key"]: row for row in rows}
        self._rows = {cell: by_key.get(cell.key) for cell in self.cells}

    def rows(self) -> list[Row]:
        """Those that are there."""
        return [row for row in self._rows.values() if row is not None]

    def lines(self, task: str, device: str) -> list[tuple[Cell, Row | None]]:
        """What is planned for a task and a device, with its row."""
        return [(c, r) for c, r in self._rows.items() if (c.task, c.device) == (task, device)]

    def one(self, task: str, tool: str, variant: str, weight_bits: int, device: str) -> Row | None:
        """The row of a cell, if it is planned and measured."""
        wanted = (tool, variant, weight_bits)
        found = (
            row
            for cell, row in self.lines(task, device)
            if (cell.tool, cell.variant, cell.weight_bits) == wanted
        )
        return next(found, None)


def page(cells: Iterable[Cell], rows: Iterable[Row], note: str = "") -> str:
    """The whole page.

    Args:
      cells: what was planned.
      rows: what was measured.
      note: stands behind the introduction.
    """
    measured = Measured(cells, rows)
    done = measured.rows()
    parts = [INTRODUCTION, note, f"**{len(done)} of {len(measured.cells)} files measured.**"]
    parts += _versions(done)
    parts += ["## What was expected", EXPECTED_TEXT, _expectations(measured)]
    tasks = list(dict.fromkeys(cell.task for cell in measured.cells))
    parts += ["## On TFLM", COLUMNS, RIVAL_NOTE]
    for task in tasks:
        parts += [f"### {TASKS[task].network}", *_on_tflm(measured, task)]
    parts += ["## On Ethos-U", ETHOS_U_TEXT.format(device=ETHOS_U), _on_ethos_u(measured, tasks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _expectations(measured: Measured) -> str:
    """What was expected beside the smallest file that TFLM runs at that width."""
    lines = []
    for goal in EXPECTED:
        incumbent = measured.one(goal.task, INCUMBENT, "int8", 8, TFLM)
        ours = [
            measured.one(goal.task, OURS, variant, goal.weight_bits, TFLM) for variant in EXPORTS
        ]
        known = [row for row in ours if row is not None]
        columns = [MISSING] * 4
        if known:
            best = min(known, key=lambda row: row["file_bytes"])
            same = best["codes_unlike_unpacked"] == 0 and best["proof"]["mismatches"] == 0
            columns = [
                _kilobytes(best["file_bytes"]), best["variant"],
                _said(best["file_bytes"] <= goal.at_most), _said(same),
            ]  # fmt: skip
        lines.append([
            f"{TASKS[goal.task].network} W{goal.weight_bits}", _kilobytes(goal.at_most), *columns,
            _kilobytes(goal.incumbent),
            MISSING if incumbent is None else _kilobytes(incumbent["file_bytes"]),
        ])  # fmt: skip
    header = [
        "network", "expected at most", "measured", "packing, strip", "kept", "identical outputs",
        "int8 file expected", "int8 file measured",
    ]  # fmt: skip
    return markdown(header, lines)


def _on_tflm(measured: Measured, task: str) -> list[str]:
    incumbent = measured.one(task, INCUMBENT, "int8", 8, TFLM)
    lines = [
        [f"{cell.tool} W{cell.weight_bits}", cell.variant, *_tflm_columns(row, incumbent)]
        for cell, row in measured.lines(task, TFLM)
    ]
    header = [
        "tool", "packing, strip", "file", "%", "arena", "accuracy", "unlike unpacked",
        "unlike int8", "proof",
    ]  # fmt: skip
    known = [row for _, row in measured.lines(task, TFLM) if row is not None]
    counts = Counter((row["samples"], row["test_samples"]) for row in known)
    texts = [f"{used:,} of {all_:,} test samples" for (used, all_), _ in counts.most_common()]
    floats = incumbent and incumbent["accuracy"]["float"]
    above = [", ".join(texts)] if texts else []
    if floats is not None:
        above.append(f"the float network has {floats:.2%}")
    refused = [
        f"TFLM refuses {row['tool']} {row['variant']}: `{' '.join(row['refused'].split())}`"
        for row in known
        if row["refused"]
    ]
    return ["; ".join(above) + "." if above else "", markdown(header, lines), *refused]


def _tflm_columns(row: Row | None, incumbent: Row | None) -> Sequence[str]:
    if row is None:
        return [MISSING] * 7
    share = incumbent and 100 * row["file_bytes"] / incumbent["file_bytes"]
    accuracy = row["accuracy"].get("TFLM")
    on_litert = f"refused ({row['accuracy']['LiteRT']:.2%} on LiteRT)" if row["refused"] else ""
    ours = row["tool"] == OURS
    return [
        f"{row['file_bytes']:,}", MISSING if share is None else f"{share:.0f}",
        "refused" if row["refused"] else f"{row['arena']['smallest']:,}",
        on_litert or f"{accuracy:.2%}",
        f"{row['codes_unlike_unpacked']:,} of {row['codes']:,}" if ours else MISSING,
        f"{row['predictions_unlike_int8']:,}" if ours else MISSING,
        f"{row['proof']['mismatches']:,} of {row['proof']['compared']:,}" if ours else MISSING,
    ]  # fmt: skip


def _on_ethos_u(measured: Measured, tasks: Iterable[str]) -> str:
    lines = []
    for task in tasks:
        incumbent = measured.one(task, INCUMBENT, "int8", 8, ETHOS_U)
        for cell, row in measured.lines(task, ETHOS_U):
            columns = [MISSING] * 4
            if row is not None:
                weights = row["vela"]["encoded_weight_bytes"]
                whole = incumbent and incumbent["vela"]["encoded_weight_bytes"]
                columns = [
                    f"{weights:,}", MISSING if whole is None else f"{100 * weights / whole:.0f}",
                    f"{row['vela']['compiled_file_bytes']:,}", f"{row['vela']['sram_bytes']:,}",
                ]  # fmt: skip
            lines.append([TASKS[task].network, f"{cell.tool} W{cell.weight_bits}", *columns])
    header = ["network", "tool", "weights as encoded, bytes", "%", "compiled file", "SRAM"]
    return markdown(header, lines)


def _versions(rows: Iterable[Row]) -> list[str]:
    """What rows were measured with."""
    rows = list(rows)
    if not rows:
        return []
    used: dict[str, set[str]] = {}
    for row in rows:
        found = row["versions"] | ({"vela": row["vela"]["version"]} if "vela" in row else {})
        for name, version in found.items():
            used.setdefault(name, set()).add(version)
    text = ", ".join(f"{name} {' and '.join(sorted(used[name]))}" for name in used)
    return [f"Measured with {text}.", *states_of_source(rows), *older_rows(rows)]


def _kilobytes(count: int) -> str:
    """Of 1,000 bytes."""
    return f"{count / 1000:.1f} kB"


def _said(value: bool) -> str:
    return "yes" if value else "**no**"
