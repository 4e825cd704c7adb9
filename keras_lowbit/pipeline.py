"""The paper's Figure 2 on one page: preprocess, insert quantizers, reconstruct, tune."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from keras_lowbit._keras import load_float_model
from keras_lowbit.callbacks import Callback, CallbackList, ProgressBar, StopOnNaN, as_callbacks
from keras_lowbit.checkpoint import Checkpoint, digest
from keras_lowbit.checks import check_folder, check_seed
from keras_lowbit.config import PTQConfig
from keras_lowbit.data_free import SOURCE, samples_for
from keras_lowbit.export import runtimes
from keras_lowbit.finetune.augmentation import augmentation_for
from keras_lowbit.finetune.bias_correction import correct_biases
from keras_lowbit.finetune.end_to_end import finetune, hold_out
from keras_lowbit.graph import Graph, build
from keras_lowbit.preflight import check_before_work, check_names_and_inputs
from keras_lowbit.preprocess.preprocess import preprocess
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.quantizers.calibrate import calibrate
from keras_lowbit.quantizers.insert import LARGEST_BIAS_AT_LAST, Student, insert_quantizers
from keras_lowbit.quantizers.placement import insert_requantization, place
from keras_lowbit.quantizers.ranges import first_method
from keras_lowbit.reader import read
from keras_lowbit.recipes import resolve
from keras_lowbit.reconstruct.output_ranges import match_output
from keras_lowbit.reconstruct.reconstructor import Reconstructor, owners, warn_if_useless
from keras_lowbit.reconstruct.variables import ClosedForm
from keras_lowbit.reconstruct.weight_ranges import match_layer_outputs
from keras_lowbit.search.bit_search import BitSearch
from keras_lowbit.search.budget import Budget
from keras_lowbit.search.choice import CANDIDATE_BITS
from keras_lowbit.search.within_budget import quantize_within
from keras_lowbit.version import __version__


def quantize(
    model: Any,
    calib_ds: Any = None,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    *,
    recipe: str = "default",
    config: PTQConfig | None = None,
    budget: Budget | None = None,
    candidate_bits: Iterable[int] | None = None,
    callbacks: Iterable[Callback] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> QuantizedModel:
    """Quantize a trained float model to 2..8 bits with a few hundred unlabelled samples.

    Args:
      model: Functional or Sequential model of tf_keras or Keras 3, or the path of one (``.keras``,
        ``.h5``, SavedModel). It is not modified.
      calib_ds: calibration samples: ``tf.data.Dataset`` of ``x``, ``(x, y)`` or dicts, NumPy array,
        list of arrays, generator or Keras ``Sequence``. Labels are ignored. None, where there are no
        data at all, makes samples up from the statistics of the model's batch norms, which is
        worse; they are marked as synthetic in all that is written.
      weight_bits: 2..8; by default 4, half the flash wherever weights are packed or compressed.
      activation_bits: 2..8; by default 8, since fewer save nothing on stock int8 kernels.
      recipe: "fast", up to a minute for networks of some 100,000 weights; "default", half a minute to two; "best", up
        to four. See :data:`keras_lowbit.RECIPES`.
      config: everything else; excludes ``weight_bits``, ``activation_bits`` and ``recipe`` here.
      budget: choose the bits of every kernel within these limits, the fewest where the network suffers
        least; kernels that ``layer_bits`` or ``first_last_bits`` name keep theirs, and ``weight_bits`` of the
        config counts for nothing.
      candidate_bits: with a budget, the widths to choose from; by default (2, 3, 4, 6, 8).
      callbacks: watch the reconstruction; see :mod:`keras_lowbit.callbacks`.
      checkpoint_dir: a folder to resume from after a kill, with the same result on as many threads.
      seed: same seed, same bits, on one machine and as many threads.
      verbose: 0 silent, 1 progress bars, 2 one line per unit.

    Returns:
      The quantized model: a tf_keras model that simulates it, and everything to export it.

    Raises:
      ValueError: a model or data that cannot be quantized; the message names the layer or input.
      BudgetError: a ValueError, a budget that cannot be kept; the message says the least that can be
        reached.

    Example:
      >>> qmodel = keras_lowbit.quantize(model, x_train[:512])
      >>> qmodel.export("model.tflite")
    """
    check_seed(seed)
    check_folder("checkpoint_dir", checkpoint_dir)
    config = resolve(config, weight_bits, activation_bits, recipe)
    _check_budget(budget, candidate_bits, weight_bits)
    watching = CallbackList([
        *([ProgressBar(verbose)] if verbose else []), StopOnNaN(), *as_callbacks(callbacks),
    ])  # fmt: skip
    model = load_float_model(model)
    source = read(model)
    check_names_and_inputs(source)
    augmentation_for(config.augment, source)  # refused now, not after the reconstruction
    owners(config)  # likewise
    data = samples_for(calib_ds, source, config, seed, checkpoint_dir)
    inputs = dict(zip(source.inputs, data, strict=True))

    def with_config(config: PTQConfig, attempt: int = 0) -> QuantizedModel:
        again = f"attempt_{attempt}" if attempt else ""
        folder = None if checkpoint_dir is None else Path(checkpoint_dir, again)
        checkpoint = _checkpoint(folder, config, source, data, seed)
        qmodel = _four_steps(model, source, inputs, config, watching, seed, checkpoint)
        return dataclasses.replace(qmodel, calibration_source=SOURCE if calib_ds is None else "")

    if budget is None:
        return with_config(config)
    widths = CANDIDATE_BITS if candidate_bits is None else candidate_bits
    search = BitSearch(source, inputs, config, widths, verbose)
    return quantize_within(budget, search, with_config)


def _four_steps(
    model: Any,
    source: Graph,
    inputs: dict[str, np.ndarray],
    config: PTQConfig,
    watching: CallbackList,
    seed: int,
    checkpoint: Checkpoint | None,
) -> QuantizedModel:
    data = list(inputs.values())
    reconstructor = Reconstructor(config, watching, seed, checkpoint)
    # Step 1: same function, friendlier weights.
    prepared, notes = preprocess(source, config)
    # Step 2: structure, then ranges.
    graph = insert_requantization(prepared, config)
    teacher = build(graph)
    student = insert_quantizers(graph, place(graph, config))
    weights, activations = map(first_method, (config.weight_range, config.activation_range))
    dead = calibrate(student.model, data, weights, activations, seed)
    if config.weight_range != "minmax":
        match_layer_outputs(student, teacher, inputs, only_misled=config.weight_range == "mse")
    if config.activation_range == "output":
        match_output(student, inputs)
    student.make_room_for_biases(dead)
    calibrated = student.values()
    check_before_work(model, teacher, student, data)
    # Step 3: unit by unit.
    watching.set_model(student.model)
    inputs, held_out = hold_out(inputs, config, seed)
    records = reconstructor.run(student, teacher, inputs)
    # Step 4: end to end.
    saved = checkpoint.load("end_to_end") if checkpoint else None
    if saved is None:
        if config.correct_bias:
            correct_biases(student, teacher, inputs)
        unit = len(records)
        records.append(finetune(student, teacher, inputs, held_out, config, watching, unit, seed))
        if checkpoint:
            checkpoint.save("end_to_end", student.values(), records[-1])
    else:
        student.assign(saved[0])
        records.append(saved[1])
    raised = student.make_room_for_biases(largest=LARGEST_BIAS_AT_LAST)
    notes |= dict.fromkeys(raised, "scales raised in the end, or biases would overflow")
    warn_if_useless(records)
    methods = _methods(config, tuned=not records[-1].get("undone"))
    methods |= _methods_of_what_rested(student, calibrated, config, methods)
    return QuantizedModel(
        student, teacher, config, records, notes, methods, len(data[0]), digests=student.digests()
    )


def _check_budget(
    budget: Budget | None, candidate_bits: Iterable[int] | None, weight_bits: int | None
) -> None:
    if budget is None and candidate_bits is not None:
        raise ValueError(
            "`candidate_bits` are what a budget is spent on: give `budget` too. "
            f"Received: candidate_bits={candidate_bits!r}"
        )
    if budget is not None and not isinstance(budget, Budget):
        raise ValueError(f"`budget` must be a Budget. Received: {type(budget).__name__}")
    if budget is not None and budget.arena is not None and "tflm" not in runtimes.available():
        raise ValueError(
            "The arena is measured with TFLM, which is not installed: install the extra 'micro', or leave "
            f"`arena` out. Received: arena={budget.arena}"
        )
    if budget is not None and weight_bits is not None:
        raise ValueError(
            "A budget chooses the weight bits: leave `weight_bits` out, and limit the choice with "
            f"`candidate_bits`. Received: weight_bits={weight_bits!r}"
        )


def _methods(config: PTQConfig, tuned: bool) -> dict[str, str]:
    """How the values of tensors are found, e.g. "mse+adaround"; see :class:`QuantizedModel`."""
    trained = {"weight": "", "activation": ""}
    moved = {"weight": {"kernel", "weight_scale"}, "activation": {"activation_range"}}
    for target, owner in owners(config).items():
        if owner and (config.steps or isinstance(owner, ClosedForm)):
            trained[target] += f"+{owner.name}"
        if tuned and config.tune_steps and not moved[target].isdisjoint(config.tune):
            trained[target] += "+end to end"
    return {
        "weight": config.weight_range + trained["weight"],
        "activation": first_method(config.activation_range) + trained["activation"],
        "low-bit activation": config.activation_range + trained["activation"],
    }


def _methods_of_what_rested(
    student: Student, calibrated: dict[str, np.ndarray], config: PTQConfig, methods: dict[str, str]
) -> dict[str, str]:
    """The methods of kernels and outputs that training moves in general, and did not move here."""
    changed = {name for name, x in student.values().items() if (x != calibrated[name]).any()}
    rested = {}
    for name in student.placement.weights:
        if changed.isdisjoint((f"{name}/kernel", f"{name}/kernel_scale")):
            rested[f"{name}/kernel"] = ("weight", config.weight_range)
    for name, spec in student.placement.activations.items():
        if changed.isdisjoint((f"{name}/output_scale", f"{name}/output_zero_point")):
            few = spec.bits < 8
            found = config.activation_range if few else first_method(config.activation_range)
            rested[f"{name}/output"] = ("low-bit activation" if few else "activation", found)
    return {name: own for name, (kind, own) in rested.items() if own != methods[kind]}


def _checkpoint(
    directory: str | os.PathLike[str] | None,
    config: PTQConfig,
    source: Graph,
    data: list[Any],
    seed: int,
) -> Checkpoint | None:
    if directory is None:
        return None
    nodes = [(n.name, n.kind, n.inputs, n.shape, str(n.config)) for n in source.nodes]
    structure = str((nodes, source.inputs, source.outputs))
    weights = [w for node in source.nodes for _, w in sorted(node.weights.items())]
    logging.info("keras_lowbit: checkpoints in %s", directory)
    fingerprint = {
        **{f"config.{name}": str(value) for name, value in json.loads(config.to_json()).items()},
        "layers": digest([np.frombuffer(structure.encode(), np.uint8)]),
        "weights": digest(weights), "calibration data": digest(data), "seed": str(seed),
        "keras_lowbit": __version__, "values": "with zero points of kernels",
    }  # fmt: skip
    return Checkpoint(directory, fingerprint)
