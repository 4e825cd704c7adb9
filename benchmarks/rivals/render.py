"""The page of the side-by-side, from rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.intervals import SHARE, Agreement, bootstrap_interval
from benchmarks.rivals.plan import DEFAULT, MCT, OURS, Cell
from benchmarks.rows import Row, mark, older_rows, states_of_source
from benchmarks.study.measured import MISSING
from benchmarks.study.tables import markdown, points
from benchmarks.study.tasks import TASKS

INTRODUCTION = """# Beside other quantizers

The same float networks, calibration samples and bits for every tool, each in a process of its own with the
same number of threads. This page is written by `make rivals-report` from the rows that `make rivals`
measures; a dash is a cell without a row. The tasks are those of [the study](study.md), accuracies are those
of all their test samples."""

TOOLS = """- **keras_lowbit**: `quantize` with its three recipes, exported, scored on LiteRT.
- **TFLiteConverter**: full-integer int8, scored on LiteRT. Asked for fewer bits, its `supported_types` is set
  to the type of that name.
- **ai-edge-quantizer**: static quantization with each of its three ways to scale kernels, scored on LiteRT.
- **tfmot n-bit QAT**: its experimental n-bit scheme, trained with Adam. It is no post-training quantization:
  it sees the **labels** of the same calibration samples (where the data have them), and trains on nothing
  else. Scored in simulation.
- **MCT PTQ** and **GPTQ**: Sony's Model Compression Toolkit with the defaults of its functions, in an
  environment of its own with TensorFlow 2.15; scored in simulation, since it exports no such files. Its preset
  for TFLite has eight bits only, leaves depthwise kernels float, bounds most activations by powers of two and
  is refused by 2.6.1 itself; MCT was given capabilities without these limits: symmetric kernels with a scale
  per channel, activations with a scale and a zero point. The tutorial of its GPTQ takes 50 epochs of 5 batches of 16 samples, 250 steps;
  here an epoch is all calibration samples in batches of 16, so that 5 epochs are 320 steps already. Ten times
  as many are planned for the HAR CNN alone: on the others one cell takes hours."""

BITS = """`W4A8` is 4 bits for every kernel and 8 for activations. Below 8 bits of activations, the network input has
as few, logits and what is added keep eight. Tools place the quantizers of what an average pool reads
and writes in their own ways. Two bits are
four levels in MCT (-2 to 1) and in keras_lowbit (-1.5 to 1.5), three in tfmot. A tool that refuses a network with Conv1D gets the same network with Conv2D of
width one."""

COLUMNS = """- **drop**: accuracy lost from float, in points, with the {share:.0%} interval of a bootstrap over test
  samples, paired (each sample is right in both networks, in one, or in neither). Samples are taken as independent;
  windows of the HAR CNN overlap and are of nine people, and clips share speakers: there the truth is wider.
- **seconds**: wall time of the quantization until there is a file (or, in simulation, a model), without
  loading, importing and scoring; **CPU** of that process in the same time, which other work on the machine disturbs less.
- **× ours**: wall time as a multiple of that of `keras_lowbit default` at the same setting."""

EXPECTED = """Before anything was measured: more accurate than every rival at and below four bits, and at least
five times as fast as MCT's GPTQ at equal or better accuracy.

