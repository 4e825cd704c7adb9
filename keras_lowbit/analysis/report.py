"""What was quantized to what, what was folded, and how well: one record, as text or JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_lowbit.accounting import Cost
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.quantizers.placement import fused_relu


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One operator: its kernel's bits (None without one) and the grid of its output.

    ``output_bits`` is None where the output is only passed on (its grid is the input's, or a ReLU
    follows in the same kernel). ``runs_in`` names the operator whose kernel a fused ReLU runs in.
    """

    name: str
    kind: str
    weight_bits: int | None
    output_bits: int | None
    output_scale: float | None
    output_zero_point: int | None
    runs_in: str | None


@dataclasses.dataclass(frozen=True)
class Report:
    """The placement, the notes of step 1, the errors of steps 3 and 4 and the cost.

    Example:
      >>> print(qmodel.report())
      >>> json.dumps(qmodel.report().to_dict())
    """

    rows: tuple[LayerRow, ...]
    notes: dict[str, str]
    units: tuple[dict[str, Any], ...]
    calibration_samples: int
    calibration_source: str
    changed_since: tuple[str, ...]
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        width = 2 + max(len(_label(row)) for row in self.rows)
        units = "unit (error relative to the float output)"
        unit_width = 2 + max(len(name) for name in (units, *(unit["name"] for unit in self.units)))
        source = f" ({self.calibration_source})" if self.calibration_source else ""
        lines = [
            f"{'layer':<{width}}{'kind':<24}{'weights':>8}{'output':>8}{'scale':>12}{'zero':>6}",
            *(_line(row, width) for row in self.rows),
            "",
            *(f"{name}: {note}" for name, note in self.notes.items()),
            f"Made with {self.calibration_samples} calibration samples{source}. Biases become int32; "
            "nothing is left float, and what cannot be quantized was refused before any work.",
            *(
                f"The values of every {part} were trained or set since; the errors below are of before."
                for part in self.changed_since
            ),
            "",
            f"{units:<{unit_width}}{'before':>10}{'after':>10}",
            *(
                f"{unit['name']:<{unit_width}}{unit['error_before']:>10.5f}"
                f"{unit['error_after']:>10.5f}"
                for unit in self.units
            ),
            "",
            str(self.cost),
        ]
        return "\n".join(lines)


def report_on(qmodel: QuantizedModel) -> Report:
    """The report of a quantized model."""
    student = qmodel.student
    graph, placement, values = student.graph, student.placement, student.values()
    hosts = {}
    for node in graph.nodes:
        relu = fused_relu(graph, node)
        if relu is not None:
            hosts[relu.name] = node.name
    rows = []
    for node in graph.nodes:
        weight, group = placement.weights.get(node.name), placement.groups.get(node.name)
        rows.append(
            LayerRow(
                node.name,
                node.kind,
                weight.bits if weight else None,
                placement.activations[group].bits if group else None,
                float(values[f"{group}/output_scale"]) if group else None,
                int(values[f"{group}/output_zero_point"]) if group else None,
                hosts.get(node.name),
            )
        )
    return Report(
        tuple(rows),
        dict(qmodel.notes),
        tuple(qmodel.history),
        qmodel.calibration_samples,
        qmodel.calibration_source,
        qmodel.changed_since,
        qmodel.cost(),
    )


def _label(row: LayerRow) -> str:
    return row.name if row.runs_in is None else f"{row.name} (in {row.runs_in})"


def _line(row: LayerRow, width: int) -> str:
    weights = f"{row.weight_bits} bit" if row.weight_bits else "-"
    start = f"{_label(row):<{width}}{row.kind:<24}{weights:>8}"
    if row.output_bits is None:
        return f"{start}{'-':>8}"
    output = f"{row.output_bits} bit"
    return f"{start}{output:>8}{row.output_scale:>12.4g}{row.output_zero_point:>6}"
