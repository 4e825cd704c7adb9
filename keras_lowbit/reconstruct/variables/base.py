"""The one extension point: what may be optimised in a unit, and how it hardens."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_lowbit.checks import plain_number
from keras_lowbit.config import TensorSpec
from keras_lowbit.quantizers.numerics import fake_quantize
from keras_lowbit.reconstruct.moments import Moments

State = dict[str, tf.Variable]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid with its values: ``scale * (code - zero_point)`` for the codes of ``spec``.

    Attributes:
      spec: bits, symmetry, axes.
      scale: float32, broadcastable to the tensor.
      zero_point: float integer, or half of one; of symmetric grids among ``spec.zero_points``.
    """

    spec: TensorSpec
    scale: tf.Tensor
    zero_point: tf.Tensor | float = 0.0

    @classmethod
    def of(cls, quantizer: Any) -> Grid:
        """The grid that a quantizer has now."""
        return cls(quantizer.spec, quantizer.scale(), quantizer.variables["zero_point"].value())

    def nearest(self, tensor: tf.Tensor) -> tf.Tensor:
        """``tensor`` rounded to nearest on this grid, differentiable."""
        return fake_quantize(tensor, self.scale, self.zero_point, self.spec.qmin, self.spec.qmax)


class OptimizationVariable(abc.ABC):
    """What is trained in place of rounding to nearest; stateless but for hyperparameters.

    Subclasses set ``name`` and ``targets`` and implement the four functions. Trainable state is
    kept in units of the tensor's own scale, so that a learning rate means the same in every layer.
    Constructor arguments must be stored under their own names.

    Example:
      >>> PTQConfig(optimize=[AdaRound(warmup=0.1), "lsq"])
    """

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]  # of "weight", "activation": what it may own
    essential: ClassVar[tuple[str, ...]] = ()  # of its targets: what it is not to be without
    learning_rate: float
    decays: ClassVar[bool] = True  # the learning rate, along a cosine to zero

    @abc.abstractmethod
    def init(self, tensor: tf.Tensor | None, grid: Grid) -> State:
        """Fresh trainable state for one tensor; activations come as None."""

    @abc.abstractmethod
    def quantize(self, tensor: tf.Tensor, grid: Grid, state: State) -> tf.Tensor:
        """The soft, differentiable stand-in for the quantized tensor, same shape."""

    def learning_rate_of(self, name: str) -> float:
        """The learning rate of one entry of the state; the same for all by default."""
        del name
        return self.learning_rate

    def penalty(self, state: State, progress: tf.Tensor) -> tf.Tensor:
        """A term of the loss; ``progress`` runs from 0 to 1. None by default."""
        return tf.constant(0.0)

    @abc.abstractmethod
    def harden(
        self, tensor: tf.Tensor | None, grid: Grid, state: State
    ) -> tuple[tf.Tensor | None, Grid]:
        """The tensor on the grid and the final grid; the state is dropped afterwards."""

    def to_dict(self) -> dict[str, Any]:
        """Name and constructor arguments, JSON-able."""
        return {"name": self.name, **{name: plain_number(v) for name, v in vars(self).items()}}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OptimizationVariable) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(sorted((k, repr(v)) for k, v in self.to_dict().items())))


class ClosedForm(OptimizationVariable):
    """A variable that solves for the weights of one layer instead of following gradients.

    It sees a layer's least-squares problem, so it works on units of one layer only.
    """

    targets: ClassVar[tuple[str, ...]] = ("weight",)
    essential: ClassVar[tuple[str, ...]] = ("weight",)

    @abc.abstractmethod
    def solve(
        self, tensor: np.ndarray, grid: Grid, moments: Moments
    ) -> tuple[np.ndarray, np.ndarray]:
        """The kernel on the grid and its scale, from the second moments of the layer's input."""

    def init(self, tensor: tf.Tensor | None, grid: Grid) -> State:
        return {}

    def quantize(self, tensor: tf.Tensor, grid: Grid, state: State) -> tf.Tensor:
        return grid.nearest(tensor)

    def harden(
        self, tensor: tf.Tensor | None, grid: Grid, state: State
    ) -> tuple[tf.Tensor | None, Grid]:
        return (None if tensor is None else grid.nearest(tensor)), grid
