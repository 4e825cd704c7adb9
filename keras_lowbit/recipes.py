"""How much work goes into a quantization: three settings, the same for every network.

``fast`` takes seconds: ranges, and biases corrected analytically; nothing is trained. ``default`` takes
a minute or two: blocks reconstructed, then a short distillation of the whole network. ``best`` takes some
minutes: activation ranges that suit the network's output, and five times the steps of distillation, at
half the rate and from blends of the samples as well. ``docs/accuracy.md`` shows what each gains.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "fast": MappingProxyType({"optimize": (), "correct_bias": True, "tune_steps": 0}),
    "default": MappingProxyType({}),
    "best": MappingProxyType({
        "activation_range": "output", "tune_steps": 5000, "tune_learning_rate": 5e-3,
        "augment": "auto+mixup",
    }),
})  # fmt: skip


def fields_of(recipe: str) -> dict[str, Any]:
    """The fields of :class:`keras_lowbit.PTQConfig` that a recipe sets.

    Args:
      recipe: "fast", "default" or "best".

    Raises:
      ValueError: there is no such recipe.

    Example:
      >>> PTQConfig.uniform(4, **fields_of("best"))
    """
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {tuple(RECIPES)}. Received: recipe={recipe!r}")
    return dict(RECIPES[recipe])
