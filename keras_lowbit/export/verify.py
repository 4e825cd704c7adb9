"""Prove that a flatbuffer computes what the integer reference computes, tensor by tensor, on real inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_lowbit.export import flatbuffer, integer_reference, runtimes
from keras_lowbit.export.containers import read_containers
from keras_lowbit.export.ir import Program
from keras_lowbit.export.load_tflite import other_values

NAMED = 4  # tensors that a message lists
TWIN = "tflm, twin"  # TFLM on the same integers in int8 containers


@dataclasses.dataclass(frozen=True)
class RuntimeResult:
    """One runtime against the integer reference, over every tensor the runtime lets us see.

    `mismatches` of `compared` elements differ, by at most `max_difference` codes; `tensors` has the
    mismatches of each tensor by name. `off_grid` names tensors with codes outside their [qmin, qmax].
    `argmax_agreement` is the share of rows with the simulation's argmax, over the outputs of more than one
    unit; `simulation_difference` is the largest difference from the simulation's outputs, in codes. Both are
    None without a simulation, the former also without such outputs.
    `unlike_twin` elements differ from the same integers in int8 containers on the same runtime; None
    where that was not needed.
    """

    mismatches: int
    compared: int
    max_difference: int
    output_mismatches: int
    argmax_agreement: float | None
    tensors: Mapping[str, int]
    off_grid: tuple[str, ...]
    unlike_twin: int | None = None
    simulation_difference: int | None = None


@dataclasses.dataclass(frozen=True)
class Verification:
    """Results by runtime name, for `samples` inputs.

    `other_values` names the tensors of which the file holds other weights, biases or scales than the program:
    it was written from another model, or before the values of this one changed.
    """

    runtimes: Mapping[str, RuntimeResult]
    samples: int
    other_values: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the flatbuffer holds the program's values and is proven exact on these inputs.

        With TFLM installed: no mismatch on it and nothing off the grid. A file that TFLM cannot run is
        exact if the same integers in int8 containers are, and LiteRT makes no difference between the
        two. Without TFLM, LiteRT's reference kernels stand in, which round FULLY_CONNECTED differently:
        differences of one code are accepted.
        """
        if self.other_values:
            return False
        proof = self.runtimes.get("tflm") or self.runtimes.get(TWIN)
        if proof:
            return (
                proof.mismatches == 0
                and not proof.off_grid
                and not any(result.unlike_twin for result in self.runtimes.values())
            )
        if "litert_ref" in self.runtimes:
            return (
                self.runtimes["litert_ref"].max_difference <= 1
                and not self.runtimes["litert_ref"].off_grid
            )
        return False

    def __str__(self) -> str:
        head = (
            f"{'runtime':<12}{'differing':>12}{'of':>14}{'max':>6}{'in outputs':>12}{'argmax':>9}"
            f"{'codes':>7}  off grid"
        )
        verdict = "exact" if self.ok else "NOT PROVEN EXACT"
        if self.ok and not {"tflm", TWIN} & set(self.runtimes):
            verdict = "within one code; TFLM, which would prove more, is not installed"
        lines = [
            f"Flatbuffer against the integer reference, {self.samples} samples: {verdict}",
            head,
        ]
        for name, result in self.runtimes.items():
            argmax = "-" if result.argmax_agreement is None else f"{result.argmax_agreement:.2%}"
            codes = "-" if result.simulation_difference is None else result.simulation_difference
            lines.append(
                f"{name:<12}{result.mismatches:>12}{result.compared:>14}{result.max_difference:>6}"
                f"{result.output_mismatches:>12}{argmax:>9}{codes:>7}  "
                f"{', '.join(result.off_grid) or '-'}"
            )
        if any(result.simulation_difference is not None for result in self.runtimes.values()):
            lines.append(
                "argmax, codes: the outputs beside the simulation's, equal argmax (of several units) and "
                "largest difference."
            )
        if TWIN in self.runtimes:
            unlike = sum(result.unlike_twin or 0 for result in self.runtimes.values())
            lines.append(
                "TFLM cannot run this packing; it ran the same integers in int8 containers, from which "
                f"{unlike} elements of this file differ on LiteRT."
            )
        if self.other_values:
            named = ", ".join(self.other_values[:NAMED])
            lines.append(
                f"This file was written from other values, in {len(self.other_values)} tensors ({named}"
                f"{', ...' if len(self.other_values) > NAMED else ''}): from another model, or before the "
                "values of this one changed. Export it again."
            )
        return "\n".join(lines)


