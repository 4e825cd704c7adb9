"""Models that were annotated and trained through tfmot, as models that can be exported.

tfmot trains batch norms unfolded and knows nothing of the tensors that the integer kernels need a grid
for. Kernels keep the codes they were trained with: folding a batch norm scales a channel, which its
scale takes up. Ranges are kept where the annotated tensor is one of the exported model's.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

import numpy as np

from keras_lowbit.calibration_data import collect
from keras_lowbit.callbacks import CallbackList
from keras_lowbit.checks import MAX_BITS, check_seed
from keras_lowbit.config import PTQConfig
from keras_lowbit.finetune.end_to_end import finetune
from keras_lowbit.graph import Graph, build
from keras_lowbit.layer_table import FIXED_RANGE
from keras_lowbit.preflight import check_before_work, check_names_and_inputs
from keras_lowbit.preprocess.preprocess import preprocess
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.quantizers.calibrate import calibrate
from keras_lowbit.quantizers.insert import Student, insert_quantizers
from keras_lowbit.quantizers.placement import insert_requantization, place
from keras_lowbit.quantizers.quantize_configs import unwrap
from keras_lowbit.quantizers.ranges import SMALLEST_RELATIVE_SCALE
from keras_lowbit.quantizers.tensor_quantizers import ActivationQuantizer, WeightQuantizer
from keras_lowbit.reader import read
from keras_lowbit.reconstruct.reconstructor import warn_if_useless


def from_annotated(model: Any, calib_ds: Any, seed: int = 0) -> QuantizedModel:
    """The quantized model of one that was annotated with ``LowBitQuantizeConfig`` and trained.

    Args:
      model: what tfmot's ``quantize_apply`` returned, calibrated and trained.
      calib_ds: samples, as of :func:`keras_lowbit.quantize`, for the ranges of tensors that were not
        annotated: the network input, the logits, sums ...
      seed: of the calibration.

    Returns:
      A model with the same kernel codes. ``notes`` tell where each range is from.

    Raises:
      ValueError: a layer whose weights were not annotated, ranges that are not calibrated, or a batch
        norm that cannot be folded without changing the grid of a kernel; the layer is named.

    Example:
      >>> model = tfmot.quantization.keras.quantize_apply(annotated)
      >>> keras_lowbit.calibrate(model, x)
      >>> model.fit(train_ds, epochs=3)
      >>> keras_lowbit.from_annotated(model, x).export("model.tflite")
    """
    check_seed(seed)
    plain, weights, outputs = unwrap(model)
    source = read(plain)
    check_names_and_inputs(source)
    floats = [node.name for node in source.weighted() if node.name not in weights]
    if floats:
        raise ValueError(
            "Every layer with a kernel must be annotated with keras_lowbit.LowBitQuantizeConfig and "
            f"weight_bits, since nothing can be exported as float. Received: {floats} without"
        )
    grids = {q.spec.grid for q in weights.values() if q.spec.bits < MAX_BITS}
    if len(grids) > 1:
        raise ValueError(
            "All kernels below 8 bits must be on the same kind of grid. Annotate them with one "
            f"`weight_grid`. Received: {sorted(grids)}"
        )
    # Scales in place of kernels go through step 1 as the kernels do.
    scaled = source.updated(*[
        node.replace(weights={**node.weights, "kernel": np.broadcast_to(
            weights[node.name].scale().numpy(), node.weights["kernel"].shape)})
        for node in source.weighted()
    ])  # fmt: skip
    ranges = _by_node(source, outputs)
    prepared, notes = preprocess(source, PTQConfig())
    groups = place(prepared, PTQConfig()).inputs
    config = PTQConfig(
        layer_bits={
            re.escape(name): (q.spec.bits, ranges[groups[name]].spec.bits if groups[name] in ranges else 8)
            for name, q in weights.items()
        },
        weight_grid=grids.pop() if grids else "narrow", optimize=(), tune=(),
    )  # fmt: skip
    data = collect(calib_ds, source, config.calibration_samples, config.batch_size)
    graph = insert_requantization(prepared, config)
    student, teacher = insert_quantizers(graph, place(graph, config)), build(graph)
    _take_kernel_ranges(student, preprocess(scaled, config)[0], weights)
    before = {
        name: source[name].inputs[0] for name in notes if name in source and source[name].inputs
    }
    folded = {name for norm, name in before.items() if notes[norm] == f"folded into {name}"}
    notes |= _take_ranges(student, ranges, folded)
    student.make_room_for_biases(calibrate(student.model, data, seed=seed))
    check_before_work(plain, teacher, student, data)
    inputs = dict(zip(source.inputs, data, strict=True))
    record = finetune(student, teacher, inputs, inputs, config, CallbackList([]), seed=seed)
    warn_if_useless([record])
    methods = {"weight": "trained"} | dict.fromkeys(
        ("activation", "low-bit activation"), "trained or mse"
    )
    return QuantizedModel(
        student, teacher, config, [record], notes, methods, len(data[0]), digests=student.digests()
    )


def _by_node(
    graph: Graph, outputs: dict[str, ActivationQuantizer]
) -> dict[str, ActivationQuantizer]:
    """Output quantizers by the node whose output they round: that of the layer's activation, if any."""
    found = {}
    for name, quantizer in outputs.items():
        behind = graph.only_consumer(name) if name in graph else None
        if (
            behind is not None
            and behind.kind in ("ReLU", *FIXED_RANGE)
            and behind.name not in outputs
        ):
            name = behind.name if behind.name.startswith(f"{name}_") else name
        found[name] = quantizer
    return found


