"""The search: sensitivity once, then as many budgets as are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

from keras_lowbit._keras import keras
from keras_lowbit.accounting import cost_of
from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph
from keras_lowbit.preprocess.preprocess import preprocess
from keras_lowbit.quantizers.placement import insert_requantization, place
from keras_lowbit.search.budget import Budget, BudgetError
from keras_lowbit.search.choice import candidates, with_bits
from keras_lowbit.search.file_sizes import FileSizes
from keras_lowbit.search.sensitivity import measure
from keras_lowbit.search.solver import Limit, Pair, solve

ROUNDS = 16  # most choices that are looked at for one budget, and most ways to a smaller arena

Bits = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Widths of all kernels and what they cost.

    Attributes:
      bits: of the kernel, by layer.
      config: the configuration that quantizes so.
      harm: the predicted squared error of the outputs, relative: single layers' effects, added up.
      average_weight_bits: over all kernels.
      bops: bit operations of an inference.
      flash: bytes of the file; None where only other limits were asked for.
    """

    bits: dict[str, int]
    config: PTQConfig
    harm: float
    average_weight_bits: float
    bops: int
    flash: int | None


class BitSearch:
    """Chooses the bits of every kernel that the configuration leaves free.

    Args:
      source: the graph as read.
      inputs: calibration samples, float32 (samples, ...), by input node.
      config: everything but the widths of the free kernels.
      candidate_bits: what those may get.
      verbose: 0 silent, 1 a progress bar, 2 one line.

    Raises:
      ValueError: see :func:`candidates`.
    """

    def __init__(
        self,
        source: Graph,
        inputs: Mapping[str, np.ndarray],
        config: PTQConfig,
        candidate_bits: Any,
        verbose: int = 0,
    ) -> None:
        self.graph = insert_requantization(preprocess(source, config)[0], config)
        self.config = config
        choices = candidates(self.graph, config, candidate_bits)
        if verbose:
            sys.stdout.write("Sensitivity of the layers\n")
        bar = keras.utils.Progbar(len(choices), verbose=verbose, unit_name="layer")
        self.widths = measure(
            self.graph, inputs, choices, config,
            lambda index: bar.update(index + 1) if verbose else None,
        )  # fmt: skip
        self.sizes = FileSizes(self.graph, config, self.widths)
        self._flash: dict[tuple[int, ...], int] = {}
        self._prediction: Limit | None = None
        self._unpacked = 0  # bytes of the arena
        self._alone: dict[tuple[str, int], int] = {}

    def choice(self, bits: Bits, with_flash: bool = True) -> Choice:
        """What a choice costs."""
        free = {name: b for name, b in bits.items() if len(self.widths[name]) > 1}
        config = with_bits(self.config, free)
        return Choice(
            dict(bits), config, self._harm(bits),
            sum(self._weights(name) * b for name, b in bits.items()) / sum(map(self._weights, bits)),
            cost_of(self.graph, place(self.graph, config)).bops,
            self.flash(bits) if with_flash else None,
        )  # fmt: skip

    def flash(self, bits: Bits) -> int:
        """Bytes of the file of a choice, measured once."""
        key = tuple(bits.values())
        if key not in self._flash:
            self._flash[key] = self.sizes.flash(bits)
        return self._flash[key]

    def within(self, budget: Budget) -> Choice:
        """The choice of least harm within a budget.

        The arena is no sum over layers: it is measured for the choice, and while it is too large, the
        layers that are too large by themselves may not have these bits; where none is, the one that takes
        most of it when packed, or, if the other limits then cannot be kept, the next one.

        Raises:
          BudgetError: no choice was found that keeps the budget; the message says the least there was.
        """
        return self._within(budget, frozenset(), iter(range(ROUNDS)))

    def _within(self, budget: Budget, forbidden: Set[Pair], retries: Iterator[int]) -> Choice:
        most_arena = budget.limits().get("arena", math.inf)
        bits = self._best(budget, forbidden)
        arena = 0 if budget.arena is None else self.sizes.arena(bits)
        if arena <= most_arena:
            return self.choice(bits, budget.flash is not None)
        unpacked = self._unpacked = self._unpacked or self.sizes.arena(bits, packed=())
        alone = {name: self._arena_alone(name, bits) for name in self.sizes.containers(bits)}
        if not alone or unpacked > most_arena:
            raise BudgetError(
                "The arena is too small even with all weights left in flash. "
                f"Received: arena={budget.arena}; the smallest that can be reached is {unpacked}"
            )
        too_large = {(n, bits[n]) for n, size in alone.items() if size > most_arena}
        if too_large:
            return self._within(budget, forbidden | too_large, retries)
        first, *others = sorted(alone, key=alone.__getitem__, reverse=True)
        try:
            return self._within(budget, forbidden | {(first, bits[first])}, retries)
        except BudgetError:
            for name, _ in zip(others, retries, strict=False):
                with contextlib.suppress(BudgetError):
                    return self._within(budget, forbidden | {(name, bits[name])}, retries)
            raise

    def _best(self, budget: Budget, forbidden: Set[Pair]) -> dict[str, int]:
        """The choice of least harm within all limits but the arena's.

        Sums are kept exactly. Bytes of files are predicted, measured and predicted better, up to 16 times:
        the choice fits, but a better one may be missed.
        """
        harm = {
            name: {b: width.harm for b, width in widths.items() if (name, b) not in forbidden}
            for name, widths in self.widths.items()
        }
        least = {name: min(widths, default=0) for name, widths in harm.items()}
        stuck = [name for name, bits in least.items() if not bits]
        if stuck:
            raise BudgetError(
                "The arena is too small for these layers at any of their bits; with 8 bits their weights "
                f"stay in flash. Received: arena={budget.arena}, layers {stuck}"
            )
        self._check_reachable(budget, least, forbidden)
        limits = self._sums(budget, least)
        bits = solve(harm, limits)
        if bits is None:
            raise RuntimeError(f"The solver found no choice where {least} is one.")
        most = math.floor(budget.limits().get("flash", 0))
        if not most or self.flash(bits) <= most:
            return bits
        if self._prediction is None:
            self._prediction = self.sizes.prediction()
        sizes = self._prediction
        all_shared = sum(cost for _, cost in sizes.shared)
        best, margin = least, 0
        for _ in range(ROUNDS):
            predicted = dataclasses.replace(sizes, most=sizes.most + most - margin)
            bits = solve(harm, [*limits, predicted])
            if bits is None or self._harm(bits) >= self._harm(best):
                # Too much may have been expected of what is shared: expect less of it.
                margin -= (margin + all_shared) // 2
                continue
            size = self.flash(bits)
            if size <= most:
                best = bits
            # No choice comes again, and the next one is expected to be mispredicted as this one was.
            again = {n: {b: int(b == bits[n]) for b in row} for n, row in self.widths.items()}
            limits.append(Limit(again, len(bits) - 1))
            margin = size + sizes.most - sizes.cost(bits)
        return best

    def _check_reachable(self, budget: Budget, least: Bits, forbidden: Set[Pair]) -> None:
        """Refuse what even the fewest bits do not keep."""
        cheapest = self.choice(least, budget.flash is not None)
        for name, limit in budget.limits().items():
            reached = getattr(cheapest, name, 0)
            if reached > limit:
                least_of = "was tried for the arena's sake" if forbidden else "can be reached"
                raise BudgetError(
                    f"The budget cannot be kept. The smallest `{name}` that {least_of} is {reached}, "
                    f"with bits {least}; raise the limit, or allow fewer bits. "
                    f"Received: {budget.limits()}"
                )

    def _sums(self, budget: Budget, least: Bits) -> list[Limit]:
        """The limits that are sums over layers, as what each layer adds to the fewest bits."""
        limits = []
        if budget.average_weight_bits is not None:
            # What was divided may come back a little smaller.
            most = math.floor(budget.average_weight_bits * sum(map(self._weights, least)) + 1e-6)
            costs = {n: {b: self._weights(n) * b for b in row} for n, row in self.widths.items()}
            limits.append(Limit(costs, most))
        if budget.bops is not None:
            start = self.choice(least, False).bops
            costs = {
                n: {b: self.choice({**least, n: b}, False).bops - start for b in row}
                for n, row in self.widths.items()
            }
            limits.append(Limit(costs, math.floor(budget.bops) - start))
        return limits

    def _arena_alone(self, name: str, bits: Bits) -> int:
        """Bytes of the arena if no other layer were packed."""
        key = (name, bits[name])
        if key not in self._alone:
            self._alone[key] = self.sizes.arena(bits, packed=(name,))
        return self._alone[key]

    def _harm(self, bits: Bits) -> float:
        return sum(self.widths[name][b].harm for name, b in bits.items())

    def _weights(self, name: str) -> int:
        return self.graph[name].weights["kernel"].size
