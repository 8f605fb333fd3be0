"""Arrival processes are what they say: by the statistics with which a server would check them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.arrivals import constant_arrivals, constant_arrivals_before, poisson_arrivals, poisson_count
from pytest_llmperf.load.records import Floats


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


def test_constant_gaps_do_not_vary() -> None:
    times = constant_arrivals(4.0, 100.0)
    assert len(times) == 400
    assert times[0] == 0
    assert gap_cv(times) == 0.0


@given(st.floats(0.1, 2000), st.floats(0.01, 100))
def test_constant_never_leaves_its_window_nor_drifts(rate: float, duration_s: float) -> None:
    times = constant_arrivals(rate, duration_s)
    assert np.all((times >= 0) & (times < duration_s))
    assert abs(len(times) - rate * duration_s) <= 1
    assert np.allclose(times * rate, np.arange(len(times)), rtol=1e-12)


def test_the_constant_warm_up_keeps_the_pace_over_the_boundary() -> None:
    before = constant_arrivals_before(4.0, 1.1)
    assert np.allclose(before, [0.1, 0.35, 0.6, 0.85])
    assert np.allclose(np.diff(np.append(before, 1.1)), 0.25)


@pytest.mark.parametrize("seed", range(5))
def test_poisson_statistics(seed: int) -> None:
    times = poisson_arrivals(50.0, 2000.0, np.random.default_rng(seed))
    # Standard errors over 100,000 gaps and 2,000 counts: 0.003, 0.03, 0.003; five of each.
    assert abs(len(times) / 100_000 - 1) < 0.016
    assert abs(gap_cv(times) - 1) < 0.02
    assert abs(dispersion(times, 2000.0) - 1) < 0.16
    assert abs(lag_one(times)) < 0.016


def test_poisson_forces_no_arrival_at_either_end() -> None:
    lasts, firsts = [], []
    for seed in range(2000):
        times = poisson_arrivals(4.0, 5.0, np.random.default_rng(seed))
        firsts.append(times[0])
        lasts.append(5.0 - times[-1])
    # What is left over at both ends is exponential with the same mean as any gap: 0.25 +- 0.0056 (one standard error).
    assert abs(np.mean(firsts) - 0.25) < 0.028
    assert abs(np.mean(lasts) - 0.25) < 0.028


@given(st.integers(0, 2**63), st.floats(0.5, 500))
def test_poisson_honours_its_seed(seed: int, rate: float) -> None:
    first = poisson_arrivals(rate, 3.0, np.random.default_rng(seed))
    assert np.array_equal(first, poisson_arrivals(rate, 3.0, np.random.default_rng(seed)))
    # A shorter window is the beginning of a longer one.
    shorter = poisson_arrivals(rate, 1.0, np.random.default_rng(seed))
    assert np.array_equal(shorter, first[first < 1.0])


def test_poisson_count() -> None:
    times = poisson_count(10.0, 100_000, np.random.default_rng(1))
    assert len(times) == 100_000
    assert abs(times[-1] / 10_000 - 1) < 0.016
