"""Order-statistic and proportion intervals, against scipy.stats and by how often they cover the truth."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from pytest_llmperf.measure.distribution import Distribution
from pytest_llmperf.measure.interval import mean_interval, proportion_interval, quantile_interval_ranks, quantile_rank
from pytest_llmperf.metrics import metric_key

QUANTILES = [0.05, 0.5, 0.9, 0.95, 0.99, 0.999]


@pytest.mark.parametrize(
    ("samples", "quantile", "rank"),
    [(100, 0.99, 99), (100, 0.07, 7), (101, 0.5, 51), (10, 0.95, 10), (1, 0.01, 1), (1000, 0.999, 999), (1000, 99.9 / 100, 999)],
)
def test_the_rank_is_the_inverted_empirical_cdf(samples: int, quantile: float, rank: int) -> None:
    assert quantile_rank(samples, quantile) == rank


@pytest.mark.parametrize("samples", [1, 7, 59, 100, 368, 1000, 31_234])
@pytest.mark.parametrize("quantile", QUANTILES)
def test_quantiles_are_those_of_scipy_and_numpy(samples: int, quantile: float) -> None:
    values = np.random.default_rng(samples).exponential(size=samples)
    estimate = Distribution(values).estimate(metric_key("ttft", f"p{quantile * 100:g}"))
    assert estimate.value == np.quantile(values, quantile, method="inverted_cdf")


@pytest.mark.parametrize("samples", [1, 7, 36, 59, 100, 368, 1000, 31_234])
@pytest.mark.parametrize("quantile", QUANTILES)
def test_the_interval_leaves_no_more_than_its_share_on_either_side(samples: int, quantile: float) -> None:
    low, high = quantile_interval_ranks(samples, quantile)
    below = stats.binom(samples, quantile)
    # The interval misses above when fewer than `low` samples lie below the quantile, and below when at least `high` do.
    assert below.cdf(low - 1) <= 0.025
    assert below.sf(high - 1) <= 0.025
    # One rank tighter would miss too often, so the interval is the tightest.
    assert below.cdf(low) > 0.025
    assert below.sf(high - 2) > 0.025


@pytest.mark.parametrize(("quantile", "fewest"), [(0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_the_samples_that_a_finite_upper_bound_takes(quantile: float, fewest: int) -> None:
    assert quantile_interval_ranks(fewest, quantile)[1] == fewest
    assert quantile_interval_ranks(fewest - 1, quantile)[1] == fewest  # one rank past the end
    estimate = Distribution(np.linspace(1, 2, fewest - 1)).estimate(metric_key("ttft", f"p{quantile * 100:g}"))
    assert estimate.high == math.inf
    assert estimate.low > 1


def test_the_lower_bound_of_a_latency_that_too_few_samples_bound_is_zero() -> None:
    estimate = Distribution(np.array([3.0, 4.0])).estimate(metric_key("ttft_p50"))
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 3.0, math.inf)


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_the_interval_covers_the_true_quantile_of_a_skewed_distribution(quantile: float) -> None:
    repeats, samples = 4000, 500
    values = np.sort(np.random.default_rng(7).lognormal(sigma=0.8, size=(repeats, samples)), axis=1)
    truth = stats.lognorm(s=0.8).ppf(quantile)
    low, high = quantile_interval_ranks(samples, quantile)
    covered = np.mean((values[:, low - 1] <= truth) & (truth <= values[:, high - 1]))
    # At least 95 %, and not far above: ranks are whole, so a little is given away. Monte-Carlo error 0.35 points (1 sd).
    assert 0.95 - 0.011 <= covered <= 0.985


def test_failures_widen_the_interval_to_infinity_before_they_reach_the_quantile() -> None:
    values = np.linspace(0.1, 1.0, 1000)
    clean = Distribution(values).estimate(metric_key("ttft_p99"))
    some = Distribution(values, failures=6).estimate(metric_key("ttft_p99"))
    many = Distribution(values, failures=30).estimate(metric_key("ttft_p99"))
    assert math.isfinite(clean.high)
    assert clean.value < some.value < math.inf
    assert some.high == math.inf
    assert many.value == math.inf


def test_an_interval_of_clustered_values_is_that_of_the_clusters() -> None:
    clusters, size = 400, 50
    values = np.repeat(np.random.default_rng(3).exponential(size=clusters), size)
    one_each = Distribution(values[::size]).estimate(metric_key("ttft_p95"))
    together = Distribution(values, independent=clusters).estimate(metric_key("itl_p95"))
    taken_for_independent = Distribution(values).estimate(metric_key("ttft_p95"))
    assert together == one_each
    assert taken_for_independent.high - taken_for_independent.low < (together.high - together.low) / 2


def test_clustered_exceedances_are_counted_in_clusters() -> None:
    gaps = Distribution(np.concatenate([np.full(900, 0.01), np.full(100, 1.0)]), independent=50)
    assert gaps.exceedances(0.5) == 5
    assert gaps.exceedances(2.0) == 0


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 1000), (1, 1000), (3, 7), (7, 7), (50, 100_000)])
def test_proportions_have_clopper_and_pearsons_interval(hits: int, trials: int) -> None:
    oracle = stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert proportion_interval(hits, trials) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_no_trials_have_no_interval() -> None:
    assert all(map(math.isnan, proportion_interval(0, 0)))


def test_means_have_students_interval() -> None:
    values = np.random.default_rng(1).exponential(size=30)
    oracle = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values.mean(), values.std(ddof=1), 30) == pytest.approx(oracle)
    estimate = Distribution(values).estimate(metric_key("ttft_mean"))
    assert (estimate.low, estimate.high) == pytest.approx(oracle)
    assert math.isnan(Distribution(values[:1]).estimate(metric_key("ttft_mean")).low)


def test_ranks_for_a_million_samples_cost_nothing() -> None:
    quantile_interval_ranks(10, 0.5)  # imports scipy
    began = time.process_time()
    low, high = quantile_interval_ranks(1_000_000, 0.99)
    assert time.process_time() - began < 0.1
    assert (low, high) == (stats.binom.ppf(0.025, 1_000_000, 0.99), stats.binom.ppf(0.975, 1_000_000, 0.99) + 1)
