"""Uniform affine quantization: pure functions, tensors in, tensors out.

``x_hat = scale * (clip(round(x / scale + zero_point), qmin, qmax) - zero_point)``
(Zhuo et al. 2022, section 3). Halves are rounded up, as TFLM's kernels round what a ReLU leaves.
A zero point is an integer, or halfway between two, which puts zero between two levels.
Gradients are those of LSQ and LSQ+ (Esser et al. 2020, eq. 3; Bhalgat et al. 2020, eq. 5): they
follow from passing the gradient straight through ``round`` and from ``clip``.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def round_ste(x: tf.Tensor) -> tf.Tensor:
    """Round, halves up; the gradient passes straight through."""
    return x + tf.stop_gradient(tf.floor(x + 0.5) - x)


def quantize(
    x: tf.Tensor, scale: tf.Tensor, zero_point: tf.Tensor, qmin: int, qmax: int
) -> tf.Tensor:
    """Codes of ``x`` on the grid, as float integers in [qmin, qmax]; no gradient.

    Args:
      x: float32, any shape.
      scale: float32 > 0, broadcastable to ``x``.
      zero_point: float integer or half of one, in [qmin, qmax], broadcastable to ``x``.
      qmin: smallest code.
      qmax: largest code.
    """
    return tf.clip_by_value(_nearest(x / scale, zero_point), float(qmin), float(qmax))


def dequantize(codes: tf.Tensor, scale: tf.Tensor, zero_point: tf.Tensor) -> tf.Tensor:
    """Real values of ``codes``: ``scale * (codes - zero_point)``."""
    return scale * (codes - zero_point)


def fake_quantize(
    x: tf.Tensor, scale: tf.Tensor, zero_point: tf.Tensor, qmin: int, qmax: int
) -> tf.Tensor:
    """``x`` rounded to the grid and back, same shape as ``x``; differentiable in the first three.

    Example:
      >>> float(fake_quantize(tf.constant(0.26), tf.constant(0.1), tf.constant(0.0), 0, 15))
      0.30000001192092896
    """

    # Written out: automatic differentiation of the same formula takes twice the time.
    @tf.custom_gradient
    def rounded(x: tf.Tensor, scale: tf.Tensor, zero_point: tf.Tensor) -> tuple[tf.Tensor, Any]:
        ratio = x / scale
        moved = _nearest(ratio, zero_point)
        codes = tf.clip_by_value(moved, float(qmin), float(qmax))
        levels = codes - zero_point

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # Where nothing was clipped; a product takes a third of the time of `tf.where`.
            passed = upstream * tf.cast(tf.equal(codes, moved), tf.float32)
            to_scale = upstream * levels - passed * ratio
            to_zero_point = scale * (passed - upstream)
            return (
                passed,
                _summed(to_scale, scale.shape),
                _summed(to_zero_point, zero_point.shape),
            )

        return scale * levels, gradients

    return rounded(*(tf.convert_to_tensor(value, tf.float32) for value in (x, scale, zero_point)))


def _nearest(ratio: tf.Tensor, zero_point: tf.Tensor) -> tf.Tensor:
    """``ratio + zero_point``, rounded; the integer part of the zero point is added last, exactly."""
    whole = tf.floor(zero_point)
    return tf.floor(ratio + (zero_point - whole + 0.5)) + whole


def _summed(gradient: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """The gradient of something that was broadcast from ``shape``."""
    leading = len(gradient.shape) - len(shape)
    axes = [*range(leading), *(leading + i for i, size in enumerate(shape) if size == 1)]
    return tf.reshape(tf.reduce_sum(gradient, axis=axes), shape)
