"""When a load has settled, and when it never will."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from pytest_llmperf.load.records import Floats, LoadResult
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.observations import observations
from pytest_llmperf.measure.run import Steadiness
from pytest_llmperf.measure.steady import (
    backlog_growth,
    backlog_rises,
    is_speeding_up,
    is_warming_up,
    overload_since,
    settled_after,
    steadiness,
    watched_from_s,
    without_warmup,
)
from pytest_llmperf.metrics import metric_key
from tests.unit.measure.logs import Asked, result_of, streamed

RATE = 10.0


def paced(tpots: Sequence[float] | Floats, ttft_s: float = 0.1) -> LoadResult:
    """Ten requests a second with these times per output token."""
    asked = [streamed(i / RATE, ttft_s, gap_s=float(tpot), tokens=3) for i, tpot in enumerate(tpots)]
    return result_of(asked, (0.0, len(tpots) / RATE))


def queued(requests: int, capacity_per_s: float, service_s: float = 0.5, seed: int = 0) -> LoadResult:
    """Poisson arrivals at 10/s at a single queue that serves so many a second, in order; everything else is fast."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / RATE, requests))
    free_s, asked = 0.0, []
    for at in arrivals.tolist():
        free_s = max(free_s, at) + 1 / capacity_per_s
        asked.append(Asked(at, ((free_s, 1), (free_s + service_s, 1))))
    return result_of(asked, (0.0, float(arrivals[-1])))


@pytest.mark.parametrize("seed", range(20))
def test_mser_agrees_with_the_reference(reference: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 600))
    tpot = np.exp(0.2 * rng.normal(size=n) + rng.uniform(0, 2) * np.exp(-np.arange(n) / rng.uniform(5, 200)))
    assert settled_after(tpot) == reference.mser5(np.log(tpot).tolist())


@pytest.mark.parametrize("seed", range(12))
def test_backlogs_agree_with_the_reference(reference: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=1500) + (seed % 4) * 0.03
    in_flight = np.maximum.accumulate(-np.minimum(np.cumsum(steps), 0)) + np.cumsum(steps)
    assert backlog_rises(in_flight) == reference.saturated_now(in_flight.tolist())


def test_values_without_a_logarithm_are_passed_over() -> None:
    tpot = np.concatenate([np.full(100, 0.5), np.full(300, 0.05)]) * np.tile([1.0, 1.1], 200)
    gaps = np.insert(tpot, [0, 50, 100], [0.0, math.nan, 0.0])
    cut, never = settled_after(gaps)
    assert not never
    # Three more values stand before the place where the first settled one is.
    assert cut == settled_after(tpot)[0] + 3 == 103


def test_too_few_values_are_left_whole() -> None:
    assert settled_after(np.geomspace(1, 0.01, 49)) == (0, False)
    assert settled_after(np.empty(0)) == (0, False)


def test_a_slow_beginning_lengthens_the_warmup() -> None:
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=600))
    result = paced(noise * np.where(np.arange(600) < 80, 0.05, 0.02))
    found = steadiness(result)
    assert found.unstable == ""
    assert found.extra_warmup_s == pytest.approx(8.5, abs=1.0)
    metrics = measure(result, price_per_hour=None, extra_warmup_s=found.extra_warmup_s)
    assert metrics.counts.warmup == pytest.approx(85, abs=10)
    assert metrics.counts.total + metrics.counts.warmup == 600
    assert metrics.window_s == pytest.approx(60.0 - found.extra_warmup_s)
    assert metrics.estimate(metric_key("tpot_p99")).value < 0.03


def test_a_beginning_with_slow_first_tokens_only_is_kept() -> None:
    slow = [streamed(i / RATE, 3.0 if i < 80 else 0.1, 0.02, 3) for i in range(600)]
    assert steadiness(result_of(slow, (0.0, 60.0))) == Steadiness()


def test_a_difference_of_a_few_percent_and_a_short_run_cost_no_samples() -> None:
    rng = np.random.default_rng(1)
    noise = np.exp(0.02 * rng.normal(size=600))
    assert settled_after(noise * np.where(np.arange(600) < 80, 0.0216, 0.02))[0] > 0
    assert steadiness(paced(noise * np.where(np.arange(600) < 80, 0.0216, 0.02))) == Steadiness()
    assert steadiness(paced(noise[:99] * np.where(np.arange(99) < 30, 0.05, 0.02))) == Steadiness()


