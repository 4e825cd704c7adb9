"""Optimization variables by name; an instance works wherever a name does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_lowbit.reconstruct.variables.adaquant import AdaQuant
from keras_lowbit.reconstruct.variables.adaround import AdaRound
from keras_lowbit.reconstruct.variables.base import ClosedForm, Grid, OptimizationVariable
from keras_lowbit.reconstruct.variables.bitsplit import BitSplit
from keras_lowbit.reconstruct.variables.lsq import LSQ

__all__ = [
    "LSQ",
    "AdaQuant",
    "AdaRound",
    "BitSplit",
    "ClosedForm",
    "Grid",
    "OptimizationVariable",
    "get",
]

_BY_NAME: dict[str, type[OptimizationVariable]] = {
    v.name: v for v in (AdaQuant, AdaRound, BitSplit, LSQ)
}


def get(identifier: Any) -> OptimizationVariable:
    """The variable for a name, a dict of name and arguments, or an instance.

    Raises:
      ValueError: an unknown name, type or argument.
    """
    if isinstance(identifier, OptimizationVariable):
        return identifier
    name, arguments = identifier, {}
    if isinstance(identifier, Mapping):
        arguments = {key: value for key, value in identifier.items() if key != "name"}
        name = identifier.get("name")
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(
            f"Unknown optimization variable. Expected one of {sorted(_BY_NAME)} or an instance of "
            f"OptimizationVariable. Received: {identifier!r}"
        )
    try:
        return _BY_NAME[name](**arguments)
    except TypeError as error:  # an argument that does not exist
        raise ValueError(
            f"The optimization variable {name!r} cannot be made: {error}. Expected arguments like "
            f"those of {_BY_NAME[name]()!r}. Received: {identifier!r}"
        ) from error