def verify(
    program: Program,
    blob: bytes,
    inputs: Sequence[np.ndarray],
    simulated_outputs: Sequence[np.ndarray] | None = None,
    runtime_names: Sequence[str] | None = None,
) -> Verification:
    """Run `inputs` (int8 [N, ...], one per program input) on the reference and on the installed runtimes.

    `simulated_outputs` are the fake-quant model's outputs [N, ...], one per program output. How far they
    are from the device's is told and proves nothing: a simulation in floats need not agree to the last code.

    Raises: ValueError if the inputs do not fit or a runtime refuses the flatbuffer.
    """
    if len(inputs) != len(program.inputs):
        raise ValueError(
            f"`inputs` must hold one array per program input {program.inputs}. "
            f"Received: {len(inputs)} arrays."
        )
    if simulated_outputs is not None and len(simulated_outputs) != len(program.outputs):
        raise ValueError(
            f"`simulated_outputs` must hold one array per program output {program.outputs}. "
            f"Received: {len(simulated_outputs)} arrays."
        )
    reference = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
    results = {}
    names = runtime_names if runtime_names is not None else runtimes.available()
    needs_twin = "tflm" in runtimes.available() and "tflm" not in names
    twin = flatbuffer.write(program) if needs_twin else b""
    tensors = tuple(program.tensors)
    for name in names:
        actual = runtimes.run_all_tensors(blob, name, inputs, tensors)
        # LiteRT's default kernels show no tensors inside the graph.
        visible = program.outputs if name == "litert" else tuple(reference)
        results[name] = _compare(program, reference, actual, visible, simulated_outputs)
        if needs_twin and name == "litert_ref":
            same = runtimes.run_all_tensors(twin, name, inputs, tensors)
            unlike = sum(int(np.count_nonzero(actual[key] != same[key])) for key in visible)
            results[name] = dataclasses.replace(results[name], unlike_twin=unlike)
    if needs_twin:
        actual = runtimes.run_all_tensors(twin, "tflm", inputs, tensors)
        results[TWIN] = _compare(program, reference, actual, tuple(reference), simulated_outputs)
    others = other_values(blob, program, read_containers(blob, program))
    return Verification(results, len(inputs[0]), others)


def _compare(
    program: Program,
    reference: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    visible: Sequence[str],
    simulated_outputs: Sequence[np.ndarray] | None,
) -> RuntimeResult:
    missing = sorted(
        name
        for name in visible
        if name not in actual or actual[name].shape != reference[name].shape
    )
    if missing:
        raise ValueError(
            "The flatbuffer was not written from this program: it has no tensors, or of other shapes, "
            f"{missing}. Received: {sorted(actual)}."
        )
    mismatches, compared, largest, off_grid = {}, 0, 0, []
    for name, expected in reference.items():
        if name not in actual:
            continue
        tensor = program.tensors[name]
        values = actual[name]
        if (
            values.min(initial=tensor.qmax) < tensor.qmin
            or values.max(initial=tensor.qmin) > tensor.qmax
        ):
            off_grid.append(name)
        if name in program.inputs:
            continue
        difference = np.abs(values.astype(np.int16) - expected)
        mismatches[name] = int(np.count_nonzero(difference))
        compared += difference.size
        largest = max(largest, int(difference.max(initial=0)))
    return RuntimeResult(
        mismatches=sum(mismatches.values()),
        compared=compared,
        max_difference=largest,
        output_mismatches=sum(mismatches.get(name, 0) for name in set(program.outputs)),
        argmax_agreement=_argmax_agreement(program, actual, simulated_outputs),
        tensors=mismatches,
        off_grid=tuple(off_grid),
        simulation_difference=_simulation_difference(program, actual, simulated_outputs),
    )


def _argmax_agreement(
    program: Program,
    actual: Mapping[str, np.ndarray],
    simulated_outputs: Sequence[np.ndarray] | None,
) -> float | None:
    agreements = [
        np.ravel(np.argmax(actual[name], axis=-1) == np.argmax(simulated, axis=-1))
        for name, simulated in zip(program.outputs, simulated_outputs or (), strict=False)
        if program.tensors[name].shape[-1] > 1
    ]
    return float(np.mean(np.concatenate(agreements))) if agreements else None


def _simulation_difference(
    program: Program,
    actual: Mapping[str, np.ndarray],
    simulated_outputs: Sequence[np.ndarray] | None,
) -> int | None:
    if simulated_outputs is None:
        return None
    largest = 0
    for name, simulated in zip(program.outputs, simulated_outputs, strict=True):
        tensor = program.tensors[name]
        codes = np.rint(simulated / tensor.scale) + tensor.zero_point
        largest = max(largest, int(np.abs(codes - actual[name]).max(initial=0)))
    return largest
