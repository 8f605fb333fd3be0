"""Arrivals follow a rate that changes: against its integral, done by many small steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.experiment.stages import EVEN, RateStages, Stage
from pytest_llmperf.load.arrivals import renewals_before
from pytest_llmperf.load.intensity import intensity
from pytest_llmperf.load.records import Floats

STAIRS = RateStages(tuple(Stage(30.0, rate, rate) for rate in (0.5, 1.0, 1.5, 2.0)))
HILL = RateStages((Stage(100.0, 0.0, 40.0), Stage(50.0, 40.0, 40.0), Stage(20.0, 0.0, 0.0), Stage(100.0, 40.0, 0.0)))

parts = st.lists(
    st.builds(Stage, st.floats(0.1, 50), st.sampled_from([0.0, 0.3, 2.0, 70.0]), st.sampled_from([0.0, 0.7, 2.0, 70.0])),
    min_size=1,
    max_size=5,
).filter(lambda stages: not all(stage.is_empty for stage in stages))


def rate_at(profile: RateStages, at_s: Floats) -> Floats:
    """The rate at instants within the stages, straight from their definition."""
    rates = np.zeros(len(at_s))
    begin_s = 0.0
    for stage in profile.stages:
        inside = (at_s >= begin_s) & (at_s < begin_s + stage.duration_s)
        share = (at_s[inside] - begin_s) / stage.duration_s
        rates[inside] = stage.start + share * (stage.end - stage.start)
        begin_s += stage.duration_s
    return rates


def stepped(profile: RateStages, until_s: float, steps: int = 200_000) -> float:
    """The integral of the rate."""
    middles = (np.arange(steps) + 0.5) * until_s / steps
    return float(rate_at(profile, middles).sum() * until_s / steps)


def arrivals(profile: RateStages, duration_s: float, seed: int = 0) -> Floats:
    over_time = intensity(profile)
    units = renewals_before(over_time.expected(duration_s), profile.burstiness, np.random.default_rng(seed))
    return over_time.times(units)


@settings(deadline=None, max_examples=60)
@given(parts, st.floats(0.01, 1.0))
def test_what_is_expected_is_the_integral_of_the_rate(stages: list[Stage], share: float) -> None:
    profile = RateStages(tuple(stages))
    until_s = share * profile.length_s
    # A step may stand on a jump of 70/s: at most five of them.
    slack = 5 * 70 * until_s / 200_000 + 1e-6
    assert intensity(profile).expected(until_s) == pytest.approx(stepped(profile, until_s), rel=1e-6, abs=slack)


@settings(deadline=None, max_examples=100)
@given(parts, st.booleans(), st.integers(0, 2**32))
def test_times_are_the_inverse_of_what_is_expected(stages: list[Stage], repeat: bool, seed: int) -> None:
    profile = RateStages(tuple(stages), repeat=repeat)
    over_time = intensity(profile)
    length_s = profile.length_s * (3 if repeat else 1)
    units = np.sort(np.random.default_rng(seed).uniform(0, over_time.expected(length_s), 200))
    times = over_time.times(units)
    assert np.all(np.diff(times) >= 0)
    assert np.all((times >= 0) & (times <= length_s * (1 + 1e-12)))
    # Where the rate is next to nothing, a rounding error of the count is much time: so it is the counts that are compared.
    assert np.allclose([over_time.expected(at_s) for at_s in times.tolist()], units, rtol=1e-6, atol=1e-6)
    begin_s = np.cumsum([0.0, *(stage.duration_s for stage in stages)])
    for number, stage in enumerate(stages):
        if stage.is_empty:
            inside = (times % profile.length_s > begin_s[number] + 1e-9) & (times % profile.length_s < begin_s[number + 1] - 1e-9)
            assert not inside.any()


def test_constant_stairs() -> None:
    times = arrivals(RateStages(STAIRS.stages, EVEN), 120.0)
    # 15 + 30 + 45 + 60, one every 2 s, then every second, and so on.
    assert len(times) == 150
    assert np.allclose(np.diff(times[:16]), 2.0)
    assert np.allclose(np.diff(times[15:46]), 1.0)
    assert np.allclose(np.diff(times[90:]), 0.5)
    assert times.max() == pytest.approx(119.5)


def test_a_constant_ramp_arrives_whenever_the_integral_is_whole() -> None:
    times = arrivals(RateStages((Stage(10.0, 0.0, 2.0),), EVEN), 10.0)
    # The integral of 0.2 t is t^2 / 10.
    assert np.allclose(times, [math.sqrt(10 * k) for k in range(10)])


def test_a_rate_that_makes_a_whole_number_makes_no_arrival_more_at_the_end() -> None:
    for rate in (0.1, 0.3, 0.7, 1.1, 2.3):
        for seconds in (10, 30, 70, 110):
            stages = (Stage(seconds / 2, rate, rate), Stage(seconds / 2, rate, rate))
            times = arrivals(RateStages(stages, EVEN), float(seconds))
            assert len(times) == math.ceil(round(rate * seconds, 6))


def test_a_pause_is_kept_and_what_would_come_in_it_comes_after() -> None:
    times = arrivals(RateStages((Stage(10.0, 1.0, 1.0), Stage(5.0, 0.0, 0.0), Stage(3.0, 1.0, 1.0)), EVEN), 18.0)
    assert times.tolist() == [*map(float, range(10)), 15.0, 16.0, 17.0]


def test_repeated_stages_go_on_without_a_seam() -> None:
    spikes = RateStages((Stage(8.0, 1.0, 1.0), Stage(2.0, 10.0, 10.0)), EVEN, repeat=True)
    times = arrivals(spikes, 25.0)
    assert np.histogram(times, bins=[0, 8, 10, 18, 20, 25.01])[0].tolist() == [8, 20, 8, 20, 5]


@pytest.mark.parametrize("seed", range(3))
def test_poisson_counts_in_a_changing_rate_vary_as_poisson_counts_do(seed: int) -> None:
    many = [arrivals(HILL, 270.0, seed * 1000 + number) for number in range(300)]
    counts = np.array([np.histogram(times, bins=27, range=(0, 270.0))[0] for times in many])
    expected = np.array([stepped(HILL, 10.0 * (k + 1)) - stepped(HILL, 10.0 * k) for k in range(27)])
    busy = expected > 1
    # Of 300 counts around each expectation: their mean, and their variance over it. All bins together: 1 +- 0.017.
    z = (counts.mean(axis=0) - expected)[busy] / np.sqrt(expected[busy] / 300)
    assert np.abs(z).max() < 4.5
    assert abs(np.mean(counts.var(axis=0)[busy] / expected[busy]) - 1) < 0.08
    assert counts[:, ~busy].sum() == 0
    # Neighbouring seconds know nothing of each other.
    normed = ((counts - expected) / np.sqrt(np.maximum(expected, 1)))[:, busy]
    assert abs(float(np.mean(normed[:, 1:] * normed[:, :-1]))) < 0.06
