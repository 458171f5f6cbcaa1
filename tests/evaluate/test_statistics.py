"""Intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rewarm.evaluate.statistics import bootstrap, ratio_interval, ratio_of_sums, t_cdf, t_quantile


def test_quantiles_of_t_are_scipys():
    """Our own, so that numpy is all an evaluation needs."""
    for degrees in [*range(1, 40), 100, 999, 20_000]:
        for p in (0.9, 0.975, 0.9995):
            assert t_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-9)
        for t in (0.0, 0.3, 2.0, 9.0):
            assert t_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-10)


def test_the_jackknife_is_the_leave_one_out_formula():
    """Written out as a loop."""
    rng = np.random.default_rng(0)
    d, length = rng.normal(size=15), rng.integers(50, 900, 15).astype(float)
    values = [np.delete(d, i).sum() / np.delete(length, i).sum() for i in range(15)]
    se = np.sqrt(14 / 15 * sum((v - np.mean(values)) ** 2 for v in values))
    found = ratio_interval(d, length)
    half = stats.t.ppf(0.975, 14) * se
    assert found.value == pytest.approx(d.sum() / length.sum())
    assert (found.low, found.high, found.se) == pytest.approx((found.value - half, found.value + half, se))


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("documents", [20, 50])
def test_the_interval_covers_the_truth_19_times_in_20(documents: int, tails: str):
    """The promise on every report. Lengths vary as in real text and the change depends on them; 6,000 draws, so +- 0.3 points."""
    rng = np.random.default_rng(documents)
    draws = 6_000
    length = np.exp(rng.normal(6.5, 0.8, (draws, documents)))
    noise = rng.standard_t(3, (draws, documents)) if tails == "heavy" else rng.normal(size=(draws, documents))
    d = 0.02 * length + 0.1 * length * noise
    found = [ratio_interval(a, b) for a, b in zip(d, length)]
    covered = np.mean([one.low <= 0.02 <= one.high for one in found])
    assert 0.935 <= covered <= 0.965


def test_few_documents_give_no_interval():
    d, length = np.ones(9), np.full(9, 100.0)
    found = ratio_interval(d, length)
    assert (found.value, found.low, found.high) == (0.01, None, None)
    assert ratio_interval(np.ones(10), np.full(10, 100.0)).low == pytest.approx(0.01)


def test_the_bootstrap_draws_documents_for_all_columns_together():
    """With columns drawn apart, a constant ratio would get a width."""
    rng = np.random.default_rng(1)
    length = rng.integers(50, 900, 40).astype(float)
    assert bootstrap(ratio_of_sums, [0.3 * length, length], draws=500) == pytest.approx((0.3, 0.3))
    d = rng.normal(size=40) * length
    low, high = bootstrap(ratio_of_sums, [d, length])
    found = ratio_interval(d, length)
    assert high - low == pytest.approx(found.high - found.low, rel=0.25)
    assert bootstrap(ratio_of_sums, [d, length], seed=0) == bootstrap(ratio_of_sums, [d, length], seed=0)
