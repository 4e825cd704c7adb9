"""What can be known to go wrong before the long work starts, is refused there."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from keras_lowbit.export.lower import lower
from keras_lowbit.export.op_rules import check_program
from keras_lowbit.graph import Graph
from keras_lowbit.quantizers.insert import Student

SAMPLES_COMPARED = 8
# What the file calls the tensors of a layer beside its output.
PARTS = (
    "2d", "amounts", "bias", "capped", "causal", "causal/amounts", "clamped", "kernel", "output", "pooled",
    "saturated", "zero",
)  # fmt: skip


def check_names_and_inputs(graph: Graph) -> None:
    """Every input leads somewhere, and names are free for the layers and constants they will be.

    Raises:
      ValueError: that is not so.
    """
    idle = [n for n in graph.inputs if not graph.consumers(n) and n not in graph.outputs]
    if idle:
        raise ValueError(
            f"No output depends on some inputs: make the model without them. Received: inputs={idle}"
        )
    taken = [
        n for n in graph.inputs if n.startswith("quantized_") and n[len("quantized_") :] in graph
    ]
    if taken:
        raise ValueError(
            "The layer 'a' gets the name 'quantized_a', so no input may have it beside it: rename one. "
            f"Received: inputs={taken}"
        )
    owned = {f"{node.name}/{part}" for node in graph.nodes for part in PARTS}
    clashes = [node.name for node in graph.nodes if node.name in owned]
    if clashes:
        raise ValueError(
            f"A layer 'a' has tensors in the file named 'a/' and one of {PARTS}, so no layer may have such a "
            f"name beside it: rename one. Received: layers={clashes}"
        )


def check_before_work(model: Any, teacher: Any, student: Student, data: list[np.ndarray]) -> None:
    """Before the long work: the teacher is the caller's model, and the student can be exported.

    Raises:
      ValueError: one of them is not so.
    """
    graph = student.graph
    if student.placement.too_wide():
        logging.warning("keras_lowbit: 16-bit activations can be simulated, not exported.")
    else:
        check_program(lower(graph, student.placement, student.values()))
    few = [x[:SAMPLES_COMPARED] for x in data]
    types = [tf.as_dtype(tensor.dtype) for tensor in model.inputs]
    own = [x.astype(kind.as_numpy_dtype) for x, kind in zip(few, types, strict=True)]
    for x, cast, kind in zip(few, own, types, strict=True):
        if kind.is_integer and (x != cast).any():
            return  # the model takes integers, and these samples are none
    answers = _outputs(teacher, few)
    if graph.named_outputs:  # tf_keras sorts them, what was read may not be sorted
        by_name = dict(zip(sorted(graph.output_names), answers, strict=True))
        answers = [by_name[name] for name in graph.output_names]
    for expected, received in zip(_outputs(model, own), answers, strict=True):
        largest, difference = np.abs(expected).max(), np.inf
        if expected.shape == received.shape:
            difference = np.abs(received - expected).max()
        if not difference <= 1e-2 * largest + 1e-4:  # half precision models differ by 1e-3
            raise ValueError(
                "The model computes something else than its layers say, e.g. in a layer or activation "
                "of your own with a name of Keras. Use Keras' own layers. Received: outputs up to "
                f"{largest:.4g} that differ by {difference:.4g} from the model read"
            )


def _outputs(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    by_tensor = {id(tensor): x for tensor, x in zip(model.inputs, inputs, strict=True)}
    structure = model.input if len(inputs) > 1 else model.inputs[0]  # e.g. a dict
    outputs = model(tf.nest.map_structure(lambda t: by_tensor[id(t)], structure), training=False)
    ends = model.output if len(model.outputs) > 1 else model.outputs  # in the order of `nest`
    found = zip(map(id, tf.nest.flatten(ends)), tf.nest.flatten(outputs), strict=True)
    by_end = {end: np.asarray(output, np.float32) for end, output in found}
    return [by_end[id(end)] for end in model.outputs]
