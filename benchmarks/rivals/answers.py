"""What a tool is asked, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
    """One network to be quantized.

    Attributes:
      weight_bits: of every kernel.
      activation_bits: of what feeds convolutions and dense layers; below eight the network input too.
      calibration: float32 (samples, ...).
      labels: class numbers of the calibration samples, -1 where unknown; for training only.
      options: of the contestant.
      seed: for what is drawn.
    """

    weight_bits: int
    activation_bits: int
    calibration: np.ndarray
    labels: np.ndarray
    options: dict[str, Any]
    seed: int


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized network.

    Attributes:
      predict: maps float inputs (samples, ...) to outputs (samples, classes).
      runs_on: "LiteRT" for a file, "simulation" for a float model that rounds.
      settings: JSON-able, what the tool was told and what it made of it.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    runs_on: str
    settings: dict[str, Any]
