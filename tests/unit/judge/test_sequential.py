"""The sequential test: its arithmetic against scipy and a reference, and what it says of independent and dependent requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from pytest_llmperf.judge.sequential import (
    GROSS,
    GROSS_ERGODIC,
    design_effect,
    first_gross,
    is_gross,
    log_e_fail,
    log_e_pass,
    rule,
)
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.load.records import Floats

QUIET: Floats = np.full(20_000, 3.0)
"""The in-flight count of a server that nobody crowds."""
SHARES = [0.5, 0.2, 0.05, 0.01, 0.001, 0.9]


def correlated(n: int, phi: float, seed: int) -> Floats:
    """A normal AR(1) series whose design effect is (1 + phi) / (1 - phi)."""
    noise = np.random.default_rng(seed).normal(size=n)
    x = np.empty(n)
    x[0] = noise[0] / math.sqrt(1 - phi**2)
    for i in range(1, n):
        x[i] = phi * x[i - 1] + noise[i]
    return x


@pytest.mark.parametrize("p0", SHARES)
@pytest.mark.parametrize(
    ("exceeding", "n"), [(0.0, 1.0), (0.0, 329.0), (3.7, 120.4), (41.0, 120.0), (57.3, 57.3), (900.0, 9000.0)]
)
def test_e_values_are_the_ratio_of_incomplete_beta_functions(p0: float, exceeding: float, n: float) -> None:
    a, b = 20 * p0, 20 * (1 - p0)
    share = special.betainc(a + exceeding, b + n - exceeding, p0)
    expected = special.betaln(a + exceeding, b + n - exceeding) + math.log(share) if share > 1e-200 else math.nan
    expected -= special.betaln(a, b) + math.log(special.betainc(a, b, p0))
    expected -= exceeding * math.log(p0) + (n - exceeding) * math.log1p(-p0)
    found = log_e_pass(exceeding, n, p0)
    assert math.isfinite(found)
    if share > 1e-200:
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert log_e_fail(n - exceeding, n, 1 - p0) == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_e_values_agree_with_the_reference(reference: ModuleType) -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        n, p0 = rng.uniform(1, 20_000), float(rng.choice(SHARES))
        exceeding = n * rng.uniform() ** 3
        assert log_e_pass(exceeding, n, p0) == pytest.approx(reference.log_e_pass(exceeding, n, p0), rel=1e-9, abs=1e-9)
        assert log_e_fail(exceeding, n, p0) == pytest.approx(reference.log_e_fail(exceeding, n, p0), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.97])
@pytest.mark.parametrize("n", [217, 2500, 10_000])
def test_design_effects_agree_with_the_reference(reference: ModuleType, phi: float, n: int) -> None:
    x = correlated(n, phi, seed=n)
    assert design_effect(x) == pytest.approx(reference.deff_mean(x.tolist()), rel=1e-9)


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.1, 1.5])
@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_rulings_agree_with_the_reference(reference: ModuleType, quantile: float, ratio: float, phi: float) -> None:
    values = np.exp(0.5 * correlated(6000, phi, seed=11) * math.sqrt(1 - phi**2))
    limit = float(np.exp(0.5 * special.ndtri(quantile)) / ratio)
    in_flight = np.round(10 + 3 * correlated(6000, 0.5, seed=12))
    for n in (250, 1000, 2500, 6000):
        ours = rule((values[:n] > limit).astype(np.float64), values[:n], in_flight[:n], 1 - quantile)
        theirs, why, _ = reference.sla_verdict(values[:n].tolist(), in_flight[:n].tolist(), limit, quantile)
        assert (ours.outcome or "CONTINUE") == theirs
        assert (ours.rule == "e-value") == (why == "e-value")


@pytest.mark.parametrize(("p0", "fewest"), [(0.05, 82), (0.01, 329), (0.001, 3028)])
def test_the_fewest_requests_without_an_exceedance_that_pass(p0: float, fewest: int) -> None:
    assert log_e_pass(0, fewest, p0) >= math.log(20)
    assert log_e_pass(0, fewest - 1, p0) < math.log(20)


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 200), st.floats(0, 2000), st.floats(0, 1), st.sampled_from(SHARES), st.sampled_from([log_e_pass, log_e_fail]))
def test_a_request_that_exceeds_in_part_is_worth_no_more_than_a_coin_of_that_share(
    exceeding: float, kept: float, part: float, p0: float, log_e: Callable[[float, float, float], float]
) -> None:
    # What keeps an e-value's expectation at 1 or below for fractions, too: it is convex in what one request adds.
    n = exceeding + kept + 1
    found = log_e(exceeding + part, n, p0)
    over, under = log_e(exceeding + 1, n, p0), log_e(exceeding, n, p0)
    assert np.log(part * np.exp(min(over - found, 700)) + (1 - part) * np.exp(min(under - found, 700))) >= -1e-6


def test_independent_requests_pass_and_fail_when_they_are_far_from_the_limit() -> None:
    values = np.random.default_rng(1).exponential(size=4000)
    median = (values > 2 * math.log(2)).astype(np.float64)
    passes = rule(median, values, QUIET[:4000], 0.5)
    assert (passes.outcome, passes.rule) == (Outcome.PASS, "e-value")
    assert passes.evidence is not None
    assert passes.evidence.share == pytest.approx(0.25, abs=0.03)
    assert passes.evidence.effective <= 4000 / 1.63
    late = (values > 0.5 * math.log(2)).astype(np.float64)
    assert rule(late, values, QUIET[:4000], 0.5).outcome is Outcome.FAIL


def test_the_queues_memory_forbids_a_pass_that_the_requests_alone_would_give() -> None:
    values = np.random.default_rng(1).exponential(size=4000)
    exceeds = np.zeros(4000)
    crowded = correlated(4000, 0.999, seed=2)
    assert rule(exceeds, values, QUIET[:4000], 0.01).outcome is Outcome.PASS
    assert rule(exceeds, values, crowded, 0.01).outcome is None


def test_peeking_at_dependent_requests_at_the_limit_seldom_decides() -> None:
    limit, decided = special.ndtri(0.95), 0
    for seed in range(60):
        values = correlated(4000, 0.9, seed=seed) * math.sqrt(1 - 0.9**2)
        exceeds = (values > limit).astype(np.float64)
        decided += any(rule(exceeds[:n], values[:n], values[:n], 0.05).outcome is not None for n in range(250, 4001, 250))
    # 5 % each way at most; beyond 12 of 60 a rule of 10 % would be one in 90 runs.
    assert decided <= 12


def test_twenty_times_too_many_fail_at_once_and_whatever_the_dependence() -> None:
    exceeds = np.zeros(40)
    exceeds[10:20] = 1.0
    assert first_gross(exceeds, 0.01) == 20
    ruling = rule(exceeds[:20], exceeds[:20], QUIET[:20], 0.01)
    assert (ruling.outcome, ruling.rule) == (Outcome.FAIL, GROSS_ERGODIC)
    assert rule(exceeds[:19], exceeds[:19], QUIET[:19], 0.01).outcome is None
    assert first_gross(np.zeros(1000), 0.01) is None
    assert first_gross(np.ones(1000), 1 - 0.95) is None
    assert first_gross(np.ones(1000), 0.0) is None


def test_the_ergodic_rule_seldom_fails_a_server_at_its_limit_whose_exceedances_come_in_bursts() -> None:
    rng, failures = np.random.default_rng(8), 0
    runs, n, burst = 2000, 600, 60
    for _ in range(runs):
        # A stationary renewal of bursts: 1 % of the time is burst, and any request may be the first.
        starts = np.flatnonzero(rng.uniform(size=n + burst) < 0.01 / burst)
        late = np.zeros(n + burst)
        for start in starts:
            late[start : start + burst] = 1.0
        failures += first_gross(late[burst:], 0.01) is not None
    # The theorem says 5 % at most. Monte-Carlo error 0.5 points.
    assert failures / runs <= 0.065


def test_a_gross_miss_fails_a_server_whose_latency_drifts_without_end() -> None:
    values = np.linspace(1.0, 3.0, 2400)
    exceeds = (values > 1.1).astype(np.float64)
    assert is_gross(exceeds, 0.05)
    assert not is_gross(exceeds[:1999], 0.05)
    assert rule(exceeds, values, np.arange(2400.0), 0.05).rule == GROSS


def test_nothing_is_said_of_nothing() -> None:
    ruling = rule(np.empty(0), np.empty(0), np.empty(0), 0.01)
    assert (ruling.outcome, ruling.evidence) == (None, None)


def test_few_requests_have_no_design_effect() -> None:
    evidence = rule(np.zeros(150), np.zeros(150), QUIET[:150], 0.05).evidence
    assert evidence is not None
    assert math.isnan(evidence.design_effect)
    assert math.isnan(evidence.effective)


def test_requests_that_weigh_more_than_one_count_for_their_variance() -> None:
    weights = np.tile([0.0, 0.0, 0.0, 2.0], 1000)
    evidence = rule(weights, weights, QUIET[:4000], 0.5).evidence
    assert evidence is not None
    assert evidence.share == 0.5
    # The variance is 0.75 where a coin's is 0.25.
    assert evidence.design_effect == pytest.approx(3.0)
