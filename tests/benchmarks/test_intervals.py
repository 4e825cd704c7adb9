"""Bootstrap intervals of paired drops, against cases that can be worked out."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.intervals import Agreement, bootstrap_interval


def test_agreement_is_counted() -> None:
    floats = np.array([True, True, True, False, False, True])
    quantized = np.array([True, False, False, True, False, True])
    agreement = Agreement.of(floats, quantized)
    assert agreement == Agreement(both=2, float_only=2, quantized_only=1, neither=1)
    assert agreement.drop == pytest.approx(floats.mean() - quantized.mean())


def test_interval_of_a_binomial_drop() -> None:
    # Resampled, the drop of one in four is binomial, B(4, 1/4) / 4. Its distribution function is
    # 0.316 at 0, 0.949 at 2 and 0.996 at 3, so that 2.5 % and 97.5 % are reached at 0 and 3.
    assert bootstrap_interval(Agreement(3, 1, 0, 0)) == (0.0, 0.75)


def test_interval_of_many_samples_is_the_normal_one() -> None:
    agreement = Agreement(both=8000, float_only=300, quantized_only=200, neither=1500)
    low, high = bootstrap_interval(agreement)
    count, drop = 10_000, 0.01
    # The variance of a difference of two counts of a multinomial.
    deviation = np.sqrt((0.03 + 0.02 - drop**2) / count)
    np.testing.assert_allclose([low, high], drop + 1.96 * deviation * np.array([-1, 1]), atol=1e-4)
    # Were the samples not paired, it would be wider.
    unpaired = np.sqrt((0.83 * 0.17 + 0.82 * 0.18) / count)
    assert high - low < 2 * 1.96 * unpaired / 2


def test_no_difference_has_no_width() -> None:
    assert bootstrap_interval(Agreement(70, 0, 0, 30)) == (0.0, 0.0)
