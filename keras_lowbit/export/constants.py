"""Kernels and biases as the integers of the exported file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from keras_lowbit.config import TensorSpec
from keras_lowbit.export import ir
from keras_lowbit.export.packing import INTEGER_BITS
from keras_lowbit.quantizers.numerics import quantize


def kernel_codes(name: str, spec: TensorSpec, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Codes of the kernel of layer ``name``, int32, in Keras' layout.

    Raises:
      ValueError: a weight that is not finite, a scale that is not a positive, normal number.
    """
    scale = values[f"{name}/kernel_scale"]
    # Aligned to the top of a byte, the codes get a scale smaller by this power of two.
    least = np.finfo(np.float32).tiny * 2.0 ** (8 - spec.bits)
    if not (np.isfinite(scale).all() and (scale > least).all()):
        raise ValueError(
            "Weight scales must be positive, normal float32 numbers; check the layer's weights. "
            f"Received: scales from {scale.min()} to {scale.max()} of the kernel of {name!r}"
        )
    kernel = values[f"{name}/kernel"]
    if not np.isfinite(kernel).all():
        raise ValueError(
            "Weights must be finite; quantize the float model again. "
            f"Received: {np.count_nonzero(~np.isfinite(kernel))} NaN or infinite values of "
            f"{kernel.size} in the kernel of {name!r}"
        )
    # By the simulation's own function: another order of the same sum rounds what is next to zero elsewhere.
    zero_point = values[f"{name}/kernel_zero_point"]
    return quantize(kernel, scale, zero_point, spec.qmin, spec.qmax).numpy().astype(np.int32)


class Aligned(NamedTuple):
    """Weights in a container, see :func:`align_weights`; ``shift`` and ``offset`` as in :class:`ir.Tensor`."""

    codes: np.ndarray
    scale: np.ndarray
    shift: int | tuple[int, ...]
    offset: int | tuple[int, ...]


def align_weights(
    codes: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    bits: int,
    width: int = 8,
    axis: int = 0,
) -> Aligned:
    """Shift b-bit codes to the top of `width` bits, which keeps double rounding rare; same real values.

    Args:
      codes: -2^(b-1)..2^(b-1)-1, any shape.
      scale: float32, one or one per index of `axis`.
      zero_point: 0, -0.5 or -1, likewise. A half takes the place of the lowest bit shifted in; from -1,
        the highest level is a code above the top, so the shift is one less.
      bits: of the codes.
      width: of the container's integers.
      axis: of the output channels.

    Returns:
      int8 codes, (codes - zero_point) << shift; float32 scale / 2^shift (exact); shift; and -zero_point << shift.

    Raises:
      ValueError: a code that does not fit `bits`; or these and the zero point do not fit `width`.
    """
    codes, limit = np.asarray(codes), 2 ** (bits - 1)
    if codes.min() < -limit or codes.max() > limit - 1 or np.any(codes != np.rint(codes)):
        raise ValueError(
            f"Weight codes of {bits} bits must be integers in [{-limit}, {limit - 1}]. "
            f"Received: codes from {codes.min()} to {codes.max()}."
        )
    zero_point = np.atleast_1d(np.asarray(zero_point, np.float64))
    shift = width - bits - (zero_point == -1)
    factor = 2.0**shift
    if (shift < (zero_point % 1 != 0)).any():
        raise ValueError(
            f"{bits}-bit codes with a zero point of {zero_point.min()} need a bit more than {width} hold; choose a wider container. "
            f"Received: bits={bits}, width={width}"
        )
    along = (-1, *(1,) * (codes.ndim - 1 - axis)) if zero_point.size > 1 else (1,)
    levels = (codes - zero_point.reshape(along)) * factor.reshape(along)
    aligned = np.atleast_1d(np.float32(scale)) / np.float32(factor)
    return Aligned(levels.astype(np.int8), aligned, _one(shift), _one(-zero_point * factor))


