"""How much dependent requests are worth, and intervals that know it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pytest_llmperf.load.records import Floats
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.dependence import VARIANCE_BOUND, design_effect, worth
from pytest_llmperf.measure.distribution import Distribution, RequestsInOrder
from pytest_llmperf.measure.interval import flow_interval
from pytest_llmperf.metrics import metric_key
from tests.unit.measure.logs import failed, result_of, streamed


def autoregressive(rows: int, n: int, phi: float, seed: int) -> Floats:
    """Rows of a stationary normal AR(1) series of unit variance: its design effect is (1 + phi) / (1 - phi)."""
    rng = np.random.default_rng(seed)
    x = np.empty((rows, n))
    x[:, 0] = rng.normal(size=rows)
    for i in range(1, n):
        x[:, i] = phi * x[:, i - 1] + math.sqrt(1 - phi**2) * rng.normal(size=rows)
    return x


def test_the_variance_bound_is_that_of_chi_square() -> None:
    assert pytest.approx(19 / stats.chi2.ppf(0.10, 19), rel=1e-7) == VARIANCE_BOUND


@pytest.mark.parametrize("phi", [0.0, 0.8, 0.95])
def test_the_design_effect_of_an_autoregressive_series(phi: float) -> None:
    found = [design_effect(row) for row in autoregressive(200, 8000, phi, seed=3)]
    truth = (1 + phi) / (1 - phi)
    # 20 blocks know a variance to a third; their median is near the truth, and never below 1.
    assert truth * 0.8 <= np.median(found) <= truth * 1.45
    assert min(found) >= 1.0


def test_what_never_varies_and_what_is_short_is_taken_as_it_is() -> None:
    assert design_effect(np.full(1000, 2.5)) == 1.0
    assert design_effect(np.arange(19.0)) == 1.0
    assert worth(np.arange(199.0)) == 199.0
    assert worth(np.arange(400.0)) < 20.0


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_interval_of_a_quantile_covers_it_also_where_neighbours_are_alike(quantile: float) -> None:
    truth, aware, naive = math.exp(stats.norm.ppf(quantile)), 0, 0
    series = np.exp(autoregressive(300, 3000, 0.95, seed=4))
    for values in series:
        knowing = Distribution(values, in_order=RequestsInOrder(values)).estimate(metric_key("ttft", f"p{quantile * 100:g}"))
        ignorant = Distribution(values).estimate(metric_key("ttft", f"p{quantile * 100:g}"))
        aware += knowing.low <= truth <= knowing.high
        naive += ignorant.low <= truth <= ignorant.high
        assert knowing.value == ignorant.value
        assert knowing.samples == ignorant.samples == 3000
    assert naive / 300 < 0.7
    assert aware / 300 >= 0.9


def test_the_interval_of_an_error_rate_is_wide_where_failures_come_in_bursts() -> None:
    spread = [failed(i / 10) if i % 20 == 0 else streamed(i / 10, 0.1) for i in range(1000)]
    bursts = [failed(i / 10) if 300 <= i < 350 else streamed(i / 10, 0.1) for i in range(1000)]
    steady, bursty = (measure(result_of(asked, (0.0, 100.0)), price_per_hour=None) for asked in (spread, bursts))
    even, uneven = steady.scalars["error_rate"], bursty.scalars["error_rate"]
    assert even.value == uneven.value == 0.05
    assert even.samples == uneven.samples == 1000
    oracle = stats.binomtest(50, 1000).proportion_ci(0.95, method="exact")
    assert (even.low, even.high) == pytest.approx((oracle.low, oracle.high))
    assert uneven.low < 0.01
    assert uneven.high > 0.2


def test_goodput_and_itl_know_of_dependence_too() -> None:
    slow = [streamed(i / 10, 0.1, gap_s=0.2 if (i // 250) % 2 else 0.1, tokens=4) for i in range(1000)]
    mixed = [streamed(i / 10, 0.1, gap_s=0.2 if i % 2 else 0.1, tokens=4) for i in range(1000)]
    apart, together = (measure(result_of(asked, (0.0, 100.0)), price_per_hour=None) for asked in (mixed, slow))
    narrow, wide = apart.goodput({"tpot": 0.15}), together.goodput({"tpot": 0.15})
    assert narrow.value == wide.value == 0.5
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    p60 = metric_key("itl_p30")
    assert together.estimate(p60).high > apart.estimate(p60).high


def test_below_200_requests_an_interval_takes_them_for_independent() -> None:
    values = np.sort(np.random.default_rng(0).exponential(size=199))
    key = metric_key("ttft_p50")
    assert Distribution(values, in_order=RequestsInOrder(values)).estimate(key) == Distribution(values).estimate(key)


@pytest.mark.parametrize(("phi", "at_least"), [(0.0, 0.90), (0.8, 0.90), (0.95, 0.86)])
def test_a_median_of_400_requests_has_both_ends_however_much_they_depend_on_each_other(phi: float, at_least: float) -> None:
    rng, covered, runs = np.random.default_rng(3), 0, 300
    for _ in range(runs):
        # The stationary AR(1) process of unit variance.
        noise, x = rng.normal(size=400) * math.sqrt(1 - phi**2), rng.normal()
        path = [x := phi * x + step for step in noise]
        values = 0.01 * np.exp(0.3 * np.array(path))
        median = Distribution(values, in_order=RequestsInOrder(values)).estimate(metric_key("tpot_p50"))
        assert 0 < median.low < median.value < median.high < math.inf
        covered += median.low <= 0.01 <= median.high
    # 95 % nominal; at phi = .95 four hundred requests are worth ten, and twenty blocks do not see all of it.
    assert covered / runs >= at_least


def test_values_that_differ_by_rounding_only_have_an_interval() -> None:
    # As a difference of instants gives them: equal but for the last digits, which drift with the clock.
    values = (np.arange(400) * 0.1 + 0.010) - np.arange(400) * 0.1
    estimate = Distribution(values, in_order=RequestsInOrder(values)).estimate(metric_key("tpot_p50"))
    assert estimate.low == pytest.approx(0.010) == estimate.high


def test_a_throughput_has_students_interval_of_its_batch_means() -> None:
    blocks = 100 + 5 * np.tile([1.0, -1.0], 10)
    low, high = flow_interval(100.0, blocks)
    half = stats.t.ppf(0.975, 19) * blocks.std(ddof=1) / math.sqrt(20)
    # Alternating stretches are negatively correlated, which is not taken for knowledge.
    assert (low, high) == pytest.approx((100 - half, 100 + half))


def test_the_interval_of_a_throughput_covers_the_rate() -> None:
    rng, covered, runs = np.random.default_rng(2), 0, 150
    for _ in range(runs):
        arrivals = np.sort(rng.uniform(0, 20, rng.poisson(40 * 20)))
        metrics = measure(result_of([streamed(float(at), 0.01, 0.01) for at in arrivals], (0.0, 20.0)), price_per_hour=None)
        rate = metrics.scalars["request_rate"]
        covered += rate.low <= 40 <= rate.high
    # 95 % nominal; below 0.89 would be one in 1,000 at that.
    assert covered / runs >= 0.89


def test_a_short_window_and_a_trickle_have_no_interval_of_throughput() -> None:
    many = [streamed(i / 100, 0.01, 0.01) for i in range(480)]
    short = measure(result_of(many, (0.0, 4.9)), price_per_hour=3.6).scalars
    few = measure(result_of(many[:40], (0.0, 20.0)), price_per_hour=3.6).scalars
    long = measure(result_of(many, (0.0, 5.0)), price_per_hour=3.6).scalars
    for scalars in (short, few):
        assert math.isnan(scalars["output_tokens_per_s"].low)
        assert math.isnan(scalars["cost_per_mtok"].high)
    assert long["output_tokens_per_s"].low < long["output_tokens_per_s"].value < long["output_tokens_per_s"].high
    price = long["cost_per_mtok"]
    assert price.low < price.value < price.high
    assert price.low == pytest.approx(3.6 / (long["output_tokens_per_s"].high * 3600) * 1e6)
