"""What a load made of its plan, as its log tells it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.load.achieved import achieved, in_flight
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import Achieved, Outcome
from tests.unit.load.loads import workload
from tests.unit.measure.logs import NAN, Asked, log_of, worker_health


def asked(sent_s: float, end_s: float, *, warmup: bool = False) -> Asked:
    return Asked(sent_s, sent_s=sent_s, end_s=end_s, warmup=warmup)


def test_requests_in_flight() -> None:
    log = log_of([asked(0.0, 4.0), asked(1.0, 2.0), asked(2.0, 3.0), asked(9.0, 12.0)])
    mean, peak = in_flight(log, 0.0, 10.0)
    assert mean == pytest.approx((4 + 1 + 1 + 1) / 10)
    assert peak == 2


def test_what_was_never_sent_was_never_in_flight() -> None:
    log = log_of([Asked(0.0, sent_s=NAN, end_s=5.0, outcome=Outcome.CONNECT_FAILED), asked(0.0, 5.0)])
    mean, peak = in_flight(log, 0.0, 10.0)
    assert mean == pytest.approx(0.5)
    assert peak == 1
    assert in_flight(log_of([]), 0.0, 10.0) == (0.0, 0)


WHOLE = st.integers(0, 30)


@given(st.lists(st.tuples(WHOLE, WHOLE), max_size=20), WHOLE, st.integers(1, 20))
def test_requests_in_flight_as_counted_at_every_instant(spans: list[tuple[int, int]], start: int, length: int) -> None:
    log = log_of([asked(float(sent), float(sent + lasted)) for sent, lasted in spans])
    counts = [sum(sent <= instant < sent + lasted for sent, lasted in spans) for instant in range(start, start + length)]
    mean, peak = in_flight(log, float(start), float(start + length))
    assert mean == pytest.approx(sum(counts) / length)
    assert peak == max(counts)


def test_the_rates_of_an_open_loop() -> None:
    plan = plan_load(Constant(10.0), workload(), 2.0, seed=1, warmup_s=1.0)
    on_time = [asked(1.0 + i / 10, 1.5 + i / 10) for i in range(15)]
    late = [Asked(2.5 + i / 10, sent_s=3.1, end_s=3.2) for i in range(5)]
    log = log_of([asked(0.5, 0.6, warmup=True), *on_time, *late])
    found = achieved(plan, log, [worker_health()], 1.0, 3.0)
    assert found.planned_rate_per_s == pytest.approx(10.0)
    assert found.rate_per_s == pytest.approx(7.5), "five were sent when the window was over"
    assert (found.planned_in_flight, found.busy_share) == (None, None)
    assert found.peak_in_flight == 5


def test_later_turns_are_planned_when_their_answers_make_them_due() -> None:
    plan = plan_load(Constant(1.0), workload(), 2.0, seed=1, warmup_s=0.0)
    log = log_of([asked(0.0, 0.5), asked(0.6, 1.0), asked(1.0, 1.5)])
    log = replace(log, turn=np.array([0, 1, 0], np.int32))
    assert achieved(plan, log, [worker_health()], 0.0, 2.0).planned_rate_per_s == pytest.approx(1.5)


def closed_loop(lateness_p50_s: float, *, requests: int = 100, users: int = 2) -> Achieved:
    plan = plan_load(Concurrency(users), workload(), 10.0, seed=1, warmup_s=0.0)
    log = log_of([asked(i / 10, i / 10 + 0.1) for i in range(requests)])
    worker = replace(worker_health(lateness_p99_s=max(lateness_p50_s, 0.0001)), lateness_p50_s=lateness_p50_s)
    return achieved(plan, log, [worker], 0.0, 10.0)


def test_users_that_come_and_go_are_counted_while_they_are_there() -> None:
    ramped = plan_load(Concurrency(4, ramp_s=4.0), workload(), 8.0, seed=1, warmup_s=1.0)
    found = achieved(ramped, log_of([]), [], 1.0, 9.0)
    assert found.planned_in_flight == pytest.approx((8 + 7 + 6 + 5) / 8)
    assert achieved(ramped, log_of([]), [], 1.0, 3.0).planned_in_flight == pytest.approx((2 + 1) / 2)


def test_users_are_busy_but_for_what_the_client_wasted() -> None:
    found = closed_loop(0.02)
    assert (found.planned_in_flight, found.planned_rate_per_s) == (2.0, None)
    assert found.mean_in_flight == pytest.approx(1.0)
    # A hundred requests of which half were late by 20 ms or more: at least one of twenty seconds.
    assert found.busy_share == pytest.approx(0.95, abs=0.001)


def test_a_slow_server_keeps_its_users_busy() -> None:
    few = closed_loop(0.0001, requests=2)
    assert few.mean_in_flight == pytest.approx(0.02)
    assert few.busy_share == pytest.approx(1.0, abs=1e-4)


def test_a_lateness_that_is_not_known_leaves_the_share_unknown() -> None:
    share = closed_loop(math.nan).busy_share
    assert share is not None
    assert math.isnan(share)


def test_in_a_window_without_a_length_there_is_nothing_to_say() -> None:
    plan = plan_load(Concurrency(2), workload(), 10.0, seed=1, warmup_s=0.0)
    assert achieved(plan, log_of([]), [], 1.0, 1.0) == Achieved()
