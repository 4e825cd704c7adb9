"""One width for each layer, of least total harm within linear limits: an integer program, solved exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

ByLayer = Mapping[str, Mapping[int, float]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """The costs of the chosen widths may not add up to more than ``most``; all are whole numbers."""

    costs: Mapping[str, Mapping[int, int]]
    most: int


def solve(harm: ByLayer, limits: Sequence[Limit]) -> dict[str, int] | None:
    """The best choice, or None if no choice keeps all limits.

    Minimise ``sum x[l, b] harm[l, b]`` over ``x`` in {0, 1} with ``sum_b x[l, b] = 1`` for every layer
    and ``sum x[l, b] cost[l, b] <= most`` for every limit.

    Args:
      harm: by layer and width, not negative; adds up over layers.
      limits: costs by the same layers and widths.

    Returns:
      The width of every layer.
    """
    pairs = [(layer, bits) for layer, widths in harm.items() for bits in widths]
    if not pairs:
        return {} if all(limit.most >= 0 for limit in limits) else None
    objective = np.array([harm[layer][bits] for layer, bits in pairs])
    # HiGHS stops at an absolute gap of 1e-6, far below any difference that matters at this scale.
    objective = 1e6 * objective / (objective.max() or 1.0)
    layers = list(harm)
    one_each = np.array([[float(layer == name) for name, _ in pairs] for layer in layers])
    constraints = [LinearConstraint(one_each, 1.0, 1.0)]
    for limit in limits:
        costs = [limit.costs[layer][bits] for layer, bits in pairs]
        # What differs between the widths of a layer, in the largest unit: small whole numbers.
        least = {layer: min(limit.costs[layer].values()) for layer in layers}
        extra = [cost - least[layer] for cost, (layer, _) in zip(costs, pairs, strict=True)]
        left = limit.most - sum(least.values())
        if left < 0:
            return None
        unit = math.gcd(*extra) or 1
        constraints.append(
            LinearConstraint(np.array([[c // unit for c in extra]], float), -np.inf, left // unit)
        )
    result = milp(
        objective, integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    if result.x is None:
        return None
    chosen = [pair for pair, value in zip(pairs, result.x, strict=True) if value > 0.5]
    return dict(chosen)
