"""Step 2, values: estimate every range once, from the weights and from calibration data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.checks import check_seed
from keras_lowbit.config import RANGE_METHODS, TensorSpec
from keras_lowbit.quantizers.quantize_configs import input_ranges_of_tfmot, quantizers_of
from keras_lowbit.quantizers.ranges import activation_range, kernel_range
from keras_lowbit.quantizers.tensor_quantizers import ActivationQuantizer

SAMPLED_VALUES = 2**16
BATCH = 128


@dataclasses.dataclass
class _Observer:
    """Sees a tensor pass, changes nothing, remembers its range and a sample of its values."""

    num_samples: int  # that will pass in all
    generator: np.random.Generator
    low: float = np.inf
    high: float = -np.inf
    sample: list[np.ndarray] = dataclasses.field(default_factory=list)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        values = np.ravel(x.numpy())
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        wanted = -(-SAMPLED_VALUES * len(x) // self.num_samples)
        if wanted < len(values):
            values = values[self.generator.integers(0, len(values), wanted)]
        self.sample.append(values)
        return x


def calibrate(
    model: Any,
    inputs: list[np.ndarray] | np.ndarray,
    weight_range: str = "mse",
    activation_range_method: str = "mse",
    seed: int = 0,
) -> list[ActivationQuantizer]:
    """Set the scales and zero points of the quantizers of this package that have none yet.

    Args:
      model: tf_keras model with wrapped layers: the student, or a model annotated with
        :class:`LowBitQuantizeConfig` by hand.
      inputs: one float array (samples, ...) per model input; a lone array for one input.
      weight_range: "mse" or "minmax".
      activation_range_method: "mse" or "minmax".
      seed: of the sample of activation values that "mse" looks at (2^16 a tensor).

    Returns:
      Quantizers of tensors that were nothing but zero. Their scale is 1, for want of another.

    Raises:
      ValueError: no such method, no samples, or the model gave NaN or infinite activations; nothing is set.

    Example:
      >>> model = tfmot.quantization.keras.quantize_apply(annotated)
      >>> keras_lowbit.calibrate(model, x)
    """
    for method in (weight_range, activation_range_method):
        if method not in RANGE_METHODS:
            raise ValueError(
                f"`weight_range` and `activation_range_method` must be among {RANGE_METHODS}. For ranges by "
                "the error of an output, which take the float model too, use `quantize`. "
                f"Received: {method!r}"
            )
    check_seed(seed)
    if not hasattr(model, "layers") or not any(quantizers := quantizers_of(model)):
        raise ValueError(
            "`calibrate` sets the ranges of layers annotated with keras_lowbit.LowBitQuantizeConfig, after "
            "tfmot's quantize_apply; a float model goes to keras_lowbit.quantize. "
            f"Received: {type(model).__name__} without such layers"
        )
    inputs = _arrays(model, inputs)
    weights, activations = quantizers
    found = [
        (weight, kernel_range(kernel.numpy(), weight.spec, weight_range))
        for kernel, weight in weights
        if np.isnan(weight.scale().numpy()).all()
    ]
    waiting = [a for a in activations if np.isnan(a.scale().numpy())]
    num_samples = len(inputs[0])
    observers = [
        _Observer(num_samples, np.random.default_rng([seed, index]))
        for index in range(len(waiting))
    ]
    first_part = input_ranges_of_tfmot(model)
    if first_part is not None:
        for batch in _batches(inputs):
            first_part(batch, training=True)
    with contextlib.ExitStack() as stack:
        for _, weight in weights:
            stack.enter_context(weight.following(lambda x: x))
        for quantizer, observer in zip(waiting, observers, strict=True):
            stack.enter_context(quantizer.following(observer))
        for batch in _batches(inputs):
            model(batch, training=False)
    # All or nothing: a range that cannot be found leaves no other one behind.
    pairs = list(zip(waiting, observers, strict=True))
    ranges = [_range(quantizer, observer, activation_range_method) for quantizer, observer in pairs]
    for quantizer, (step, zero_point) in [*found, *zip(waiting, ranges, strict=True)]:
        quantizer.set_scale(step)
        quantizer.variables["zero_point"].assign(zero_point)
    return [quantizer for quantizer, seen in pairs if seen.low == seen.high == 0]


def _arrays(model: Any, inputs: Any) -> list[np.ndarray]:
    """The samples as one array per input of the model."""
    given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    arrays = [np.asarray(x) for x in given]
    wanted = [tuple(x.shape)[1:] for x in model.inputs]
    fit = len(arrays) == len(wanted) and all(
        x.dtype.kind in "fiub"
        and x.ndim == len(shape) + 1
        and len(x) == len(arrays[0]) > 0
        and all(b in (None, a) for a, b in zip(x.shape[1:], shape, strict=True))
        for x, shape in zip(arrays, wanted, strict=True)
    )
    if not fit:
        received = [
            x.shape if x.dtype.kind in "fiub" else type(g)
            for x, g in zip(arrays, given, strict=True)
        ]
        raise ValueError(
            "Ranges need samples: one array (samples, ...) of numbers per input of the model, of as many samples each, "
            f"one at least, and here of the shapes {[('samples', *shape) for shape in wanted]} in this order. "
            f"Received: {received}"
        )
    return arrays


def _batches(inputs: list[np.ndarray]) -> Iterator[Any]:
    for start in range(0, len(inputs[0]), BATCH):
        batch = [tf.constant(x[start : start + BATCH]) for x in inputs]
        yield batch if len(batch) > 1 else batch[0]


def _range(quantizer: Any, observer: _Observer, method: str) -> tuple[np.float32, int]:
    if not np.isfinite([observer.low, observer.high]).all():
        raise ValueError(
            "The float model gives NaN or infinite activations on the calibration data, so no range "
            "can be estimated. Check the model's weights and the scaling of the data. Received: a "
            f"tensor with values from {observer.low} to {observer.high}, "
            f"{quantizer.variables['scale'].name!r}"
        )
    spec: TensorSpec = quantizer.spec
    values = np.concatenate(observer.sample)
    return activation_range(values, observer.low, observer.high, spec, method)
