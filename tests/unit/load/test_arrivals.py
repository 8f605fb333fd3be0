"""Arrival processes are what they say: by the statistics with which a server would check them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.experiment.stages import EVEN, POISSON
from pytest_llmperf.load.arrivals import arrivals, bursts_before, even_arrivals_before, renewals, renewals_before
from pytest_llmperf.load.records import Floats

SHAPES = (0.1, 0.25, POISSON, 4.0)


def gap_cv(times: Floats) -> float:
    gaps = np.diff(times)
    return float(gaps.std() / gaps.mean())


def dispersion(times: Floats, duration_s: float) -> float:
    """Variance over mean of the counts per second."""
    counts = np.histogram(times, bins=int(duration_s), range=(0, duration_s))[0]
    return float(counts.var() / counts.mean())


def lag_one(times: Floats) -> float:
    gaps = np.diff(times)
    return float(np.corrcoef(gaps[:-1], gaps[1:])[0, 1])


def drawn(rate: float, burstiness: float, duration_s: float, seed: int = 0) -> Floats:
    return arrivals(rate, burstiness, duration_s, np.random.default_rng(seed))


def test_constant_gaps_do_not_vary() -> None:
    times = drawn(4.0, EVEN, 100.0)
    assert len(times) == 400
    assert times[0] == 0
    assert gap_cv(times) == 0.0
    assert dispersion(times, 100.0) == 0.0


@given(st.floats(0.1, 2000), st.floats(0.01, 100))
def test_constant_never_leaves_its_window_nor_drifts(rate: float, duration_s: float) -> None:
    times = drawn(rate, EVEN, duration_s)
    assert np.all((times >= 0) & (times < duration_s))
    assert abs(len(times) - rate * duration_s) <= 1
    assert np.allclose(times * rate, np.arange(len(times)), rtol=1e-12)


def test_the_constant_warm_up_keeps_the_pace_over_the_boundary() -> None:
    before = even_arrivals_before(4.0, 1.1)
    assert np.allclose(before, [0.1, 0.35, 0.6, 0.85])
    assert np.allclose(np.diff(np.append(before, 1.1)), 0.25)


@pytest.mark.parametrize("seed", range(3))
def test_poisson_statistics(seed: int) -> None:
    times = drawn(5.0, POISSON, 40_000.0, seed)
    # Standard errors over 200,000 gaps and 40,000 counts: 0.0022, 0.0022, 0.007, 0.0022.
    assert abs(len(times) / 200_000 - 1) < 0.01
    assert abs(gap_cv(times) - 1) < 0.03
    assert abs(dispersion(times, 40_000.0) - 1) < 0.03
    assert abs(lag_one(times)) < 0.02


@pytest.mark.parametrize("burstiness", [0.1, 0.25, 0.5, 4.0])
def test_gamma_statistics(burstiness: float) -> None:
    times = drawn(5.0, burstiness, 200_000.0)
    gaps = np.diff(times)
    assert abs(len(times) / 1_000_000 - 1) < 0.02
    assert abs(gap_cv(times) * math.sqrt(burstiness) - 1) < 0.03
    assert abs(lag_one(times)) < 0.02
    # In the long run counts vary as much as the gaps do: over 100 s, 500 arrivals.
    counts = np.histogram(times, bins=2000, range=(0, 200_000.0))[0]
    assert abs(counts.var() / counts.mean() * burstiness - 1) < 0.15
    assert abs(float(np.mean(gaps**3)) / ((burstiness + 1) * (burstiness + 2) / burstiness**2 / 125) - 1) < 0.1


@pytest.mark.parametrize("burstiness", SHAPES)
def test_nothing_is_forced_at_either_end(burstiness: float) -> None:
    lasts, firsts, early = [], [], []
    for seed in range(4000):
        times = drawn(4.0, burstiness, 50.0, seed)
        firsts.append(times[0])
        lasts.append(50.0 - times[-1])
        early.append(np.count_nonzero(times < 1.0))
    # What an instant has cut off from a gap is (1 + CV^2) / 2 gaps long at the mean: for Poisson a whole one.
    expected = (1 + 1 / burstiness) / 2 * 0.25
    assert abs(np.mean(firsts) / expected - 1) < 0.1
    assert abs(np.mean(lasts) / expected - 1) < 0.1
    # As many come in the first second as in any other.
    assert abs(np.mean(early) / 4.0 - 1) < 0.1


@given(st.integers(0, 2**63), st.floats(0.5, 500), st.sampled_from([*SHAPES, EVEN]))
def test_a_seed_is_honoured_and_a_shorter_window_is_the_beginning_of_a_longer_one(
    seed: int, rate: float, burstiness: float
) -> None:
    first = drawn(rate, burstiness, 3.0, seed)
    assert np.array_equal(first, drawn(rate, burstiness, 3.0, seed))
    assert np.array_equal(drawn(rate, burstiness, 1.0, seed), first[first < 1.0])


@pytest.mark.parametrize("burstiness", SHAPES)
def test_another_seed_is_another_process(burstiness: float) -> None:
    one, two = (np.diff(drawn(50.0, burstiness, 100.0, seed))[:4000] for seed in (1, 2))
    # 4,000 pairs of gaps that know nothing of each other: a standard error of 0.016.
    assert abs(float(np.corrcoef(one, two)[0, 1])) < 0.08
    long = [set(gaps[gaps > 1e-3].tolist()) for gaps in (one, two)]
    assert not long[0] & long[1]


@pytest.mark.parametrize("burstiness", [*SHAPES, EVEN])
def test_a_count_is_the_beginning_of_a_long_window(burstiness: float) -> None:
    counted = renewals(10_000, burstiness, np.random.default_rng(1))
    assert len(counted) == 10_000
    assert np.array_equal(counted, renewals_before(15_000.0, burstiness, np.random.default_rng(1))[:10_000])
    assert len(renewals(0, burstiness, np.random.default_rng(1))) == 0


def test_bursts() -> None:
    assert bursts_before(3, 10.0, 20.0).tolist() == [0.0] * 3 + [10.0] * 3
    assert bursts_before(2, 10.0, 20.5).tolist() == [0.0] * 2 + [10.0] * 2 + [20.0] * 2
    # 0.1 is no binary fraction: three of them are no more than 0.3.
    assert bursts_before(1, 0.1, 0.3).tolist() == [0.0, 0.1, 0.2]
