"""Which container each layer's weights get: the smallest that the target runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from keras_lowbit.export import runtimes
from keras_lowbit.export.flatbuffer import file_size
from keras_lowbit.export.ir import Program
from keras_lowbit.export.packing import INTEGER_BITS, WIDEST_INDEX, kernel_names

PACKINGS = ("int8", "int4", "lut", "auto")
STRIPS = ("none", "names", "micro")
TARGETS = ("tflm", "litert", "ethos-u")

# LiteRT's default kernels refuse larger rescaling factors, and may abort the process on the way.
_LARGEST_XNNPACK_FACTOR = 256
LARGEST_BIAS_STEP = 4.0  # in steps of the output: a packed bias is two off at most


def check_options(packing: str, strip: str, target: str) -> None:
    """Refuse options of the export that do not exist or that the target cannot run.

    Raises: ValueError with the reason.
    """
    for name, value, known in (
        ("packing", packing, PACKINGS), ("strip", strip, STRIPS), ("target", target, TARGETS),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    if target == "litert" and packing == "lut":
        raise ValueError(
            "LiteRT has no DECODE operator and cannot run lookup tables: use packing='auto' or 'int4', "
            "or target='tflm'. Received: packing='lut', target='litert'"
        )
    if target == "litert" and strip == "micro":
        raise ValueError(
            "LiteRT refuses per-channel weights with a single zero point, which 'micro' writes: use "
            "strip='names', or target='tflm'. Received: strip='micro', target='litert'"
        )
    if target == "ethos-u" and packing not in ("int8", "auto"):
        raise ValueError(
            "Vela compiles weights in int8 containers, which it compresses by itself; INT4 crashes it and "
            "lookup tables stay on the CPU: use packing='auto' or 'int8'. "
            f"Received: packing={packing!r}, target='ethos-u'"
        )


def choose_containers(
    lower: Callable[[Mapping[str, str]], Program], packing: str, strip: str, target: str
) -> dict[str, str]:
    """Containers by layer; what is not named stays in int8.

    From the largest layer to the smallest, each gets the container with which the file comes out
    smallest, given those of the others; `packing` restricts the choice, of equals the simplest is taken.
    That is done from several starts, and the smallest file is kept; no better one is ruled out.

    Args:
      lower: the program whose integers fit the containers given by layer.
      packing, strip, target: as of `QuantizedModel.export`.

    Raises: ValueError if the target does not run a layer whatever its container.
    """
    program = lower({})
    choices = {layer: _choices(program, layer, packing, target) for layer in kernel_names(program)}
    steps = _factors(program)
    for layer, names in choices.items():
        fine = LARGEST_BIAS_STEP / steps[layer]
        names[:] = [n for n in names if INTEGER_BITS[n] == 8 or 2 ** (8 - INTEGER_BITS[n]) <= fine]
    # Integers that fit the narrowest container fit the others too, and sizes are the same.
    trial = lower({k: min(names, key=INTEGER_BITS.__getitem__) for k, names in choices.items()})
    elements = {k: math.prod(trial.tensors[name].shape) for k, name in kernel_names(trial).items()}
    layers = sorted(choices, key=elements.__getitem__, reverse=True)
    layers = [layer for layer in layers if len(choices[layer]) > 1]

    def size(chosen: Mapping[str, str]) -> int:
        return file_size(trial, chosen, strip)

    def improved(chosen: dict[str, str]) -> dict[str, str]:
        for layer in layers:
            sizes = {name: size({**chosen, layer: name}) for name in choices[layer]}
            chosen = {**chosen, layer: min(sizes, key=sizes.__getitem__)}
        return chosen

    # Layers share operator codes and, along the same axis, equal tables: they may pay together and not alone.
    kernels = kernel_names(trial)
    axis = {layer: trial.tensors[kernels[layer]].axis for layer in layers}
    axes = sorted(set(axis.values()))
    starts = []
    for ends in itertools.product((0, -1), repeat=len(axes)):
        end = dict(zip(axes, ends, strict=True))
        starts.append({layer: choices[layer][end[axis[layer]]] for layer in layers})
    best = min(map(improved, starts), key=size)
    chosen = {layer: name for layer, name in best.items() if name != "int8"}
    unfit = _beyond_xnnpack(lower(chosen)) if target == "litert" else []
    if unfit:
        raise ValueError(
            "LiteRT's default kernels take input scale times weight scale, or the scale of a summand, below "
            f"{_LARGEST_XNNPACK_FACTOR} times the output scale: calibrate on data that excites these "
            f"layers, or use target='tflm'. Received: layers {unfit}"
        )
    return chosen


def read_containers(blob: bytes, program: Program) -> dict[str, str]:
    """Containers by layer of a file that was written from this program, whatever was stripped."""
    from ai_edge_litert import schema_py_generated as schema

    model = runtimes.read_flatbuffer(blob)
    graph = model.Subgraphs(0)
    packed = {schema.TensorType.INT4: "int4", schema.TensorType.INT2: "int2"}
    indices = {name: index for index, name in enumerate(program.tensors)}
    containers = {}
    for layer, name in kernel_names(program).items():
        if indices[name] < graph.TensorsLength():
            tensor = graph.Tensors(indices[name])
            empty = model.Buffers(tensor.Buffer()).DataLength() == 0
            found = packed.get(tensor.Type(), "lut" if empty else "int8")
            # In the file of another model, anything may be at this index.
            if found != "int8" and any(_fits(program, layer, found, t) for t in TARGETS):
                containers[layer] = found
    return containers


def runtimes_for(blob: bytes, program: Program) -> tuple[str, ...]:
    """The installed runtimes that can run a file written from this program."""
    graph = runtimes.read_flatbuffer(blob).Subgraphs(0)
    quantizations = [graph.Tensors(i).Quantization() for i in range(graph.TensorsLength())]
    containers = read_containers(blob, program)
    fits = {
        target: all(_fits(program, layer, name, target) for layer, name in containers.items())
        for target in TARGETS
    }
    # LiteRT wants as many zero points as scales.
    fits["litert"] &= all(
        q is None or q.ZeroPointLength() == q.ScaleLength() for q in quantizations
    )
    names = [n for n in runtimes.available() if fits["tflm" if n == "tflm" else "litert"]]
    return tuple(n for n in names if n != "litert" or not _beyond_xnnpack(program))


def _beyond_xnnpack(program: Program) -> list[str]:
    """The layers whose rescaling factors LiteRT's default kernels refuse."""
    return [name for name, factor in _factors(program).items() if factor >= _LARGEST_XNNPACK_FACTOR]


