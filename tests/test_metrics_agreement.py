"""Agreement of scores and subsets as formulas: held to SciPy, to sets, and to numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dprune.metrics.agreement import (
    DRAWN,
    EXACT,
    IdBits,
    Standard,
    associate,
    average_ranks,
    correlation,
    permutation_p,
    rank_agreements,
    rank_correlation,
)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(7)


def test_ranks_and_correlations_are_those_of_scipy_with_ties_and_infinities(draw) -> None:
    a, b = draw.integers(0, 9, 200).astype(np.float32), draw.normal(size=200)
    b[3] = np.inf
    assert (average_ranks(a) == stats.rankdata(a)).all()
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    exact = a.astype(np.float64)
    assert correlation(a, a**3) == pytest.approx(stats.pearsonr(exact, exact**3).statistic, abs=1e-12)
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
    assert math.isnan(rank_correlation(np.empty(0), np.empty(0)))


def test_scores_are_compared_over_the_samples_that_both_have(draw) -> None:
    scores = [draw.normal(size=400).astype(np.float32) for _ in range(3)]
    scores[1] += scores[0]
    scores[1][:50] = np.nan
    scores[2][30:90] = np.nan
    found = rank_agreements(scores)
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    for (one, other), agreement in found.items():
        both = ~np.isnan(scores[one] + scores[other])
        assert agreement.count == both.sum()
        assert agreement.value == pytest.approx(stats.spearmanr(scores[one][both], scores[other][both]).statistic)
    assert found[1, 2].count == 310


def test_the_interval_is_fishers_with_the_variance_of_bonett_and_wright(draw) -> None:
    a = draw.normal(size=103)
    found = rank_agreements([a, a + draw.normal(size=103)])[0, 1]
    deviation = math.sqrt((1 + found.value**2 / 2) / 100)
    assert math.atanh(found.high) - math.atanh(found.value) == pytest.approx(stats.norm.ppf(0.975) * deviation)
    assert math.atanh(found.value) - math.atanh(found.low) == pytest.approx(stats.norm.ppf(0.975) * deviation)
    assert found.error == pytest.approx((1 - found.value**2) * deviation)
    same = rank_agreements([a, 2 * a])[0, 1]
    assert (same.value, same.low, same.high, same.error) == (1, 1, 1, 0)


def test_the_interval_holds_the_true_correlation_as_often_as_it_says() -> None:
    """Of two normal scores with correlation r, Spearman's is 6/pi asin(r/2)."""
    draw, hits = np.random.default_rng(1), 0
    true = 6 / math.pi * math.asin(0.6 / 2)
    for _ in range(400):
        x, y = draw.normal(size=(2, 60))
        found = rank_agreements([x, 0.6 * x + 0.8 * y])[0, 1]
        hits += found.low < true < found.high
    assert 0.92 < hits / 400 < 0.98


def test_too_few_shared_samples_and_constants_say_nothing() -> None:
    one, other = np.arange(6.0), np.array([0, 1, 2, np.nan, np.nan, np.nan])
    assert rank_agreements([one, other, np.ones(6)]) == {}


def test_overlap_is_that_of_sets_whatever_the_largest_id(draw) -> None:
    a, b = (np.sort(draw.choice(n, k, replace=False)) for n, k in ((5000, 900), (300, 40)))
    shared = len(np.intersect1d(a, b))
    assert shared
    assert IdBits.of(a).shared(IdBits.of(b)) == IdBits.of(b).shared(IdBits.of(a)) == shared
    assert IdBits.of(a).overlap(IdBits.of(b)) == shared / 40
    assert IdBits.of(a).overlap(IdBits.of(a)) == 1
    empty = IdBits.of(np.empty(0, dtype=np.int64))
    assert empty.count == 0
    assert IdBits.of(a).overlap(empty) is None


def test_means_are_in_standard_deviations_of_what_was_scored() -> None:
    score = Standard.of(np.array([1, 3, np.nan, np.inf, 5], dtype=np.float32))
    assert (score.mean, score.deviation) == (3, pytest.approx(math.sqrt(8 / 3)))
    assert score.mean_of(np.array([0, 2, 3])) == pytest.approx(-2 / math.sqrt(8 / 3))
    assert score.mean_of(np.array([0, 1, 2, 3, 4])) == 0
    assert score.mean_of(np.array([2, 3])) is None
    assert Standard.of(np.ones(4)).mean_of(np.arange(2)) is None
    assert Standard.of(np.full(4, np.nan)).mean_of(np.arange(2)) is None


def test_few_points_have_an_exact_p(draw) -> None:
    x, y = draw.normal(size=(2, 6))
    wanted = stats.permutation_test((x,), lambda x: stats.pearsonr(x, y).statistic, permutation_type="pairings",
                                    n_resamples=np.inf)  # fmt: skip
    # SciPy doubles the smaller side, which is the same only where both are alike: count both instead.
    both = np.abs(wanted.null_distribution) >= abs(wanted.statistic) - 1e-9
    assert permutation_p(x, y) == pytest.approx(both.mean(), abs=1e-12)
    rising = np.arange(float(EXACT))
    assert permutation_p(rising, rising) == permutation_p(rising, -rising) == 2 / math.factorial(EXACT)


def test_more_points_have_a_p_by_drawing_that_is_never_zero(draw) -> None:
    x = np.arange(30.0)
    assert permutation_p(x, x) == 1 / (DRAWN + 1)
    y = x + draw.normal(0, 25, 30)
    assert permutation_p(x, y) == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.01)
    assert permutation_p(x, y) == permutation_p(x, y)


def test_association_takes_four_points_that_differ() -> None:
    found = associate([1, 2, 3, 4], [1, 4, 9, 16.5])
    assert found is not None
    assert (found.points, found.spearman, found.spearman_p) == (4, pytest.approx(1), pytest.approx(2 / 24))
    assert found.pearson == pytest.approx(stats.pearsonr([1, 2, 3, 4], [1, 4, 9, 16.5]).statistic)
    assert associate([1, 2, 3], [1, 2, 3]) is None
    assert associate([1, 1, 1, 1], [1, 2, 3, 4]) is None