def _one(numbers: np.ndarray) -> int | tuple[int, ...]:
    """The number, if all are the same."""
    integers = tuple(map(int, numbers))
    return integers[0] if len(set(integers)) == 1 else integers


def kernel_and_bias(
    name: str,
    codes: np.ndarray,
    axis: int,
    spec: TensorSpec,
    values: Mapping[str, np.ndarray],
    source: ir.Tensor,
    method: str,
    container: str,
) -> tuple[ir.Tensor, ir.Tensor]:
    """The constant tensors of a convolution or dense layer.

    Args:
      name: of the layer.
      codes: its kernel in TFLite's layout.
      axis: of that layout which counts output channels.
      spec: the kernel's grid.
      values: by the names of ``Student.values``.
      source: the tensor it reads, whose scale the bias depends on.
      method: how the kernel was found, for the metadata.
      container: of the kernel in the file; its integers fit there.

    Raises:
      ValueError: a bias that overflows int32, or whose scale leaves the normal float32 numbers; a
        container too narrow for the grid.
    """
    scale, zero_point = (
        values[f"{name}/kernel_{part}"].reshape(-1) for part in ("scale", "zero_point")
    )
    if container == "int4" and np.all(scale == scale[0]) and np.all(zero_point == zero_point[0]):
        # TFLM runs a packed FULLY_CONNECTED with a single scale only.
        scale, zero_point = scale[:1], zero_point[:1]
    width = INTEGER_BITS[container]
    if any(zero_point) and spec.bits == width:
        raise ValueError(
            f"Layer {name!r}: the grid {spec.grid!r} needs a bit more than its codes have; choose another "
            f"container. Received: {spec.bits} bits in {container!r}"
        )
    data, aligned, shift, offset = align_weights(codes, scale, zero_point, spec.bits, width, axis)
    ends = [np.left_shift(end, shift) + offset for end in (spec.qmin, spec.qmax)]
    kernel = ir.Tensor(
        f"{name}/kernel", data.shape, aligned, 0, spec.bits, int(np.min(ends)), int(np.max(ends)),
        data=np.ascontiguousarray(data), axis=axis, method=method, shift=shift, offset=offset,
    )  # fmt: skip
    floats = values.get(f"{name}/bias", np.zeros(codes.shape[axis], np.float32))
    input_scale = float(np.asarray(source.scale)[0])
    _check_product(name, input_scale, aligned)
    integers, bias_scale = ir.quantize_bias(floats, input_scale, aligned, name)
    bias = ir.Tensor(
        f"{name}/bias", integers.shape, bias_scale, 0, 32, -(2**31), 2**31 - 1, "int32", integers
    )
    return kernel, bias


def _check_product(name: str, input_scale: float, weight_scale: np.ndarray) -> None:
    """Refuse a bias scale that float32 cannot hold."""
    product = input_scale * weight_scale.astype(np.float64)
    limits = np.finfo(np.float32)
    if product.min() < limits.tiny or product.max() > limits.max:
        raise ValueError(
            f"Layer {name!r}: input scale times weight scale, the scale of its bias, must be a normal "
            "float32 number; rescale the data or the layer's weights. "
            f"Received: {product.min():.4g} to {product.max():.4g}"
        )


def zero_to_add(name: str, source: ir.Tensor, scale: np.ndarray) -> ir.Tensor | None:
    """The zero by whose addition ``source`` comes to a grid of this scale; None where a QUANTIZE does it as well.

    QUANTIZE rounds twice where its factor is below a half, first to halves, quarters, ... of a code: by a factor of 0.35,
    what is between 0.25 and 0.5 becomes 1. ADD computes with 20 bits more.

    Args:
      name: of the zero, int8 and a single element.
      source: the tensor, int8.
      scale: of the grid, float32 (1,).
    """
    if source.scale is None or (source.scale >= 0.5 * scale).all():
        return None
    shape = (1,) * len(source.shape)
    return ir.Tensor(name, shape, source.scale, 0, 8, -127, 127, data=np.zeros(shape, np.int8))
