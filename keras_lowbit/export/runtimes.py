"""Run a flatbuffer sample by sample on the installed runtimes: TFLM, LiteRT's reference kernels, LiteRT's default."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_lowbit.export.model_file import read_model, unpack

RUNTIMES = ("tflm", "litert_ref", "litert")
_MODULES = {"tflm": "tflite_micro", "litert_ref": "ai_edge_litert", "litert": "ai_edge_litert"}
_FIRST_ARENA = 2**17  # bytes beyond the activations; TFLM crashes outright on an arena of a few KiB
_LARGEST_ARENA = 2**31 - 16
_STDERR = threading.RLock()  # the process has but one

Step = Callable[[Sequence[np.ndarray]], dict[int, np.ndarray]]


def available() -> tuple[str, ...]:
    """The runtimes installed here."""
    return tuple(name for name in RUNTIMES if importlib.util.find_spec(_MODULES[name]) is not None)


def run(blob: bytes, runtime: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs [N, ...] in order.

    Raises: ValueError for an unknown or missing runtime, inputs that do not fit, or a model it refuses.
    """
    model = _read_model(blob)
    results = _run(blob, model, runtime, inputs, model.outputs)
    return [results[index] for index in model.outputs]


def run_all_tensors(
    blob: bytes, runtime: str, inputs: Sequence[np.ndarray], names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run int8 inputs [N, ...] through a model of batch 1; every activation [N, ...] by name, inputs included.

    A tensor whose name was stripped gets the one at its index in `names`, else its index.

    For "litert" those are the inputs and outputs only: asked to preserve the rest, LiteRT silently drops XNNPACK.

    Raises: ValueError as `run`.
    """
    model = _read_model(blob)
    wanted = (
        tuple(dict.fromkeys((*model.inputs, *model.outputs)))
        if runtime == "litert"
        else model.activations
    )
    results = _run(blob, model, runtime, inputs, wanted)
    given = dict(enumerate(names))
    return {model.names[index] or given.get(index, str(index)): results[index] for index in wanted}


@dataclasses.dataclass(frozen=True)
class _Model:
    """What the runtimes do not tell: names, shapes and which tensors are computed."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    activations: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_flatbuffer(blob: bytes) -> Any:
    """The schema's view of a model.

    Raises: ValueError if the bytes are something else, or damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    unpack(read_model(blob)[0])
    return schema.Model.GetRootAs(blob, 0)


def _read_model(blob: bytes) -> _Model:
    from ai_edge_litert import schema_py_generated as schema

    model = read_flatbuffer(blob)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    decoded = {  # weights, though computed
        int(operator.Outputs(0))
        for operator in operators
        if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        == schema.BuiltinOperator.CUSTOM
    }
    return _Model(
        names=tuple((tensor.Name() or b"").decode() for tensor in tensors),
        shapes=tuple(tuple(int(size) for size in tensor.ShapeAsNumpy()) for tensor in tensors),
        activations=tuple(
            index
            for index, tensor in enumerate(tensors)
            if model.Buffers(tensor.Buffer()).DataLength() == 0 and index not in decoded
        ),
        inputs=tuple(int(index) for index in graph.InputsAsNumpy()),
        outputs=tuple(int(index) for index in graph.OutputsAsNumpy()),
    )


def _check_inputs(model: _Model, inputs: Sequence[np.ndarray]) -> int:
    expected = [model.shapes[index][1:] for index in model.inputs]
    fits = len(inputs) == len(expected) and all(
        value.dtype == np.int8 and value.shape[1:] == shape
        for value, shape in zip(inputs, expected, strict=True)
    )
    if not fits or len({len(value) for value in inputs}) != 1:
        raise ValueError(
            f"`inputs` must be a list of int8 arrays of shapes [N, *shape], with one N, for the shapes that the file takes, "
            f"{expected}; if these are not your model's, it is the file of another one. "
            f"Received: {[(value.dtype.name, value.shape) for value in inputs]}."
        )
    return len(inputs[0])


def latency(blob: bytes, runtime: str, inputs: Sequence[np.ndarray], invocations: int) -> float:
    """Seconds of one inference on this host, the median of `invocations` after one that is not counted.

    Raises: ValueError as `run`, or if there is nothing to measure.
    """
    if invocations < 1:
        raise ValueError(f"`invocations` must be at least 1. Received: {invocations}.")
    model = _read_model(blob)
    _check_inputs(model, inputs)
    sample = [value[:1] for value in inputs]
    seconds = []
    with _started(blob, model, runtime, model.outputs) as step:
        step(sample)
        for _ in range(invocations):
            start = time.perf_counter()
            step(sample)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _run(
    blob: bytes, model: _Model, runtime: str, inputs: Sequence[np.ndarray], wanted: Sequence[int]
) -> dict[int, np.ndarray]:
    batch = _check_inputs(model, inputs)
    results = {index: np.empty((batch, *model.shapes[index][1:]), np.int8) for index in wanted}
    with _started(blob, model, runtime, wanted) as step:
        for sample in range(batch):
            values = step([value[sample : sample + 1] for value in inputs])
            for index in wanted:
                results[index][sample] = values[index][0]
    return results


@contextlib.contextmanager
def _started(blob: bytes, model: _Model, runtime: str, wanted: Sequence[int]) -> Iterator[Step]:
    """The interpreter as a function of one sample, quiet; what it refuses is a ValueError."""
    if runtime not in RUNTIMES:
        raise ValueError(f"`runtime` must be one of {RUNTIMES}. Received: {runtime!r}.")
    if runtime not in available():
        raise ValueError(
            f"The runtime '{runtime}' needs the package '{_MODULES[runtime]}'; install it or choose one "
            f"of {available()}. Received: {runtime!r}."
        )
    with _captured_stderr() as messages:
        try:
            start = _start_tflm if runtime == "tflm" else _start_litert
            yield start(blob, model, runtime, wanted, messages)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"The runtime '{runtime}' refuses the model: {error}. Received: {messages()!r}."
            ) from error


def _start_tflm(
    blob: bytes, model: _Model, runtime: str, wanted: Sequence[int], messages: Callable[[], str]
) -> Step:
    from tflite_micro import runtime as tflm

    arena = _FIRST_ARENA + 2 * sum(math.prod(model.shapes[index]) for index in model.activations)
    preserve = not set(wanted) <= set(model.outputs)
    config = (
        tflm.InterpreterConfig.kPreserveAllTensors
        if preserve
        else tflm.InterpreterConfig.kAllocationRecording
    )
    interpreter = None
    while interpreter is None:
        seen = len(messages())
        try:
            interpreter = tflm.Interpreter.from_bytes(
                blob, arena_size=arena, intrepreter_config=config
            )
        except RuntimeError:
            # "missing: <bytes>" is how the allocators report an arena that is too small.
            if "missing: " not in messages()[seen:] or arena >= _LARGEST_ARENA:
                raise
            arena = min(4 * arena, _LARGEST_ARENA)

    def step(sample: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        for position, value in enumerate(sample):
            interpreter.set_input(np.ascontiguousarray(value), position)
        interpreter.invoke()
        if preserve:
            return {index: interpreter.GetTensor(index, 0)["tensor_data"] for index in wanted}
        return {
            index: interpreter.get_output(position) for position, index in enumerate(model.outputs)
        }

    return step


def _start_litert(
    blob: bytes, model: _Model, runtime: str, wanted: Sequence[int], messages: Callable[[], str]
) -> Step:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if runtime == "litert_ref" else OpResolverType.AUTO
    interpreter: Any = Interpreter(
        model_content=blob,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=runtime == "litert_ref",
    )
    interpreter.allocate_tensors()

    def step(sample: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        for index, value in zip(model.inputs, sample, strict=True):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return {index: interpreter.get_tensor(index) for index in wanted}

    return step


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Divert the C-level stderr, where the runtimes write; yields a function that returns the text so far."""
    sys.stderr.flush()
    with _STDERR, tempfile.TemporaryFile() as capture:
        saved = os.dup(2)
        os.dup2(capture.fileno(), 2)

        def text() -> str:
            size = os.fstat(capture.fileno()).st_size
            return os.pread(capture.fileno(), size, 0).decode(errors="replace").strip()

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
