"""What a ``.tflite`` file gives on LiteRT, and how wide its kernels are."""

from __future__ import annotations

import collections
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from benchmarks.rivals.answers import Quantized
from benchmarks.runtime_accuracy import input_codes
from keras_lowbit.export import runtimes

KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
OPERATOR_NAMES = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()
}
CONTAINERS = {
    number: name for name, number in vars(schema.TensorType).items() if name.isupper()
}  # fmt: skip


def on_litert(blob: bytes, settings: dict[str, Any]) -> Quantized:
    """A file with an int8 input and output, run by LiteRT with its default kernels."""

    def predict(x: Any) -> Any:
        [outputs] = runtimes.run(blob, "litert", [input_codes(blob, x)])
        return outputs

    found = {"file_bytes": len(blob), "kernel_containers": kernel_containers(blob)}
    return Quantized(predict, "LiteRT", settings | found)


def kernel_containers(blob: bytes) -> dict[str, int]:
    """How many kernels of a file are stored as what: {"INT8": 5, "INT4": 5}."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    found: collections.Counter[str] = collections.Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            if OPERATOR_NAMES[number] in KERNELS:
                found[CONTAINERS[graph.tensors[operator.inputs[1]].type]] += 1
    return dict(found)
