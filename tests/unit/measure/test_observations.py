"""What is known of requests in arrival order, of a load that has ended and of one that runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.observations import Observations, as_of, gaps_beyond, observations
from pytest_llmperf.metrics import metric_key
from tests.unit.measure.logs import Asked, failed, result_of, stands_in, streamed

WINDOW = (2.0, 8.0)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """A request before, in or after the window, answered or failed; answers have at least one token."""
    scheduled_s = draw(st.integers(0, 100)) / 10
    outcome = draw(st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.TIMEOUT, Outcome.CANCELLED]))
    gaps = draw(st.lists(st.integers(1, 30), min_size=int(outcome is Outcome.OK), max_size=4))
    chunks = tuple((scheduled_s + sum(gaps[: i + 1]) / 10, 1) for i in range(len(gaps)))
    return Asked(scheduled_s, chunks, outcome=outcome, warmup=draw(st.booleans()) and draw(st.booleans()))


def in_order(requests: list[Asked]) -> list[Asked]:
    return sorted(requests, key=lambda one: one.scheduled_s)


@settings(max_examples=200, deadline=None)
@given(st.lists(asked(), max_size=12))
def test_in_flight_counts_every_other_request_at_the_target(requests: list[Asked]) -> None:
    log = in_order(requests)
    seen = observations(result_of(log, WINDOW))
    for i, one in enumerate(log):
        others = sum(other.ended_s > one.scheduled_s for other in log[:i])
        assert seen.in_flight[i] == others


@settings(max_examples=200, deadline=None)
@given(st.lists(asked(), max_size=12))
def test_a_finished_loads_series_are_the_requests_that_count(requests: list[Asked]) -> None:
    log = in_order(requests)
    seen = observations(result_of(log, WINDOW))
    counted = [a for a in log if not a.warmup and 2.0 <= a.scheduled_s <= 8.0 and a.outcome is not Outcome.CANCELLED]
    ok = [a.outcome is Outcome.OK for a in counted]
    late = [not good or a.ended_s - a.scheduled_s > 0.5 for a, good in zip(counted, ok, strict=True)]
    assert seen.latency("e2e", 0.5).exceeds.tolist() == late
    assert seen.failures().exceeds.tolist() == [not good for good in ok]
    stand_in = stands_in(counted, lambda a: a.tokens >= 2)
    tpots = [failed or a.tokens >= 2 for a, good, failed in zip(counted, ok, stand_in, strict=True) if good or failed]
    assert len(seen.latency("tpot", 0.1)) == sum(tpots)


LIMITS = {"e2e": 0.5, "tpot": 0.2}


@settings(max_examples=300, deadline=None)
@given(st.lists(asked(), max_size=12), st.integers(0, 140), st.sampled_from(["e2e", "tpot", "failures", "bad"]))
def test_what_is_said_of_a_running_load_stays_true(requests: list[Asked], at: int, which: str) -> None:
    # Cancelled requests are those of a load that somebody broke off: until then nobody knows.
    result = result_of([a for a in in_order(requests) if a.outcome is not Outcome.CANCELLED and a.scheduled_s <= 8.0], WINDOW)

    def exceeds(seen: Observations) -> list[float]:
        if which == "failures":
            return list(seen.failures().exceeds)
        series = seen.bad(LIMITS) if which == "bad" else seen.latency(which, 0.3)
        return list(series.exceeds)

    early, final = exceeds(as_of(result, at / 10)), exceeds(observations(result))
    # A request that has no such latency is left out once that is known, so it never counts as known before.
    assert early == final[: len(early)]
    assert exceeds(as_of(result, 1000.0)) == final


def test_a_request_in_flight_beyond_the_limit_is_known_and_cuts_nothing() -> None:
    result = result_of([streamed(0.0, 0.1, 5.0), streamed(1.0, 0.1, 0.1), streamed(2.0, 0.1, 0.1)])
    young, old = as_of(result, 2.5), as_of(result, 4.0)
    assert len(young.latency("e2e", 3.0)) == 0
    assert old.latency("e2e", 3.0).exceeds.tolist() == [1.0, 0.0, 0.0]
    assert old.latency("e2e", 3.0).values[0] == 4.0
    assert len(old.latency("tpot", 3.0)) == 0
    assert len(old.failures()) == 0
    assert old.bad({"e2e": 3.0}).exceeds.tolist() == [1.0, 0.0, 0.0]


def test_first_tokens_of_requests_in_flight_are_known_when_they_are_seen() -> None:
    result = result_of([streamed(0.0, 0.1, 50.0), streamed(1.0, 9.0), streamed(2.0, 0.3, 50.0)])
    seen = as_of(result, 4.0)
    assert seen.latency("ttft", 2.5).exceeds.tolist() == [0.0, 1.0, 0.0]
    assert seen.latency("ttft", 5.0).exceeds.tolist() == [0.0]


def test_where_no_first_token_in_flight_is_ever_seen_none_is_late() -> None:
    # Not streamed: the first token of a whole body is nobody's to see.
    whole = [Asked(float(i), end_s=50.0, output_tokens=5) for i in range(3)]
    assert len(as_of(result_of(whole), 9.0).latency("ttft", 1.0)) == 0
    assert as_of(result_of(whole), 9.0).latency("e2e", 8.5).exceeds.tolist() == [1.0]


def test_a_longer_warmup_counts_later_requests_only() -> None:
    result = result_of([streamed(i, 0.1) for i in range(10)], WINDOW)
    assert observations(result).latency("ttft", 1.0).scheduled_s.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert observations(result, 2.5).latency("ttft", 1.0).scheduled_s.tolist() == [5, 6, 7, 8]


def test_the_first_requests_of_a_series_are_a_series() -> None:
    series = observations(result_of([streamed(i, 0.1 + i) for i in range(5)])).latency("ttft", 2.0)
    assert series.first(3).exceeds.tolist() == [0.0, 0.0, 1.0]
    assert len(series.first(3)) == len(series.first(3).values) == len(series.first(3).in_flight) == 3


def test_gaps_beyond_a_limit_have_the_share_that_the_itl_has() -> None:
    requests = [
        Asked(0.0, ((0.1, 1), (0.2, 1), (0.9, 1), (1.0, 1))),
        Asked(1.0, ((1.1, 1),)),
        Asked(2.0, ((2.1, 1), (2.7, 1))),
        failed(3.0),
        Asked(4.0, ((4.1, 1), (4.2, 1), (4.3, 1))),
    ]
    series = gaps_beyond(result_of(requests), 0.5)
    # Six gaps of four answers, two of them beyond; the request that failed is 1.5 more.
    assert series.scheduled_s.tolist() == [0.0, 2.0, 3.0, 4.0]
    assert series.exceeds.mean() == pytest.approx(3.5 / 7.5)
    assert series.values.tolist() == pytest.approx([0.3, 0.6, math.inf, 0.1])
    estimate = measure(result_of(requests), price_per_hour=None).estimate(metric_key("itl_p50"))
    assert estimate.samples == 4
    assert np.isfinite(estimate.value)