def _take_kernel_ranges(
    student: Student, scaled: Graph, weights: dict[str, WeightQuantizer]
) -> None:
    for name, quantizer in student.weight_quantizers.items():
        if name not in weights:  # of a batch norm or rescaling that became a layer
            continue
        signed = scaled[name].weights["kernel"]
        scale = np.abs(signed)
        others = tuple(a for a in range(scale.ndim) if a not in quantizer.spec.axis)
        largest = scale.max(axis=others, keepdims=True)
        if not np.allclose(scale, largest, rtol=1e-5, atol=0):
            raise ValueError(
                "A batch norm before a layer would give each of its input channels a scale of its own, "
                "which no kernel has. Put batch norms behind convolutions and dense layers. "
                f"Received: the layer {name!r}"
            )
        zero_point, grid = weights[name].variables["zero_point"].numpy(), quantizer.spec.grid
        some, every = (test(signed < 0, axis=others, keepdims=True) for test in (np.any, np.all))
        # Where zero is on a level of "full" or "centred", there is one level more on one side.
        uneven = some & (zero_point % 1 == 0) & (grid in ("full", "centred"))
        if (uneven & (~every | (grid == "full"))).any():
            raise ValueError(
                "A batch norm with a negative gamma, or a rescaling by a negative factor, mirrors a kernel or "
                "some of it, and its grid has no mirror image of its lowest level. Annotate with another "
                f"`weight_grid`. Received: the layer {name!r}, on the grid {grid!r}"
            )
        # A batch norm with gamma 0 leaves a channel of zeros, which not every grid has.
        least = (largest.max() or 1.0) * SMALLEST_RELATIVE_SCALE
        quantizer.set_scale(np.where(largest > 0, largest, least))
        quantizer.variables["zero_point"].assign(np.where(uneven, -1 - zero_point, zero_point))


def _take_ranges(
    student: Student, ranges: dict[str, ActivationQuantizer], folded: Set[str]
) -> dict[str, str]:
    """Use the annotated ranges where they fit, and tell of every tensor where its range is from.

    Of layers that a batch norm was folded into, the annotated range is that of the tensor before it.
    """
    notes = {}
    groups, trained = student.placement.groups, {n: r for n, r in ranges.items() if n not in folded}
    for name, quantizer in student.activation_quantizers.items():
        if student.graph[name].kind in FIXED_RANGE:
            continue
        known = trained.get(name)
        if known is None:
            why = (
                "a batch norm follows what was annotated"
                if name in ranges
                else "it was not annotated"
            )
            notes[name] = f"range from calibration data, since {why}"
            continue
        zero_point = known.variables["zero_point"].numpy()
        sharing = [trained.get(head) for head in student.placement.heads if groups[head] == name]
        if any(other is None or _range(other) != _range(known) for other in sharing):
            notes[name] = "range from calibration data, since tensors of other ranges share it"
            continue
        if known.spec.bits != quantizer.spec.bits or (quantizer.spec.unsigned and zero_point):
            notes[name] = "range from calibration data, since the runtimes need another grid there"
            continue
        quantizer.set_scale(known.scale())
        quantizer.variables["zero_point"].assign(zero_point)
        notes[name] = "range as trained"
    return notes


def _range(quantizer: ActivationQuantizer) -> tuple[float, float, int]:
    scale, zero_point = quantizer.scale(), quantizer.variables["zero_point"]
    return float(scale), float(zero_point), quantizer.spec.bits
