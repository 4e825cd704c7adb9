"""The tfmot ``QuantizeConfig`` of this package, one fresh object per layer, and the wrapping.

It can be used directly as well::

    layer = tfmot.quantization.keras.quantize_annotate_layer(
        keras.layers.Conv2D(8, 3), keras_lowbit.LowBitQuantizeConfig(weight_bits=4))
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit._keras import keras, tfmot_imported_quietly
from keras_lowbit.checks import plain_number
from keras_lowbit.config import TensorSpec
from keras_lowbit.graph import role_of
from keras_lowbit.layer_table import LAYERS, has_kernel
from keras_lowbit.quantizers.tensor_quantizers import (
    ActivationQuantizer,
    AverageQuantizer,
    WeightQuantizer,
)

with tfmot_imported_quietly():
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
        QuantizeLayer,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
        QuantizeWrapperV2,
    )
    from tensorflow_model_optimization.quantization.keras import QuantizeConfig


OutputQuantizer = ActivationQuantizer | AverageQuantizer


@keras.utils.register_keras_serializable(package="keras_lowbit")
class LowBitQuantizeConfig(QuantizeConfig):
    """Kernel symmetric per channel, output asymmetric per tensor, biases float.

    Args:
      weight_bits: 2..8, or None for a layer whose kernel stays float (or that has none).
      activation_bits: 2..8, or None for an output that is not quantized here.
      unsigned: the output is never negative.
      weight_grid: "narrow", "full", "midrise" or "centred".

    Raises:
      ValueError: bits out of range, or a layer class with no kernel known.
    """

    def __init__(
        self,
        weight_bits: int | None = 4,
        activation_bits: int | None = 8,
        unsigned: bool = False,
        weight_grid: str = "narrow",
    ) -> None:
        self.weight_bits = plain_number(weight_bits)
        self.weight_grid = weight_grid
        self.weight_quantizer: WeightQuantizer | None = None
        self.output_quantizer: OutputQuantizer | None = None
        if weight_bits is not None:
            WeightQuantizer(weight_bits, (), weight_grid)  # checks them; the axis comes later
        if activation_bits is not None:
            self.output_quantizer = ActivationQuantizer(activation_bits, unsigned)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, WeightQuantizer]]:
        if self.weight_bits is None:
            return []
        info = LAYERS.get(type(layer).__name__)
        if info is None or info.kernel is None:
            if self.weight_bits is not None and layer.trainable_weights:
                raise ValueError(
                    f"The kernel of {type(layer).__name__} layers is not known. Expected one of "
                    f"{[k for k, v in LAYERS.items() if v.kernel]}, or weight_bits=None. "
                    f"Received: the layer {layer.name!r}"
                )
            return []
        if self.weight_quantizer is None:
            self.weight_quantizer = WeightQuantizer(
                self.weight_bits, info.kernel_axis, self.weight_grid
            )
        return [(getattr(layer, info.kernel), self.weight_quantizer)]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        if quantize_weights:
            setattr(layer, str(LAYERS[type(layer).__name__].kernel), quantize_weights[0])

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        return None

    def get_output_quantizers(self, layer: Any) -> list[OutputQuantizer]:
        return [self.output_quantizer] if self.output_quantizer else []

    def get_config(self) -> dict[str, Any]:
        spec = self.output_quantizer.spec if self.output_quantizer else None
        return {
            "weight_bits": self.weight_bits,
            "activation_bits": spec.bits if spec else None,
            "unsigned": bool(spec and spec.unsigned),
            "weight_grid": self.weight_grid,
        }


class _Wrapper(QuantizeWrapperV2):
    """tfmot's, whose kernel and bias are trained even where the layer is not ``trainable``."""

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        return super().trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        weights = super().non_trainable_weights
        if not self.trainable:
            weights = self._dedup_weights(super().trainable_weights + weights)
        return weights


def wrap_layer(
    layer: Any, weights: TensorSpec | None, output_quantizer: OutputQuantizer | None
) -> tuple[Any, LowBitQuantizeConfig]:
    """``layer`` in a tfmot wrapper of the same name, and the wrapper's configuration.

    The output goes through ``output_quantizer``, an object that other wrappers may share.
    """
    config = LowBitQuantizeConfig(None, None)
    if weights:
        config = LowBitQuantizeConfig(weights.bits, None, weight_grid=weights.grid)
    config.output_quantizer = output_quantizer
    wrapper = _Wrapper(layer, config, name_prefix="quantized_", dtype="float32")
    return wrapper, config


def quantize_layer(name: str, quantizer: ActivationQuantizer) -> Any:
    """A layer that does nothing but quantize its input: what stands behind a network input."""
    return QuantizeLayer(quantizer, name=f"quantized_{name}", dtype="float32")


def input_ranges_of_tfmot(model: Any) -> Any | None:
    """The part of a model up to the quantizers that ``quantize_apply`` put behind its inputs.

    They are tfmot's own, at 8 bits, and learn their range whenever they run in training mode.
    None if there are none.
    """
    outputs = [
        layer.output
        for layer in model.layers
        if isinstance(layer, QuantizeLayer) and not isinstance(layer.quantizer, ActivationQuantizer)
    ]
    return keras.Model(model.inputs, outputs) if outputs else None


