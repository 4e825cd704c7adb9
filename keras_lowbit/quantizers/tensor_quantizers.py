"""The two tfmot quantizers: one per kernel, one per activation tensor (or group that shares it).

Both hold a ``scale`` (and zero point) as variables of the wrapped layer, start as NaN so that an
uncalibrated model fails loudly, ignore the training flag (but for probabilities), and have one
``rule`` slot: a function that stands in for rounding to nearest while ranges are observed or a unit is
reconstructed.

``Model.fit`` trains a ``log_factor`` instead of the scale: the scale in use is ``scale *
exp(log_factor)``. So a step of an optimizer with steps of a given size (Adam) changes every scale by
the same share, whatever its size, and no step makes one negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from keras_lowbit._keras import keras, tfmot_imported_quietly
from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.numerics import fake_quantize

with tfmot_imported_quietly():
    from tensorflow_model_optimization.quantization.keras import quantizers as tfmot_quantizers

Rule = Callable[[tf.Tensor], tf.Tensor]
NOT_CALIBRATED = keras.initializers.Constant(float("nan"))
LOG_FACTOR = "log_factor"  # how the names of these variables end
LARGEST_LOG_FACTOR = 4.0  # 55 times the scale, or a 55th


class _LowBitQuantizer(tfmot_quantizers.Quantizer):
    """What both have in common: a grid, variables, a rule."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.rule: Rule | None = None
        self.variables: dict[str, tf.Variable] = {}
        self.log_factor: tf.Variable | None = None

    def __call__(
        self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **kwargs: Any
    ) -> tf.Tensor:
        del training, kwargs
        if self.rule is not None:
            return self.rule(inputs)
        scale = self.trained(weights["scale"])
        return fake_quantize(inputs, scale, weights["zero_point"], self.spec.qmin, self.spec.qmax)

    def scale(self) -> tf.Tensor:
        """The scale in use, as calibrated, reconstructed and trained so far; float32."""
        return self.trained(self.variables["scale"])

    def trained(self, scale: tf.Tensor) -> tf.Tensor:
        """What ``fit`` has made of a scale."""
        if self.log_factor is None:
            return tf.convert_to_tensor(scale)
        limit = LARGEST_LOG_FACTOR
        return scale * tf.exp(tf.clip_by_value(self.log_factor, -limit, limit))

    def set_scale(self, value: Any) -> None:
        """Use this scale from now on."""
        self.variables["scale"].assign(value)
        if self.log_factor is not None:
            self.log_factor.assign(tf.zeros_like(self.log_factor))

    @contextmanager
    def following(self, rule: Rule) -> Iterator[None]:
        """Follow ``rule`` instead of rounding to nearest, inside this context only."""
        self.rule = rule
        try:
            yield
        finally:
            self.rule = None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    __hash__ = object.__hash__


def _log_factor(layer: Any, name: str, shape: tuple[int, ...]) -> tf.Variable:
    """A trainable variable of the layer inside a wrapper, and not among the ``variables``: those of the
    wrapper come before the bias or behind it, as the layer inside was built first or not, and
    weights could not be set by their position."""
    owner = getattr(layer, "layer", layer)
    return owner.add_weight(f"{name}_{LOG_FACTOR}", shape=shape, initializer="zeros")


@keras.utils.register_keras_serializable(package="keras_lowbit")
class WeightQuantizer(_LowBitQuantizer):
    """Symmetric, one scale per channel, and a zero point that only the grid "centred" chooses.

    Args:
      bits: 2..8.
      axis: axes of the kernel that count its output channels: (3,) for Conv2D, (2, 3) for
        DepthwiseConv2D, (1,) for Dense.
      grid: "narrow", "full", "midrise" or "centred", see :class:`keras_lowbit.config.TensorSpec`.

    Example:
      >>> WeightQuantizer(bits=4, axis=(3,)).spec.qmax
      7
    """

    def __init__(self, bits: int, axis: tuple[int, ...], grid: str = "narrow") -> None:
        super().__init__(TensorSpec(bits, symmetric=True, axis=tuple(axis), grid=grid))

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        shape = self.spec.scale_shape(tuple(tensor_shape))
        usual = keras.initializers.Constant(self.spec.zero_points[0])
        self.variables = {
            key: layer.add_weight(f"{name}_{key}", shape=shape, initializer=start, trainable=False)
            for key, start in (("scale", NOT_CALIBRATED), ("zero_point", usual))
        }
        self.log_factor = _log_factor(layer, name, shape)
        return self.variables

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.spec.bits, "axis": list(self.spec.axis), "grid": self.spec.grid}


@keras.utils.register_keras_serializable(package="keras_lowbit")
class ActivationQuantizer(_LowBitQuantizer):
    """Asymmetric, one scale and zero point per tensor.

    Several layers may hold the same object: their outputs then share one grid, as pooling and
    concatenation demand.

    Args:
      bits: 2..8.
      unsigned: the tensor is never negative; its zero point stays 0.
      learns: ``fit`` trains the scale; False where the runtimes fix it, for probabilities. Those are not
        rounded in training: one that is rounded to 0 would have no gradient. Zero points stay.
    """

    def __init__(self, bits: int, unsigned: bool = False, learns: bool = True) -> None:
        super().__init__(TensorSpec(bits, symmetric=False, unsigned=unsigned))
        self.learns = learns

    def __call__(
        self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **kwargs: Any
    ) -> tf.Tensor:
        if training and not self.learns:
            return inputs
        return super().__call__(inputs, training, weights, **kwargs)

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        if not self.variables:
            self.variables = {
                key: layer.add_weight(
                    f"{name}_{key}", shape=(), initializer=NOT_CALIBRATED, trainable=False
                )
                for key in ("scale", "zero_point")
            }
            if self.learns:
                self.log_factor = _log_factor(layer, name, ())
        return self.variables

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.spec.bits, "unsigned": self.spec.unsigned, "learns": self.learns}


class AverageQuantizer(_LowBitQuantizer):
    """Rounds an average back to the grid of what was averaged, as the integer kernels do.

    They round halves away from zero of the *int8 code*, so the direction depends on where the grid
    sits in int8; with windows of four, a quarter of all averages are halves.

    Args:
      source: the quantizer of the pool's input; its scale, zero point and rule are used.
      offset: int8 code of the grid's lowest value.
    """

    _RESOLUTION = 4096.0  # removes the float error of the mean, which would decide halves at random

    def __init__(self, source: ActivationQuantizer, offset: int) -> None:
        super().__init__(source.spec)
        self.source = source
        self.offset = offset

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        return self.source.build(tensor_shape, name, layer)

    def __call__(
        self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **kwargs: Any
    ) -> tf.Tensor:
        if self.source.rule is not None:
            return self.source.rule(inputs)
        scale, shift = (
            self.source.trained(weights["scale"]),
            weights["zero_point"] + float(self.offset),
        )
        code = inputs / scale + shift
        exact = tf.round(code * self._RESOLUTION) / self._RESOLUTION
        away = tf.sign(exact) * tf.floor(tf.abs(exact) + 0.5)
        low, high = self.spec.qmin + self.offset, self.spec.qmax + self.offset
        rounded = tf.clip_by_value(code + tf.stop_gradient(away - code), float(low), float(high))
        return scale * (rounded - shift)

    def get_config(self) -> dict[str, Any]:
        return {"source": self.source.get_config(), "offset": self.offset}
