"""One width for each layer, of least total harm within linear limits: an integer program, solved exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence, Set

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Pair = tuple[str, int]  # a layer and its width


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a choice costs may not exceed ``most``; all are whole numbers.

    Attributes:
      costs: by layer and width.
      most: the limit.
      shared: layers and widths, and what is paid once if any of them is chosen.
    """

    costs: Mapping[str, Mapping[int, int]]
    most: int
    shared: Sequence[tuple[Set[Pair], int]] = ()

    def cost(self, bits: Mapping[str, int]) -> int:
        """What a choice costs."""
        once = sum(cost for pairs, cost in self.shared if pairs & bits.items())
        return once + sum(self.costs[layer][width] for layer, width in bits.items())


def solve(
    harm: Mapping[str, Mapping[int, float]], limits: Sequence[Limit]
) -> dict[str, int] | None:
    """The best choice, or None if no choice keeps all limits.

    Minimise ``sum x[l, b] harm[l, b]`` over ``x`` in {0, 1} with ``sum_b x[l, b] = 1`` for every layer
    and, for every limit, ``sum x[l, b] cost[l, b] + sum y[s] cost[s] <= most``, where ``y[s]`` is the
    largest ``x`` of what shares ``s``.

    Args:
      harm: by layer and width, not negative; adds up over layers.
      limits: costs by the same layers and widths.

    Returns:
      The width of every layer.
    """
    pairs = [(layer, bits) for layer, widths in harm.items() for bits in widths]
    if not pairs:
        return {} if all(limit.most >= 0 for limit in limits) else None
    shared = [sharing for limit in limits for sharing in limit.shared]
    one_each = np.array([[float(layer == name) for name, _ in pairs] for layer in harm])
    constraints = [LinearConstraint(_wider(one_each, len(shared)), 1.0, 1.0)]
    for index, (sharers, _) in enumerate(shared):
        is_one = np.array([float(pair in sharers) for pair in pairs])
        at_least = np.diag(is_one)[is_one > 0]  # y >= x of each
        for rows, sign in ((at_least, -1.0), (-is_one[np.newaxis], 1.0)):
            rows = _wider(rows, len(shared))
            rows[:, len(pairs) + index] = sign
            constraints.append(LinearConstraint(rows, -np.inf, 0.0))
    before = 0
    for limit in limits:
        # What differs between the widths of a layer, in the largest unit: small whole numbers.
        least = {layer: min(limit.costs[layer][b] for b in row) for layer, row in harm.items()}
        extra = [limit.costs[layer][bits] - least[layer] for layer, bits in pairs]
        once = [cost for _, cost in limit.shared]
        unit = math.gcd(*extra, *once) or 1
        left = (limit.most - sum(least.values())) // unit
        row = np.zeros((1, len(pairs) + len(shared)))
        row[0, : len(pairs)] = [cost // unit for cost in extra]
        start = len(pairs) + before
        row[0, start : start + len(once)] = [cost // unit for cost in once]
        constraints.append(LinearConstraint(row, -np.inf, left))
        before += len(once)
    objective = np.array([[harm[layer][bits] for layer, bits in pairs]])
    # HiGHS stops at an absolute gap of 1e-6, far below any difference that matters at this scale.
    objective = _wider(1e6 * objective / (objective.max() or 1.0), len(shared))
    while True:
        result = milp(
            objective[0], integrality=np.ones(objective.size), bounds=Bounds(0, 1),
            constraints=constraints, options={"mip_rel_gap": 0.0},
        )  # fmt: skip
        if result.x is None:
            return None
        chosen = result.x[: len(pairs)] > 0.5
        bits = dict(pair for pair, one in zip(pairs, chosen, strict=True) if one)
        if all(limit.cost(bits) <= limit.most for limit in limits):
            return bits
        # HiGHS keeps limits to about 1e-6 of their largest cost: all but this choice, then.
        again = _wider(chosen[np.newaxis].astype(float), len(shared))
        constraints.append(LinearConstraint(again, -np.inf, len(harm) - 1))


def _wider(rows: np.ndarray, columns: int) -> np.ndarray:
    """Rows with more columns, of zeros."""
    return np.pad(rows, ((0, 0), (0, columns)))