It is judged so: each use of GPTQ is compared with the quickest of our recipes that is no less accurate on the same
samples. tfmot's training is no rival in this, as it is told the labels. ° is of our algorithms before today's. "So far" means that rows of rivals are
missing. Where intervals overlap, a difference may be chance."""

FASTER = 5
TRAINED = "tfmot"


class Measured:
    """The rows of planned cells.

    Args:
      cells: the plan.
      rows: others than those of the plan are passed over.
    """

    def __init__(self, cells: Iterable[Cell], rows: Iterable[Row]) -> None:
        by_key = {row["key"]: row for row in rows}
        self.pairs = [(cell, by_key.get(cell.key)) for cell in cells]

    def rows(self) -> list[Row]:
        """Those that are there."""
        return [row for _, row in self.pairs if row is not None]

    def places(self) -> list[tuple[str, str]]:
        """Planned tasks and settings, in the order of the plan."""
        return list(dict.fromkeys((cell.task, cell.setting) for cell, _ in self.pairs))

    def lines(self, task: str, setting: str) -> list[tuple[Cell, Row | None]]:
        """What is planned for them, with its row."""
        return [pair for pair in self.pairs if (pair[0].task, pair[0].setting) == (task, setting)]

    def ours(self, task: str, setting: str, recipe: str = DEFAULT) -> Row | None:
        """The row of a recipe of ours."""
        name = f"{OURS} {recipe}"
        pairs = self.lines(task, setting)
        return next((row for cell, row in pairs if str(cell.contestant) == name), None)


def page(cells: Iterable[Cell], rows: Iterable[Row]) -> str:
    """The whole page.

    Args:
      cells: what was planned.
      rows: what was measured.
    """
    measured = Measured(cells, rows)
    done = measured.rows()
    parts = [INTRODUCTION, f"**{len(done)} of {len(measured.pairs)} cells measured.**"]
    parts += [*states_of_source(done), *older_rows(done)]
    parts += ["## The tools", TOOLS, BITS, *_conditions(done)]
    parts += ["## What was expected", EXPECTED, _expectations(measured)]
    parts += ["## All settings", COLUMNS.format(share=SHARE)]
    for task in dict.fromkeys(task for task, _ in measured.places()):
        parts += [f"### {TASKS[task].network}", *_table(measured, task)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _expectations(measured: Measured) -> str:
    """Ours beside the best rival, and beside MCT's GPTQ, wherever there is one."""
    lines = []
    for task, setting in measured.places():
        ours = measured.ours(task, setting)
        rows = [row for _, row in measured.lines(task, setting) if row and row["accuracy"]]
        rivals = [row for row in rows if row["tool"] not in (OURS, TRAINED)]
        if not ours or not rivals or setting == "W8A8":
            continue
        strongest = max(rivals, key=_accuracy)
        best = measured.ours(task, setting, "best")
        so_far = any(
            row is None and cell.contestant.tool not in (OURS, TRAINED)
            for cell, row in measured.lines(task, setting)
        )
        lines.append([
            TASKS[task].network, setting, _drop_text(ours),
            _drop_text(best) if best else MISSING, _drop_text(strongest), _name(strongest),
            _said(_accuracy(ours) > _accuracy(strongest), so_far),
            *_against_gptq(measured.lines(task, setting)),
        ])  # fmt: skip
    header = [
        "network", "setting", "our drop, default", "best", "least drop of a rival", "rival",
        "default is more accurate", "MCT's GPTQ: drop and time",
        f"at least {FASTER} times as fast, no worse",
    ]  # fmt: skip
    return markdown(header, lines) if lines else ""


def _against_gptq(lines: Iterable[tuple[Cell, Row | None]]) -> Sequence[str]:
    """Each use of GPTQ beside the quickest of our recipes that is no less accurate."""
    lines = [(cell, row) for cell, row in lines if row is None or row["accuracy"]]
    ours = [row for _, row in lines if row and row["tool"] == OURS]
    uses = [
        row
        for cell, row in lines
        if "epochs" in cell.contestant.options and cell.contestant.tool == MCT
    ]
    texts, kept = [], True
    for row in uses:
        if row is None:
            continue
        no_worse = [our for our in ours if _accuracy(our) >= _accuracy(row)]
        text = f"{row['variant']} {points(100 * Agreement(**row['agreement']).drop)}"
        if no_worse:
            quickest = min(no_worse, key=_seconds)
            times = _seconds(row) / _seconds(quickest)
            texts.append(f"{text}: {times:.1f} × {quickest['variant']}")
            kept = kept and times >= FASTER
        else:
            texts.append(f"{text}: more accurate than ours")
            kept = False
    return ["; ".join(texts), _said(kept, None in uses)] if texts else [MISSING] * 2


