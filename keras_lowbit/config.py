"""What the user asks for: one frozen, hashable, JSON-able record, and the grid of one tensor."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from keras_lowbit.checks import (
    MAX_BITS,
    as_items,
    as_rate,
    as_tuple,
    check_bits,
    check_count,
    check_flag,
    plain_number,
)

MAX_SPLIT = 0.5
RANGE_METHODS = ("minmax", "mse")
ALL_RANGE_METHODS = (*RANGE_METHODS, "output")
WEIGHT_GRIDS = ("auto", "narrow", "full", "midrise", "centred")
MOST_MIDRISE_BITS = 3  # of "auto"; INT4 packing has no room for more
UNITS = ("layer", "block", "network")
MERGED = "merged:"  # and a number: so many blocks in a row
AUGMENTS = ("auto", "none", "mixup", "images", "series")
TUNED = ("bias", "kernel", "weight_scale", "activation_range")


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The integer grid of one tensor.

    Attributes:
      bits: width of a code, 2..8; activations also 16, which no exported file holds.
      symmetric: True for weights, see ``grid``; False for activations: 0..2^b-1, a free zero point.
      axis: axes that have a scale of their own; empty for one scale per tensor.
      unsigned: the tensor is never negative (after a ReLU), so its zero point is 0.
      grid: of weights: "narrow", codes -(2^(b-1)-1)..2^(b-1)-1 with 0 for zero; "full", also
        -2^(b-1); "midrise", as many codes with zero in the middle between two of them, so that 2 bits
        are the levels -1.5, -0.5, 0.5 and 1.5 times the scale; "centred", along ``axis`` that, "full"
        or its mirror image, -1..2.
    """

    bits: int
    symmetric: bool
    axis: tuple[int, ...] = ()
    unsigned: bool = False
    grid: str = "narrow"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", plain_number(self.bits))
        check_bits("bits", self.bits, wide=not self.symmetric)
        if self.grid not in WEIGHT_GRIDS[1:] or (self.bits == MAX_BITS and self.grid != "narrow"):
            raise ValueError(
                f"`grid` must be one of {WEIGHT_GRIDS[1:]}, and 'narrow' at {MAX_BITS} bits, which "
                f"fill the int8 container. Received: grid={self.grid!r}, bits={self.bits}"
            )

    @property
    def qmin(self) -> int:
        """Smallest code."""
        if not self.symmetric:
            return 0
        return -(2 ** (self.bits - 1)) + (self.grid == "narrow")

    @property
    def qmax(self) -> int:
        """Largest code."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    @property
    def zero_points(self) -> tuple[float, ...]:
        """What may stand for zero among the codes of a symmetric grid, the usual first."""
        return {"midrise": (-0.5,), "centred": (-0.5, 0.0, -1.0)}.get(self.grid, (0.0,))

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scale of a tensor of this ``shape``: 1 but along ``axis``."""
        return tuple(n if i in self.axis else 1 for i, n in enumerate(shape))