def _factors(program: Program) -> dict[str, float]:
    """The largest step of what a layer sums up, in steps of its output, by layer."""
    kernels, factors = kernel_names(program).values(), {}
    for op in program.ops:
        scales = [
            np.array(program.tensors[name].scale, np.float32)
            for name in (*op.inputs[:2], op.outputs[0])
        ]
        if len(op.inputs) > 1 and op.inputs[1] in kernels:
            factors[op.name] = float(np.max(scales[0] * scales[1] / scales[2]))
        elif op.kind == "ADD":
            factors[op.name] = float(np.max(np.maximum(scales[0], scales[1]) / scales[2]))
    return factors


def _fits(program: Program, layer: str, container: str, target: str) -> bool:
    return container in _choices(program, layer, "auto", target)


def _choices(program: Program, layer: str, packing: str, target: str) -> list[str]:
    """What the target's kernel takes and `packing` allows, the simplest first."""
    weights = program.tensors[kernel_names(program)[layer]]
    dense = len(weights.shape) == 2
    one_scale = weights.scale is not None and bool(np.all(weights.scale == weights.scale[0]))
    one_scale &= not isinstance(weights.offset, tuple)
    unpacks = target == "litert" or one_scale or not dense
    bits = weights.bits + bool(weights.offset)  # zero between two codes, or a code above the middle
    choices = ["int8"]
    if target == "ethos-u":
        return choices
    if packing in ("int4", "auto") and bits <= 4 and unpacks:
        choices.append("int4")
    if packing == "auto" and target == "litert" and dense and bits == 2:
        choices.append("int2")
    if packing in ("lut", "auto") and target == "tflm" and weights.bits <= WIDEST_INDEX:
        choices.append("lut")
    return choices