def _table(measured: Measured, task: str) -> list[str]:
    lines, remarks = [], []
    for place in measured.places():
        if place[0] != task:
            continue
        ours = measured.ours(*place)
        for cell, row in measured.lines(*place):
            lines.append([cell.setting, str(cell.contestant), *_columns(row, ours)])
            remarks += _remarks(cell, row)
    header = ["setting", "tool", "scored on", "accuracy", "drop", "seconds", "CPU", "× ours"]
    known = [r for cell, r in measured.pairs if cell.task == task and r and r["accuracy"]]
    above = ""
    if known:
        above = (
            f"{known[0]['test_samples']:,} test samples, {known[0]['calibration_samples']:,} "
            f"calibration samples; the float network has {known[0]['accuracy']['float']:.2%}."
        )
    return [above, markdown(header, lines), *_grouped(remarks)]


def _columns(row: Row | None, ours: Row | None) -> Sequence[str]:
    if row is None:
        return [MISSING] * 6
    if row["refused"]:
        return ["refused", *[MISSING] * 5]
    seconds = row["seconds"]
    times = ours and seconds["quantize"] / ours["seconds"]["quantize"]
    return [
        row["runs_on"], f"{row['accuracy']['quantized']:.2%}", _drop_text(row),
        f"{seconds['quantize']:,.0f}", f"{seconds['cpu']:,.0f}",
        MISSING if times is None else f"{times:.1f}",
    ]  # fmt: skip


def _remarks(cell: Cell, row: Row | None) -> list[tuple[str, str]]:
    """What a tool refused or did otherwise, and where."""
    if row is None:
        return []
    place = f"{cell.contestant} {cell.setting}"
    found = [(f"Refused: {_quoted(row['refused'])}", place)] if row["refused"] else []
    settings = row.get("settings", {})
    if "refused_as_it_is" in settings:
        text = f"{settings['network']}, after: {_quoted(settings['refused_as_it_is'])}"
        found.append((text, place))
    if "kernels_of_eight_bits" in settings:
        kernels = sum(settings["kernel_containers"].values())
        text = f"{settings['kernels_of_eight_bits']} of {kernels} kernels have eight bits"
        found.append((text, place))
    return found


def _grouped(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each remark."""
    places: dict[str, list[str]] = {}
    for text, place in remarks:
        places.setdefault(text, []).append(place)
    return ["\n".join(f"- {', '.join(names)}. {text}" for text, names in places.items())]


def _conditions(rows: list[Row]) -> list[str]:
    """What rows were measured with and under."""
    if not rows:
        return []
    lines = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        used: dict[str, set[str]] = {}
        for row in rows:
            for name, version in row["versions"].items() if row["tool"] == tool else ():
                used.setdefault(name, set()).add(version)
        found = ", ".join(f"{name} {' and '.join(sorted(used[name]))}" for name in used)
        lines.append(f"- {tool}: {found}")
    threads = sorted({row["threads"] for row in rows})
    loads = [row["load_average"] for row in rows]
    lines.append(
        f"- {' and '.join(sorted({row['processor'] for row in rows}))}; "
        f"threads of each tool: {' or '.join(map(str, threads))}; load average when a measurement began "
        f"{min(loads):.1f} to {max(loads):.1f}"
    )
    return ["\n".join(lines)]


def _drop_text(row: Row) -> str:
    """In points, e.g. "1.20 [0.70, 1.65]"."""
    agreement = Agreement(**row["agreement"])
    low, high = (points(100 * value) for value in bootstrap_interval(agreement))
    return f"{points(100 * agreement.drop)} [{low}, {high}]{mark(row)}"


def _accuracy(row: Row) -> float:
    return row["accuracy"]["quantized"]


def _seconds(row: Row) -> float:
    return row["seconds"]["quantize"]


def _name(row: Row) -> str:
    return f"{row['tool']} {row['variant']}"


def _quoted(text: str) -> str:
    """As code, whatever is in it."""
    return f"`` {text} ``"


def _said(value: bool, so_far: bool) -> str:
    return ("yes" + ", so far" * so_far) if value else "**no**"
