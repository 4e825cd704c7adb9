"""How much work goes into a quantization: three settings, the same for every network.

``fast`` takes up to a minute and trains nothing: weight scales and zero points that suit the outputs, the weights of each
layer solved for bit by bit, biases corrected analytically. ``default`` takes half a minute to two: blocks
reconstructed, then a short distillation of the whole network. ``best`` takes up to four minutes: 2.5 times the steps of
distillation, at half the rate and from blends of the samples as well. ``docs/accuracy.md`` shows what each gains.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from keras_lowbit.config import PTQConfig

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "fast": MappingProxyType({
        "weight_range": "output", "optimize": ("bitsplit",), "units": "layer", "correct_bias": True,
        "tune_steps": 0,
    }),
    "default": MappingProxyType({}),
    "best": MappingProxyType({
        "tune_steps": 2500, "tune_learning_rate": 5e-3, "augment": "auto+mixup",
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
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {tuple(RECIPES)}. Received: recipe={recipe!r}")
    return dict(RECIPES[recipe])


def resolve(
    config: PTQConfig | None, weight_bits: int | None, activation_bits: int | None, recipe: str
) -> PTQConfig:
    """The configuration that these arguments of ``quantize`` mean together.

    Raises:
      ValueError: something is said twice, or there is no such recipe.
    """
    fields = fields_of(recipe)
    if config is None:
        bits: dict[str, Any] = {"weight_bits": weight_bits, "activation_bits": activation_bits}
        return PTQConfig(**fields, **{name: b for name, b in bits.items() if b is not None})
    if not isinstance(config, PTQConfig):
        raise ValueError(f"`config` must be a PTQConfig. Received: {type(config).__name__}")
    if weight_bits is not None or activation_bits is not None:
        raise ValueError(
            "Bits are given twice: set them in the config alone. Received: "
            f"weight_bits={weight_bits!r}, activation_bits={activation_bits!r}, config={config!r}"
        )
    if fields:
        raise ValueError(
            "A config says all that a recipe does: begin the config with the recipe instead, "
            "PTQConfig(**RECIPES[recipe], ...). "
            f"Received: recipe={recipe!r}, config={config!r}"
        )
    return config