@dataclasses.dataclass(frozen=True, eq=False)
class PTQConfig:
    """How a model is quantized; every field is an axis of the study.

    Attributes:
      weight_bits: bits of every kernel.
      activation_bits: bits of every tensor that feeds a convolution or dense layer; 16, here and
        below, is as good as float and for studies of weights alone: it can be simulated only.
      linear_activation_bits: bits of the tensors that feed only other operators (adds, pools).
      input_bits: bits of the network input.
      first_last_bits: bits of the first and last layer's kernel and of the last layer's input;
        None for no exception. ``layer_bits`` goes before it.
      layer_bits: exceptions by layer name: a regular expression, matched against the whole name,
        to bits for both the kernel and the layer's input, or to a pair
        ``(weight_bits, activation_bits)``. The last match wins. The network's input keeps ``input_bits``.
      fold_batch_norm: fold batch norms into their layers.
      equalize: cross-layer equalization before quantization (off: per-channel weights need it
        little, and it hurts at 4 bits and above).
      split_channels: outlier channel splitting before quantization: the share of its input channels,
        0 to 0.5, that is added to every layer where it can be; 0 for off. It costs parameters and
        operations.
      weight_grid: which values kernels may take: "narrow", as many below zero as above; "full", one
        more below; "midrise", as many as "full" and none of them zero; "centred", the best of these and one
        more above for output channels of fewer than 64 weights; "auto", "narrow" above 3 bits, "centred" where
        ``weight_range`` is "output", else "midrise". At 8 bits always narrow. See :class:`TensorSpec`.
      weight_range: the initial weight scales: "mse", of least error of the kernel (on a grid without zero, as
        "output" beside inputs that never vary); "minmax", covering all; "output", of least error of the layer's output.
      activation_range: the initial activation ranges: "mse" and "minmax" likewise; "output", of least
        error of the network's output, below 8 bits.
      optimize: optimization variables by name or instance. Weights belong to the first that can
        move them, activation ranges to the last. Empty for ranges only.
      units: what is reconstructed at a time: "layer", "block", "merged:2" (blocks, or more) or "network".
      steps: gradient steps per unit.
      batch_size: samples per step.
      learning_rate: of the first variable in ``optimize``; None for the variable's own.
      correct_bias: correct the biases analytically, before they are tuned: every channel gets the mean
        it has in the float model. It takes seconds, and helps where nothing else is trained.
      tune: what the end-to-end stage (step 4) moves, one name or several: "bias", "kernel",
        "weight_scale" (which rounds kernels again) and "activation_range"; empty for no such stage.
        It distils the float model on the same unlabelled samples. Behind a softmax or sigmoid it
        compares probabilities, elsewhere outputs; the paper's form, ``("bias",)``, always outputs.
        Activations of 2 and 3 bits whose ranges move are rounded little by little, wholly after 0.6 of its steps.
      tune_steps: gradient steps of the end-to-end stage.
      tune_learning_rate: of kernels there, in units of their scale; scales, ranges and biases are
        tuned at a tenth of it, in units of themselves and of the layer's output range.
      augment: what else that stage (not the paper's form) learns from, made of the samples: "mixup",
        blends of two; "images", shifted and mirrored; "series", shifted along the first axis, the
        time, of 10 places or more; "none"; "auto", by their shape: "images" of three channels, "series"
        of others with two axes or more, "mixup" of vectors and short series. Several are joined by "+": "auto+mixup".
        Views of an image learn the float model's mean answer over 16 of them, if it knows all classes from all sides.
      calibration_samples: most samples taken from the calibration data.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    linear_activation_bits: int = 8
    input_bits: int = 8
    first_last_bits: int | None = None
    layer_bits: Any = ()
    fold_batch_norm: bool = True
    equalize: bool = False
    split_channels: float = 0.0
    weight_grid: str = "auto"
    weight_range: str = "mse"
    activation_range: str = "output"
    optimize: tuple[Any, ...] = ("adaround", "lsq")
    units: str = "block"
    steps: int = 500
    batch_size: int = 32
    learning_rate: float | None = None
    correct_bias: bool = False
    tune: tuple[str, ...] = TUNED
    tune_steps: int = 1000
    tune_learning_rate: float = 1e-2
    augment: str = "auto"
    calibration_samples: int = 1024

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain_number(getattr(self, field.name)))
        object.__setattr__(self, "layer_bits", as_items("layer_bits", self.layer_bits))
        for name in ("optimize", "tune"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        if not all(isinstance(v, (str, Mapping)) or hasattr(v, "to_dict") for v in self.optimize):
            raise ValueError(
                "`optimize` must be names, dicts or instances of optimization variables. "
                f"Received: optimize={self.optimize!r}"
            )
        for name in ("fold_batch_norm", "equalize", "correct_bias"):
            check_flag(name, getattr(self, name))
        check_bits("weight_bits", self.weight_bits)
        for name in ("activation_bits", "linear_activation_bits", "input_bits"):
            check_bits(name, getattr(self, name), wide=True)
        if self.first_last_bits is not None:
            check_bits("first_last_bits", self.first_last_bits)
        for pattern, bits in self.layer_bits:
            self._check_layer_bits(pattern, bits)
        self._check_choice("weight_grid", WEIGHT_GRIDS)
        self._check_choice("weight_range", ALL_RANGE_METHODS)
        self._check_choice("activation_range", ALL_RANGE_METHODS)
        if not re.fullmatch(rf"{MERGED}([2-9]|[1-9]\d+)", str(self.units)):
            self._check_choice("units", (*UNITS, f"{MERGED}2"))
        if not all(part in AUGMENTS for part in str(self.augment).split("+")):
            raise ValueError(
                f"`augment` must be one of {AUGMENTS}, or several joined by '+'. "
                f"Received: augment={self.augment!r}"
            )
        if not all(part in TUNED for part in self.tune):
            raise ValueError(
                f"`tune` must be one of {TUNED}, or a list of several. Received: tune={self.tune!r}"
            )
        object.__setattr__(self, "tune", tuple(part for part in TUNED if part in self.tune))
        for name in ("steps", "batch_size", "tune_steps", "calibration_samples"):
            check_count(name, getattr(self, name), least=0 if name.endswith("steps") else 1)
        share = self.split_channels
        is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not (is_number and 0 <= share <= MAX_SPLIT):
            raise ValueError(
                f"`split_channels` must be a share from 0 to {MAX_SPLIT}. "
                f"Received: split_channels={share!r}"
            )
        object.__setattr__(self, "split_channels", float(share))  # 0 and 0.0 are the same in JSON
        rate, own = self.learning_rate, ", or None for each variable's own"
        if rate is not None:
            rate = as_rate("learning_rate", rate, otherwise=own)
        object.__setattr__(self, "learning_rate", rate)
        rate = as_rate("tune_learning_rate", self.tune_learning_rate)
        object.__setattr__(self, "tune_learning_rate", rate)

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(
                f"`{name}` must be one of {choices}. Received: {name}={getattr(self, name)!r}"
            )

    @staticmethod
    def _check_layer_bits(pattern: str, bits: Any) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"A key of `layer_bits` must be a regular expression: {error}. "
                f"Received: {pattern!r}"
            ) from error
        pair = bits if isinstance(bits, tuple) else (bits, bits)
        if len(pair) != 2:
            raise ValueError(
                "A value of `layer_bits` must be bits or a pair (weight_bits, activation_bits). "
                f"Received: {pattern!r}: {bits!r}"
            )
        check_bits(f"layer_bits[{pattern!r}]", pair[0])
        check_bits(f"layer_bits[{pattern!r}]", pair[1], wide=True)

    def bits_of_layer(self, name: str, first_or_last: bool = False) -> tuple[int, int]:
        """``(weight_bits, activation_bits)`` of the layer of this name, exceptions included."""
        pair = (self.weight_bits, self.activation_bits)
        if first_or_last and self.first_last_bits:
            pair = (self.first_last_bits, self.first_last_bits)
        for pattern, bits in self.layer_bits:
            if re.fullmatch(pattern, name):
                pair = bits if isinstance(bits, tuple) else (bits, bits)
        return pair

    def grid_of_weights(self, bits: int) -> str:
        """The grid of kernels of that many bits, of those of :class:`TensorSpec`."""
        if bits == MAX_BITS or (self.weight_grid == "auto" and bits > MOST_MIDRISE_BITS):
            return "narrow"
        automatic = "centred" if self.weight_range == "output" else "midrise"
        return automatic if self.weight_grid == "auto" else self.weight_grid

    @classmethod
    def uniform(cls, bits: int, **overrides: Any) -> PTQConfig:
        """The paper's setting: weights, network input and every conv or dense input at ``bits``."""
        return cls(**{"weight_bits": bits, "activation_bits": bits, "input_bits": bits} | overrides)

    @classmethod
    def edge8(cls, bits: int, **overrides: Any) -> PTQConfig:
        """As :meth:`uniform`, but network input, first and last layer at 8 bits."""
        return cls.uniform(bits, **{"input_bits": 8, "first_last_bits": 8, **overrides})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PTQConfig) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """The configuration as JSON; optimization variables become name and constructor arguments."""
        fields = dataclasses.asdict(dataclasses.replace(self, optimize=()))
        fields["optimize"] = [
            v if isinstance(v, (str, Mapping)) else v.to_dict() for v in self.optimize
        ]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PTQConfig:
        """The inverse of :meth:`to_json`; fields may be left out.

        Raises:
          ValueError: no JSON object, a field that does not exist, or a value out of range.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"A configuration is a JSON object: {error}. Received: {text[:80]!r}"
            ) from error
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known) if isinstance(fields, dict) else [text[:80]]
        if unknown:
            raise ValueError(
                f"A configuration has no such field. Expected some of {sorted(known)}. "
                f"Received: {unknown}"
            )
        return cls(**fields)
