"""A queue close to its capacity wanders far; only one beyond it is called growing."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_llmperf.load.records import Floats
from pytest_llmperf.measure.observations import Observations
from pytest_llmperf.measure.steady import backlog_grows, backlog_rises, overload_since

QUEUES = 60


def queued(rate: float, utilisation: float, seconds: float, seed: int, *, even: bool) -> Observations:
    """Poisson arrivals at one server, whose times are equal or exponential, on a load that finds it empty; then half a second."""
    rng, n = np.random.default_rng(seed), int(rate * seconds)
    arrived_s = np.cumsum(rng.exponential(1 / rate, n))
    service_s = np.full(n, utilisation / rate) if even else rng.exponential(utilisation / rate, n)
    before_s = np.cumsum(service_s) - service_s
    first_s = np.maximum.accumulate(arrived_s - before_s) + before_s
    ended_s = first_s + service_s + 0.5
    every = np.ones(n, np.bool_)
    in_flight = np.arange(n) - np.searchsorted(ended_s, arrived_s, side="right")
    latencies = {"ttft": first_s - arrived_s, "tpot": np.full(n, 0.02), "e2e": ended_s - arrived_s}
    return Observations(float(ended_s[-1]), arrived_s, every, every, ~every, in_flight.astype(np.float64), latencies)


def unstable(rate: float, utilisation: float, seconds: float, *, even: bool) -> int:
    """How many of 60 such loads are called unstable."""
    return sum(overload_since(queued(rate, utilisation, seconds, seed, even=even)) is not None for seed in range(QUEUES))


# A slope and a trend alone call 15 to 36 of 60 unstable at a utilisation of 0.95.
@pytest.mark.parametrize(
    ("rate", "seconds", "even"), [(10, 900, False), (7, 600, False), (2, 600, False), (2, 600, True), (4, 600, True)]
)
@pytest.mark.parametrize("utilisation", [0.9, 0.95])
def test_a_queue_that_keeps_up_is_seldom_called_unstable(rate: float, seconds: float, even: bool, utilisation: float) -> None:
    assert unstable(rate, utilisation, seconds, even=even) <= 1


@pytest.mark.parametrize(("rate", "seconds", "even"), [(10, 600, False), (7, 900, False), (7, 600, True), (40, 300, False)])
def test_a_queue_that_is_overloaded_by_a_tenth_is_told(rate: float, seconds: float, even: bool) -> None:
    assert unstable(rate, 1.1, seconds, even=even) >= 0.95 * QUEUES


def test_a_random_walk_rises_often_and_grows_seldom() -> None:
    def walk(seed: int, drift: float) -> Floats:
        steps = np.random.default_rng(seed).normal(drift, np.sqrt(2), 2000)
        return 100 + np.cumsum(steps)

    walks = [walk(seed, 0.0) for seed in range(200)]
    assert sum(map(backlog_rises, walks)) >= 30
    assert sum(map(backlog_grows, walks)) <= 6
    assert sum(backlog_grows(walk(seed, 0.3)) for seed in range(50)) == 50


def test_a_line_without_noise_grows() -> None:
    assert backlog_grows(np.linspace(0, 200, 1001))
    assert not backlog_grows(np.linspace(0, 10, 1001))
    assert not backlog_grows(np.arange(200.0))
