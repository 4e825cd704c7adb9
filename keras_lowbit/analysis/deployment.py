"""What an exported file costs where it is to run: flash, RAM, operators, time; one record, text or JSON."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_lowbit.accounting import Cost
from keras_lowbit.export import runtimes
from keras_lowbit.export.arena import Arena, measure_arena
from keras_lowbit.export.containers import read_containers, runtimes_for
from keras_lowbit.export.contents import FileBytes, file_bytes, resolver_calls
from keras_lowbit.export.ir import Program
from keras_lowbit.export.packing import kernel_names
from keras_lowbit.export.vela import (
    ACCELERATOR,
    INSTALL,
    VelaResult,
    compile_for_ethos_u,
    vela_command,
)
from keras_lowbit.quantized_model import QuantizedModel

_SMALLEST_STRIP = {"tflm": "micro", "litert": "names", "ethos-u": "micro"}
_RUNTIMES = {
    "tflm": "TFLM, reference kernels",
    "litert_ref": "LiteRT, reference kernels",
    "litert": "LiteRT, default kernels",
}


@dataclasses.dataclass(frozen=True)
class WeightCodes:
    """The integer weights of all layers, biases aside, and the least that they could take.

    `ideal_bytes` is every weight at its own bits. `entropy_bits_per_weight` is the entropy of the
    codes, each layer's by itself, which `entropy_bytes` sums: what a code per layer could reach
    without its table.
    """

    count: int
    bits_per_weight: float
    ideal_bytes: int
    entropy_bits_per_weight: float
    entropy_bytes: int


@dataclasses.dataclass(frozen=True)
class DeploymentReport:
    """What one exported file costs.

    Attributes:
      target, packing, strip: of the export.
      file: bytes of the file by part.
      weights: what the weights could take at least.
      operators: methods of TFLM's MicroMutableOpResolver that the firmware calls; empty for LiteRT
        and for a file that Vela has yet to compile.
      latency_seconds: by runtime, the median inference on this host; not the device.
      cost: MACs, BOPs and the paper's peak memory, see :class:`keras_lowbit.Cost`.
      arena: of TFLM on this host; None for other targets and without TFLM.
      vela: the file compiled for Ethos-U; None for other targets and without Vela.
      notes: what was not measured, and why.

    Example:
      >>> print(qmodel.deployment_report())
      >>> json.dumps(qmodel.deployment_report("ethos-u").to_dict())
    """

    target: str
    packing: str
    strip: str
    file: FileBytes
    weights: WeightCodes
    operators: tuple[str, ...]
    latency_seconds: dict[str, float]
    cost: Cost
    arena: Arena | None
    vela: VelaResult | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        weights = self.weights
        lines = [
            f"Exported for {self.target}, packing {self.packing}, strip {self.strip}",
            "",
            _row("file", self.file.total, "bytes"),
            *(
                _row(f"  {name.replace('_', ' ')}", size, "bytes")
                for name, size in dataclasses.asdict(self.file).items()
                if name != "total"
            ),
            _row("weights", weights.count, f"codes of {weights.bits_per_weight:.2f} bits"),
            _row("  ideal", weights.ideal_bytes, "bytes, each at its own bits"),
            _row(
                "  entropy", weights.entropy_bytes,
                f"bytes, {weights.entropy_bits_per_weight:.2f} bits a weight",
            ),
            "",
            *_arena_lines(self.arena),
            *_vela_lines(self.vela),
            *([f"operators: {', '.join(self.operators)}", ""] if self.operators else []),
            "Latency on this host, which is not the device:",
            *(
                f"  {_RUNTIMES[name]:<28}{1e3 * seconds:>12.3f} ms"
                for name, seconds in self.latency_seconds.items()
            ),
            "",
            _row("MACs", self.cost.macs),
            _row("BOPs", self.cost.bops),
            _row("activations", self.cost.peak_activation_elements, "bytes at their peak, in int8 tensors"),
            "Stock kernels keep every activation in an int8 tensor: fewer activation bits save no RAM there.",
            _row("peak memory", self.cost.peak_memory_bytes, "bytes of weights and activations,"),
            "packed at their own bits, is what low-bit hardware would need.",
            *(f"Not measured: {note}" for note in self.notes),
        ]  # fmt: skip
        return "\n".join(lines)


def deployment_report(
    qmodel: QuantizedModel,
    target: str = "tflm",
    packing: str = "auto",
    strip: str | None = None,
    invocations: int = 9,
    accelerator: str | None = None,
    vela: str | None = None,
) -> DeploymentReport:
    """Export a quantized model to a temporary file and measure it.

    Args:
      qmodel: the model.
      target, packing, strip: as of :meth:`QuantizedModel.export`; the smallest strip that the target
        reads unless given.
      invocations: inferences of which each latency is the median.
      accelerator: for target "ethos-u" alone, a name that Vela knows; "ethos-u55-128" unless given.
      vela: for target "ethos-u" alone, Vela's executable where it is not in this environment.

    Returns:
      The report; what cannot be measured here is in its notes.

    Raises:
      ValueError: the model cannot be exported with these options, or Vela refuses it.
    """
    if target != "ethos-u" and (accelerator or vela):
        raise ValueError(
            "`accelerator` and `vela` are for target='ethos-u'. "
            f"Received: target={target!r}, accelerator={accelerator!r}, vela={vela!r}"
        )
    command = vela_command(vela)
    strip = _SMALLEST_STRIP.get(target, "none") if strip is None else strip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        qmodel.export(path, packing=packing, strip=strip, target=target)
        blob = path.read_bytes()
    program = qmodel.to_program(read_containers(blob, qmodel.to_program()))
    arena: Arena | None = None
    compiled: VelaResult | None = None
    operators: tuple[str, ...] = ()
    notes = []
    if target == "tflm":
        operators = resolver_calls(blob)
        if "tflm" in runtimes.available():
            arena = measure_arena(blob)
        else:
            notes.append("TFLM's arena, for want of tflite_micro: install the extra 'micro'")
    if target == "ethos-u":
        if command is None:
            notes.append(f"what Vela makes of the file, for want of Vela: `{INSTALL}`")
        else:
            compiled = compile_for_ethos_u(blob, accelerator or ACCELERATOR, vela)
            operators = compiled.resolver_calls
    inputs = [np.zeros(program.tensors[name].shape, np.int8) for name in program.inputs]
    return DeploymentReport(
        target, packing, strip, file_bytes(blob), weight_codes(program), operators,
        {
            name: runtimes.latency(blob, name, inputs, invocations)
            for name in runtimes_for(blob, program)
        },
        qmodel.cost(), arena, compiled, tuple(notes),
    )  # fmt: skip


def weight_codes(program: Program) -> WeightCodes:
    """How many weights a program has, and what they could take at least."""
    count, ideal, entropy = 0, 0, 0.0
    for name in kernel_names(program).values():
        tensor = program.tensors[name]
        occurrences = np.unique(np.asarray(tensor.data), return_counts=True)[1]
        size = int(occurrences.sum())
        count += size
        ideal += tensor.bits * size
        entropy -= float(np.sum(occurrences * np.log2(occurrences / size)))
    some = max(count, 1)  # a network of pools has none
    return WeightCodes(
        count, ideal / some, math.ceil(ideal / 8), entropy / some, math.ceil(entropy / 8)
    )


def _row(name: str, value: int, unit: str = "") -> str:
    return f"{name:<20}{value:>16,} {unit}".rstrip()


def _arena_lines(arena: Arena | None) -> list[str]:
    if arena is None:
        return []
    return [
        _row("TFLM's arena", arena.smallest, "bytes, the smallest that works on this 64-bit host"),
        _row("  recorded", arena.total, "bytes"),
        _row("  head", arena.head, "bytes, activations and scratch"),
        _row("  tail", arena.tail, "bytes that persist, fewer with 32-bit pointers"),
        "Other kernels than TFLM's reference ones, such as CMSIS-NN's, want scratch of their own.",
        "",
    ]


def _vela_lines(vela: VelaResult | None) -> list[str]:
    if vela is None:
        return []
    count = len(vela.cpu_operators)
    left = f"{count} on the CPU: {', '.join(vela.cpu_operators)}" if count else "none on the CPU"
    return [
        f"Compiled by Vela {vela.version} for {vela.accelerator}",
        _row("compiled file", vela.compiled_file_bytes, "bytes"),
        _row("encoded weights", vela.encoded_weight_bytes, f"bytes, of {vela.weight_bytes:,}"),
        _row("SRAM", vela.sram_bytes, "bytes, as Vela plans it"),
        _row("NPU operators", vela.npu_operators, f"of the file, {left}"),
        f"Vela estimates {1e3 * vela.estimated_seconds:.3f} ms an inference.",
        "",
    ]