def test_noise_seldom_lengthens_a_warmup() -> None:
    lengthened = 0
    for seed in range(100):
        tpot = 0.02 * np.exp(0.3 * np.random.default_rng(seed).normal(size=200))
        lengthened += steadiness(paced(tpot)) != Steadiness()
    assert lengthened <= 3


def test_a_server_that_gets_faster_to_the_end_is_still_warming_up() -> None:
    found = steadiness(paced(np.geomspace(0.2, 0.02, 400)))
    assert found.extra_warmup_s == 0.0
    assert found.unstable.startswith("still warming up: TPOT had not settled after ")
    assert is_warming_up(found)


def test_an_overloaded_server_is_unstable_and_says_how_fast_it_fell_behind() -> None:
    result = queued(2400, capacity_per_s=8.0)
    found = steadiness(result)
    assert not is_warming_up(found)
    # 1 - 8/10 of the arrivals stay.
    assert found.unstable.startswith("the backlog grew by ")
    assert float(found.unstable.split()[4]) == pytest.approx(20, abs=6)
    since_s = overload_since(observations(result))
    assert since_s is not None
    assert 90 <= since_s <= 200


@pytest.mark.parametrize("capacity_per_s", [12.5, 20.0])
def test_a_server_that_keeps_up_is_steady(capacity_per_s: float) -> None:
    for seed in range(5):
        assert steadiness(queued(2400, capacity_per_s, seed=seed)).unstable == ""


def test_a_closed_loop_has_no_backlog() -> None:
    assert steadiness(queued(2400, capacity_per_s=8.0), open_loop=False).unstable == ""


def test_the_watch_begins_by_the_first_answers_not_by_those_of_the_overload() -> None:
    long = queued(3000, capacity_per_s=5.0, service_s=1.0)
    early = observations(long).latencies["e2e"][:50].mean()
    assert watched_from_s(observations(long)) == pytest.approx(max(60.0, 75 * early))
    assert watched_from_s(observations(paced([0.01] * 100))) == 60.0
    assert watched_from_s(observations(result_of([]))) == math.inf


def test_growth_is_counted_per_arrival() -> None:
    assert backlog_growth(np.linspace(0, 200, 1001)) == pytest.approx(0.2)
    assert math.isnan(backlog_growth(np.arange(200.0)))


def test_no_longer_warmup_is_the_same_load() -> None:
    result = paced([0.02] * 10)
    assert without_warmup(result, 0.0) is result


def wandering(n: int, phi: float, seed: int) -> Floats:
    """Stationary TPOT around 20 ms whose logarithms are an AR(1) process of standard deviation 0.15."""
    rng = np.random.default_rng(seed)
    steps = 0.15 * math.sqrt(1 - phi**2) * rng.normal(size=n)
    levels = [0.15 * float(rng.normal())]
    for step in steps[1:].tolist():
        levels.append(phi * levels[-1] + step)
    tpots: Floats = 0.02 * np.exp(np.array(levels))
    return tpots


@pytest.mark.parametrize("phi", [0.95, 0.98])
def test_a_tpot_that_wanders_is_seldom_called_unsettled(phi: float) -> None:
    found = {n: sum(is_warming_up(steadiness(paced(wandering(n, phi, seed)))) for seed in range(60)) for n in (120, 150, 300)}
    assert found[120] == found[150] == 0
    assert found[300] <= 2


def test_a_step_beyond_the_first_half_has_not_settled() -> None:
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=400))
    assert is_warming_up(steadiness(paced(noise * np.where(np.arange(400) < 220, 0.04, 0.02))))
    assert not is_warming_up(steadiness(paced((noise * np.where(np.arange(400) < 220, 0.04, 0.02))[130:310])))


def test_getting_faster_is_told_by_the_ends() -> None:
    def seen(tpots: Floats) -> bool:
        return is_speeding_up(observations(paced(tpots)))

    assert seen(np.where(np.arange(40) < 30, 0.06, 0.02))
    assert not seen(np.where(np.arange(40) < 30, 0.021, 0.02))
    assert not seen(np.linspace(0.02, 0.06, 40))
    assert not seen(np.full(3, 0.02))


def test_a_stopped_load_is_told_by_what_was_known_at_the_stop() -> None:
    # What is slow ends after the stop: only the finished log shows that TPOT fell.
    tpots = np.where(np.arange(400) < 220, 30.0, 0.02)
    result = paced(tpots)
    assert is_warming_up(steadiness(result))
    assert steadiness(replace(result, stopped_s=39.0)) == Steadiness()
