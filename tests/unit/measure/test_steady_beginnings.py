"""What MSER cuts is warm-up only where a cold start explains it: a bad stretch in the middle of a run is part of what it was."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_llmperf.load.records import Floats
from pytest_llmperf.measure.observations import Observations
from pytest_llmperf.measure.run import Steadiness
from pytest_llmperf.measure.steady import extra_warmup, one_settling, settled_after

RATE = 10.0
SEEDS = range(10)


def lengthened(tpot: Floats) -> Steadiness:
    """What is said of ten requests a second with these times per output token."""
    n = len(tpot)
    every = np.ones(n, np.bool_)
    scheduled_s = np.arange(n) / RATE
    return extra_warmup(Observations(n / RATE, scheduled_s, every, every, ~every, np.zeros(n), {"tpot": tpot}), 0.0)


def noise(n: int, seed: int, sigma: float = 0.1) -> Floats:
    """TPOT around 20 ms."""
    tpot: Floats = 0.02 * np.exp(sigma * np.random.default_rng(seed).normal(size=n))
    return tpot


def during(n: int, first: int, end: int, factor: float) -> Floats:
    """``factor`` for the requests from ``first`` to before ``end``, 1 for the others."""
    at = np.arange(n)
    return np.where((at >= first) & (at < end), factor, 1.0)


INCIDENTS = [
    (600, 200, 260, 2.0),
    (600, 200, 240, 3.0),
    (600, 30, 60, 2.0),
    (600, 30, 60, 3.0),
    (600, 25, 250, 1.5),
    (1000, 100, 200, 1.3),
    (1000, 50, 450, 2.0),
    (1000, 200, 300, 0.5),
    (6000, 1800, 2700, 1.5),
    (6000, 30, 2400, 2.0),
    (10_000, 3000, 4700, 2.0),
    (10_000, 4500, 5400, 2.0),
]
"""Requests, the first of the incident, the first after it, and by how much TPOT is longer meanwhile."""


@pytest.mark.parametrize(("n", "first", "end", "factor"), INCIDENTS)
def test_an_incident_cuts_nothing_and_is_no_warming_up(n: int, first: int, end: int, factor: float) -> None:
    for seed in SEEDS:
        tpot = noise(n, seed) * during(n, first, end, factor)
        assert lengthened(tpot) == Steadiness(), seed


@pytest.mark.parametrize(("n", "first", "end", "factor"), [incident for incident in INCIDENTS if incident[1] >= 100])
def test_a_cold_start_before_an_incident_is_cut_without_it(n: int, first: int, end: int, factor: float) -> None:
    cold = first // 3
    for seed in SEEDS:
        tpot = noise(n, seed) * during(n, first, end, factor) * during(n, 0, cold, 3.0)
        found = lengthened(tpot)
        assert found.unstable == ""
        assert found.extra_warmup_s * RATE <= cold + 10, seed
    assert lengthened(noise(n, 0) * during(n, first, end, factor)) == Steadiness()


@pytest.mark.parametrize("first", [100, 200, 300])
def test_a_good_beginning_is_not_cut_with_a_decline_that_looks_like_a_cold_start(first: int) -> None:
    for seed in SEEDS:
        restart = np.where(np.arange(1000) < first, 1.0, 1 + 4 * np.exp(-(np.arange(1000) - first) / 40))
        assert lengthened(noise(1000, seed) * restart) == Steadiness(), seed


def settling(n: int, tau: float, size: float = 4.0) -> Floats:
    """From ``1 + size`` towards 1 in the manner of a server that gets warm."""
    return 1 + size * np.exp(-np.arange(n) / tau)


BEGINNINGS = {
    "tau 10": settling(1000, 10),
    "tau 30": settling(1000, 30),
    "tau 80": settling(1000, 80),
    "tau 300": settling(10_000, 300),
    "step of 12": during(1000, 0, 12, 4.0),
    "step of 150": during(1000, 0, 150, 2.0),
    "step of 4000": during(10_000, 0, 4000, 1.5),
    "linear": np.interp(np.arange(1000), [0, 200], [3.0, 1.0]),
    "a batch that fills": settling(1000, 30, -0.6),
    "a few fast ones, then cold": during(1000, 8, 120, 2.0),
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_beginning_that_settles_is_cut_where_mser_cuts_it(beginning: Floats) -> None:
    shorter = 0
    for seed in SEEDS:
        tpot = noise(len(beginning), seed) * beginning
        cut, never = settled_after(tpot)
        assert not never
        found = lengthened(tpot)
        assert found.unstable == ""
        assert found.extra_warmup_s > 0, seed
        # The last of a slow settling is lost in the noise, and may be kept: TPOT was within 10 % before.
        shorter += found.extra_warmup_s * RATE < cut - 0.5
        assert np.abs(beginning[round(found.extra_warmup_s * RATE) :] - 1).max() < 0.2
    assert shorter <= len(SEEDS) // 2


def test_one_settling_ends_where_tpot_first_came_back() -> None:
    cold_then_bad = during(1000, 0, 60, 2.0) * during(1000, 200, 300, 3.0)
    # Stretches of 25: of the third, which holds request 60, most are settled.
    assert one_settling(cold_then_bad, 300) == 75
    assert one_settling(during(1000, 0, 300, 2.0), 300) == 300
    assert one_settling(during(1000, 20, 300, 2.0), 300) == 0
    # From slow at once to fast: that is no settling either.
    assert one_settling(during(1000, 0, 100, 2.0) * during(1000, 100, 125, 0.5), 125) == 100


def test_no_more_is_cut_than_may_be() -> None:
    tpot = noise(1000, 0) * during(1000, 0, 100, 3.0)
    assert settled_after(tpot) == (100, False)
    assert settled_after(tpot, 60) == (60, False)
    assert settled_after(tpot, 0) == (0, False)
    with_gaps = np.insert(tpot, [0, 20], [np.nan, 0.0])
    assert settled_after(with_gaps, 62) == (62, False)
