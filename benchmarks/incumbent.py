"""The incumbent: TFLiteConverter, to full-integer int8 or to floats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def convert_int8(
    model: Any, samples: np.ndarray, path: Path, supported_type: tf.DType | None = None
) -> None:
    """Write ``model`` as an int8 ``.tflite`` with int8 input and output.

    Args:
      model: tf_keras model with one input.
      samples: representative data, float32 (samples, ...).
      path: where to write.
      supported_type: asked for instead of int8, which the converter may refuse.
    """

    def representative() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample[None]]

    converter = _converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    if supported_type is not None:
        converter.target_spec.supported_types = [supported_type]
    path.write_bytes(converter.convert())


def convert_float(model: Any) -> bytes:
    """``model``, a tf_keras model with one input, as a float32 ``.tflite`` of batch 1."""
    return _converter(model).convert()


def _converter(model: Any) -> Any:
    shape = (1, *model.inputs[0].shape[1:])
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.float32, name="input")
    )
    return tf.lite.TFLiteConverter.from_concrete_functions([function], model)
