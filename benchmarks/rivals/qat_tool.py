"""Quantization-aware training of tfmot, with its experimental scheme of any number of bits."""

from __future__ import annotations

from typing import Any

import tf_keras

from benchmarks.rivals.answers import Quantized, Request
from keras_lowbit._keras import tfmot_imported_quietly

with tfmot_imported_quietly():
    from tensorflow_model_optimization.python.core.quantization.keras import quantize as tfmot
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (
        default_n_bit_quantize_registry as registry,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (
        default_n_bit_quantize_scheme as schemes,
    )

PACKAGES = ("tensorflow-model-optimization", "tensorflow", "tf_keras", "numpy")
BATCH_SIZE = 32
LOGITS_BITS = 8


def quantize(model: Any, request: Request) -> Quantized:
    """Trained on those calibration samples whose class is known, and on nothing else.

    Options: ``epochs`` and the ``learning_rate`` of Adam.
    """
    known = request.labels >= 0
    if not known.any():
        raise ValueError(f"No calibration sample has a label. Received: {len(known)} samples")
    student = _with_quantizers(model, request.weight_bits, request.activation_bits)
    student.compile(
        tf_keras.optimizers.Adam(request.options["learning_rate"]),
        tf_keras.losses.SparseCategoricalCrossentropy(),
    )
    student.fit(
        request.calibration[known], request.labels[known], batch_size=BATCH_SIZE,
        epochs=request.options["epochs"], verbose=0,
    )  # fmt: skip
    settings = {**request.options, "batch_size": BATCH_SIZE, "labelled_samples": int(known.sum())}
    return Quantized(
        lambda x: student.predict(x, batch_size=256, verbose=0), "simulation", settings
    )


def _with_quantizers(model: Any, weight_bits: int, activation_bits: int) -> Any:
    """The scheme of tfmot on every layer; the logits keep eight bits, as with the other tools."""
    last = [layer for layer in model.layers if isinstance(layer, tf_keras.layers.Dense)][-1]
    config = registry.DefaultNBitQuantizeConfig(
        ["kernel"], ["activation"], False,
        num_bits_weight=weight_bits, num_bits_activation=LOGITS_BITS,
    )  # fmt: skip

    def annotated(layer: Any) -> Any:
        return tfmot.quantize_annotate_layer(layer, config if layer is last else None)

    scheme = schemes.DefaultNBitQuantizeScheme(
        num_bits_weight=weight_bits, num_bits_activation=activation_bits
    )
    with tf_keras.utils.custom_object_scope({type(config).__name__: type(config)}):
        return tfmot.quantize_apply(
            tf_keras.models.clone_model(model, clone_function=annotated), scheme
        )