def unwrap(
    model: Any,
) -> tuple[Any, dict[str, WeightQuantizer], dict[str, ActivationQuantizer]]:
    """What is inside the wrappers of a model that ``quantize_apply`` made of annotated layers.

    Returns:
      The model of plain layers, its kernels rounded to their grids; and by the name of a layer the
      quantizer of its kernel and of its output, where it was annotated with a
      :class:`LowBitQuantizeConfig`.

    Raises:
      ValueError: no wrapped layer, a quantizer without range, kernels under another configuration, or
        statistics of a Normalization that it does not use.
    """
    wrappers = [layer for layer in model.layers if isinstance(layer, QuantizeWrapperV2)]
    if not wrappers:
        raise ValueError(
            "A model that tfmot's quantize_apply returned is expected; pass other models to "
            f"keras_lowbit.quantize. Received: {type(model).__name__} without wrapped layers"
        )
    weights: dict[str, WeightQuantizer] = {}
    outputs: dict[str, ActivationQuantizer] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    for wrapper in wrappers:
        name, config = wrapper.layer.name, wrapper.quantize_config
        values[name] = {role_of(v.name): v.numpy() for v in wrapper.layer.weights}
        if not isinstance(config, LowBitQuantizeConfig) and (
            _layer_has_kernel(wrapper.layer) or wrapper._quantize_activations
        ):
            raise ValueError(
                f"The layer {name!r} is quantized by tfmot's own configuration. Annotate every layer "
                "with weights or an activation with keras_lowbit.LowBitQuantizeConfig. "
                f"Received: {type(config).__name__}"
            )
        for kernel, quantizer, variables in wrapper._weight_vars:
            weights[name] = quantizer
            values[name]["kernel"] = quantizer(kernel, False, variables).numpy()
        if isinstance(getattr(config, "output_quantizer", None), ActivationQuantizer):
            outputs[name] = config.output_quantizer
        waiting = [q for q in (weights.get(name), outputs.get(name)) if q is not None]
        if any(np.isnan(q.scale()).any() for q in waiting):
            raise ValueError(
                f"A quantizer has no range yet: call keras_lowbit.calibrate(model, x) before the "
                f"training. Received: the layer {name!r}"
            )
    plain = keras.models.clone_model(model, clone_function=_plain_layer)
    for layer in plain.layers:
        for variable in layer.weights if layer.name in values else ():
            variable.assign(values[layer.name][role_of(variable.name)])
    for layer in model.layers:
        _check_statistics_in_use(getattr(layer, "layer", layer))
        if not isinstance(layer, (QuantizeWrapperV2, QuantizeLayer)):  # a batch norm, say
            plain.get_layer(layer.name).set_weights(layer.get_weights())
    return plain, weights, outputs


def _check_statistics_in_use(layer: Any) -> None:
    if not isinstance(layer, keras.layers.Normalization) or layer.input_mean is not None:
        return
    known, used = layer.get_weights()[:2], (layer.mean, layer.variance)
    if any((a.ravel() != np.ravel(b)).any() for a, b in zip(known, used, strict=True)):
        raise ValueError(
            "The mean and variance of a Normalization were copied by tfmot's quantize_apply, but are not in "
            f"use. Call model.get_layer({layer.name!r}).finalize_state() right after quantize_apply. "
            f"Received: the layer {layer.name!r}, in use: mean={np.ravel(layer.mean)!r}"
        )


def _layer_has_kernel(layer: Any) -> bool:
    """True for a Keras layer whose weights can be quantized."""
    kind = type(layer).__name__
    return kind in LAYERS and has_kernel(kind)


def _plain_layer(layer: Any) -> Any:
    if isinstance(layer, QuantizeWrapperV2):
        return type(layer.layer).from_config(layer.layer.get_config())
    if isinstance(layer, QuantizeLayer):
        return keras.layers.Activation("linear", name=layer.name)
    return type(layer).from_config(layer.get_config())


def quantizers_of(
    model: Any,
) -> tuple[list[tuple[Any, WeightQuantizer]], list[ActivationQuantizer]]:
    """The quantizers in a wrapped model, each once.

    Returns:
      Pairs of kernel variable and weight quantizer, and the activation quantizers, in layer order.
    """
    weights: list[tuple[Any, WeightQuantizer]] = []
    activations: dict[int, ActivationQuantizer] = {}
    for layer in model.layers:
        if isinstance(layer, QuantizeLayer) and isinstance(layer.quantizer, ActivationQuantizer):
            activations[id(layer.quantizer)] = layer.quantizer
        config = getattr(layer, "quantize_config", None)
        if isinstance(layer, QuantizeWrapperV2) and isinstance(config, LowBitQuantizeConfig):
            weights += [(kernel, quantizer) for kernel, quantizer, _ in layer._weight_vars]
            if isinstance(config.output_quantizer, ActivationQuantizer):
                activations[id(config.output_quantizer)] = config.output_quantizer
    return weights, list(activations.values())
