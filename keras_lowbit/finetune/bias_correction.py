"""Analytic bias correction: give every channel the mean it has in the float network.

Rounding a kernel shifts the mean of a layer's output, the fewer bits the more. The shift is measured
on the calibration samples and taken off the bias (Nagel et al. 2019, "Data-free quantization through
weight equalization and bias correction", section 4.2, empirically), layer by layer from the input on,
so that a layer also makes up for the shifts before it. It takes two passes through the network.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.quantizers.insert import Student
from keras_lowbit.reconstruct.activations import ActivationCache, UnitFunction
from keras_lowbit.reconstruct.units import Unit, find_units


def correct_biases(student: Student, teacher: Any, inputs: dict[str, np.ndarray]) -> None:
    """Correct the biases of the student in place.

    Args:
      student: calibrated, and reconstructed if it is to be.
      teacher: the float model of the same graph.
      inputs: calibration samples, float32 (samples, ...), by input node.

    Example:
      >>> correct_biases(student, teacher, {"image": x})
    """
    units = find_units(student.graph, student.placement, "layer")
    quantized, floats = ActivationCache(inputs, units), ActivationCache(inputs, units)
    for index, unit in enumerate(units):
        for name in unit.layers:
            if name in student.biases:
                # Before a ReLU: behind it, what is cut off would count too.
                layer = dataclasses.replace(
                    unit, name=name, inner=(), outputs=(name,), layers=(name,)
                )
                is_mean = _mean(UnitFunction(layer, student.model, student), quantized, unit)
                wanted = _mean(UnitFunction(layer, teacher, None), floats, unit)
                student.biases[name].assign_add(tf.constant(wanted - is_mean, tf.float32))
        quantized.advance(
            index, UnitFunction(unit, student.model, student).map(quantized.inputs_of(unit))
        )
        floats.advance(index, UnitFunction(unit, teacher, None).map(floats.inputs_of(unit)))


def _mean(function: UnitFunction, cache: ActivationCache, unit: Unit) -> np.ndarray:
    """Mean of the one output over samples and places, float64 (channels,)."""
    total, count = np.zeros(()), 0
    for (output,) in function.batches(cache.inputs_of(unit)):
        values = output.numpy().astype(np.float64).reshape(-1, output.shape[-1])
        total, count = total + values.sum(axis=0), count + len(values)
    return total / count
