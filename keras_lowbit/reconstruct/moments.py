"""Second moments of what enters a layer: all that its least-squares problem needs.

For a layer ``y = W x`` with quantized inputs ``x_hat``, ``|W x - W_hat x_hat|^2`` depends on the
data only through ``E[x_hat x_hat^T]`` and ``E[x_hat x^T]``. Biases cancel. Where the bias is free to
make up for the mean of the error, what remains depends on the covariance of ``x`` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lowbit.graph import Node


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of the inputs of one layer, patch by patch, group by group of input channels.

    Attributes:
      quantized: ``E[x_hat x_hat^T]``, float64 (groups, inputs, inputs); one group, but for a
        depthwise convolution one per channel.
      cross: ``E[x_hat x^T]``, the same shape.
      mean: what was subtracted from the inputs, float64 (groups, 1, inputs).
    """

    quantized: np.ndarray
    cross: np.ndarray
    mean: np.ndarray | float = 0.0

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel or its scale as (groups, inputs, outputs); inputs in the order of the moments."""
        groups = len(self.quantized)
        if groups == 1:
            return kernel.reshape(1, -1, kernel.shape[-1])
        height, width, _, multiplier = kernel.shape
        return kernel.transpose(2, 0, 1, 3).reshape(-1, height * width, multiplier)

    def mean_output(self, kernel: np.ndarray) -> np.ndarray:
        """What the subtracted mean adds to each output.

        Args:
          kernel: float, as the layer has it.

        Returns:
          float32 (outputs,), shaped as a bias.
        """
        matrix = self.to_matrix(kernel.astype(np.float64))
        mean = np.broadcast_to(self.mean, (len(matrix), 1, matrix.shape[1]))
        return (mean @ matrix).astype(np.float32).reshape(-1)

    def from_matrix(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of :meth:`to_matrix`."""
        if len(matrix) == 1:
            return matrix.reshape(shape)
        height, width, channels, multiplier = shape
        return matrix.reshape(channels, height, width, multiplier).transpose(1, 2, 0, 3)


def input_moments(node: Node, batches: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> Moments:
    """Average over a calibration set.

    Args:
      node: the layer.
      batches: pairs of its quantized and its float input, float32 (samples, ...).
    """
    quantized: Any = 0.0
    cross: Any = 0.0
    count = 0
    for arrived, wanted in batches:
        x_hat, x = _patches(node, arrived), _patches(node, wanted)
        quantized += tf.matmul(x_hat, x_hat, transpose_a=True).numpy().astype(np.float64)
        cross += tf.matmul(x_hat, x, transpose_a=True).numpy().astype(np.float64)
        count += x.shape[1]
    return Moments(quantized / count, cross / count)


def input_covariance(node: Node, batches: Iterable[tf.Tensor]) -> Moments:
    """The covariance of a layer's inputs over a calibration set, as moments of centred inputs.

    Of a layer without a bias the inputs are not centred: nothing makes up for the mean of its error.

    Args:
      node: the layer.
      batches: its input, float32 (samples, ...).
    """
    square: Any = 0.0
    total: Any = 0.0
    count = 0
    centred = "bias" in node.weights
    origin = None if centred else 0.0
    for batch in batches:
        x = _patches(node, batch)
        if origin is None:  # near the mean, so that nothing cancels where that is large
            origin = tf.reduce_mean(x, axis=1, keepdims=True)
        x -= origin
        square += tf.matmul(x, x, transpose_a=True).numpy().astype(np.float64)
        total += tf.reduce_sum(x, axis=1, keepdims=True).numpy().astype(np.float64)
        count += x.shape[1]
    mean = total / count * centred
    covariance = square / count - mean.transpose(0, 2, 1) * mean
    return Moments(covariance, covariance, mean + np.asarray(origin))


def _patches(node: Node, x: tf.Tensor) -> tf.Tensor:
    """What the kernel is multiplied with: (groups, patches, inputs)."""
    if node.kind == "Dense":
        return tf.reshape(x, (1, -1, x.shape[-1]))
    kernel = node.weights["kernel"].shape[:-2]
    strides, rates = tuple(node.config["strides"]), tuple(node.config["dilation_rate"])
    padding = node.config["padding"].upper()
    if node.kind == "Conv1D":
        if padding == "CAUSAL":
            x = tf.pad(x, ((0, 0), ((kernel[0] - 1) * rates[0], 0), (0, 0)))
            padding = "VALID"
        x = x[:, tf.newaxis]
        kernel, strides, rates = (1, *kernel), (1, *strides), (1, *rates)
    patches = tf.image.extract_patches(
        x, (1, *kernel, 1), (1, *strides, 1), (1, *rates, 1), padding
    )
    if node.kind != "DepthwiseConv2D":
        return tf.reshape(patches, (1, -1, patches.shape[-1]))
    by_channel = tf.reshape(patches, (-1, kernel[0] * kernel[1], x.shape[-1]))
    return tf.transpose(by_channel, (2, 0, 1))
