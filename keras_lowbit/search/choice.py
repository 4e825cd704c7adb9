"""Which layers are free, and a choice of widths as a configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_lowbit.checks import MAX_BITS, MIN_BITS, plain_number
from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph
from keras_lowbit.quantizers.placement import place

CANDIDATE_BITS = (2, 3, 4, 6, 8)


def candidates(
    graph: Graph, config: PTQConfig, candidate_bits: Any = CANDIDATE_BITS
) -> dict[str, tuple[int, ...]]:
    """The widths that each layer may get, by layer in topological order.

    Layers that ``layer_bits`` or ``first_last_bits`` name keep what those say.

    Raises:
      ValueError: candidates that are no widths, no layer with a kernel, or none that is free.
    """
    given = (
        [plain_number(b) for b in candidate_bits] if isinstance(candidate_bits, Iterable) else []
    )
    choices = tuple(sorted({b for b in given if isinstance(b, int) and MIN_BITS <= b <= MAX_BITS}))
    if len(choices) < 2 or len(choices) != len(given):
        raise ValueError(
            f"`candidate_bits` must list at least two different widths from {MIN_BITS} to {MAX_BITS}. "
            f"Received: candidate_bits={candidate_bits!r}"
        )
    if not graph.weighted():
        raise ValueError(
            "The network has no kernel, so there are no bits to choose. Quantize it without a budget. "
            f"Received: layers {[node.name for node in graph.nodes]}"
        )
    narrow, wide = (
        place(graph, dataclasses.replace(config, weight_bits=bits)).weights
        for bits in (MIN_BITS, MAX_BITS)
    )
    # A layer whose width follows `weight_bits` is not an exception.
    found = {
        name: choices if narrow[name] != wide[name] else (spec.bits,) for name, spec in wide.items()
    }
    if all(narrow[name] == wide[name] for name in wide):
        raise ValueError(
            "Every layer's bits are fixed by `layer_bits` or `first_last_bits`, so there is nothing to "
            f"search. Leave some layers out. Received: layers {list(wide)}"
        )
    return found


def with_bits(config: PTQConfig, bits: Mapping[str, int]) -> PTQConfig:
    """The configuration with these weight bits of free layers; their inputs keep their width."""
    exceptions = [(re.escape(name), (b, config.activation_bits)) for name, b in bits.items()]
    return dataclasses.replace(config, layer_bits=(*config.layer_bits, *exceptions))
