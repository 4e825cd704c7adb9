"""Confidence in a drop of accuracy that was measured on the same samples twice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 20_000
SHARE = 0.95


class Agreement(NamedTuple):
    """How many test samples which of two networks gets right.

    All that a paired comparison needs: the samples of one group are alike to it.
    """

    both: int
    float_only: int
    quantized_only: int
    neither: int

    @classmethod
    def of(cls, float_right: np.ndarray, quantized_right: np.ndarray) -> Agreement:
        """Counted from two bool arrays (samples,)."""
        return cls(
            int((float_right & quantized_right).sum()),
            int((float_right & ~quantized_right).sum()),
            int((~float_right & quantized_right).sum()),
            int((~float_right & ~quantized_right).sum()),
        )

    @property
    def drop(self) -> float:
        """Accuracy lost from float to quantized, a share of 1."""
        return (self.float_only - self.quantized_only) / sum(self)


def bootstrap_interval(
    agreement: Agreement, share: float = SHARE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the drop over resampled test sets, shares of 1.

    To draw as many samples with replacement is to draw the four counts from a multinomial distribution.

    Args:
      agreement: of the test set.
      share: of the resampled drops that lie within.
      resamples: how many test sets are drawn.
      seed: of the draws.
    """
    count = sum(agreement)
    shares = np.asarray(agreement) / count
    drawn = np.random.default_rng(seed).multinomial(count, shares, resamples)
    drops = (drawn[:, 1] - drawn[:, 2]) / count
    # Quantiles that were drawn, not points between them: drops are multiples of 1 / count.
    low, high = np.quantile(drops, [(1 - share) / 2, (1 + share) / 2], method="inverted_cdf")
    return float(low), float(high)
