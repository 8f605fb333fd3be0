"""What a worker says of its own health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pytest_llmperf.load.exchange import NAN, Exchange
from pytest_llmperf.load.health import HEARTBEAT_S, Beats, worker_health
from pytest_llmperf.load.plan import SessionPlan, TurnPlan
from pytest_llmperf.load.records import RequestLog, WorkerHealth
from tests.unit.measure.logs import Asked, log_of

NOTHING = log_of([])


def beats_of(window: Sequence[float], drain: Sequence[float] = ()) -> Beats:
    """Heartbeats that were late by so much, one after another."""
    beats, now_s = Beats(), 0.0
    for number, lag_s in enumerate([*window, *drain]):
        due_s, now_s = now_s + HEARTBEAT_S, now_s + HEARTBEAT_S + lag_s
        beats.note(due_s, now_s, in_window=number < len(window))
    return beats


def of_beats(window: Sequence[float], drain: Sequence[float] = ()) -> WorkerHealth:
    return worker_health(0, [], NOTHING, beats_of(window, drain), 0.1, 0)


def test_a_loop_held_up_for_a_twentieth_of_the_time_was_late_for_a_twentieth_of_the_answers() -> None:
    health = of_beats([0.0002] * int(19 / HEARTBEAT_S) + [1.0])
    # Of what arrived at random instants in these 20 s the slowest 1 % waited for 0.8 s or more.
    assert health.loop_lag_p99_s == pytest.approx(0.8, abs=0.02)
    assert health.loop_lag_max_s == pytest.approx(1.0)


def test_a_long_drain_hides_nothing_and_shows_its_own() -> None:
    quiet, held_up = [0.0002] * 1000, [0.0002] * 1000 + [0.5]
    assert of_beats(held_up, quiet * 10).loop_lag_p99_s > 0.3
    assert of_beats(quiet, held_up).loop_lag_p99_s > 0.2


def test_short_lags_are_taken_as_they_are() -> None:
    assert of_beats([0.001] * 90 + [0.004] * 10).loop_lag_p99_s == pytest.approx(0.004)


def test_nothing_was_observed() -> None:
    health = of_beats([])
    assert (health.requests, health.lateness_p99_s, health.loop_lag_p99_s) == (0, 0.0, 0.0)


def test_the_lag_in_force_is_that_of_the_beat_before_or_after() -> None:
    # Due at 10, 20, 130 ms, at 10, 120, 130 ms.
    beats = beats_of([0.0, 0.1, 0.0])
    instants = np.array([0.005, 0.015, 0.119, 0.125, 0.135, 9.0])
    assert beats.lags_at(instants) == pytest.approx([0.0, 0.1, 0.1, 0.1, 0.0, 0.0])


def exchange(*, begun_s: float, connected_s: float, sent_s: float, opening_delay_s: float = 0.0) -> Exchange:
    """One that was scheduled at 0 s."""
    made = Exchange(SessionPlan(0, False, None, (TurnPlan(8, 6),)), 0, 0.0, b"", warmup=False)
    made.begun_s, made.connected_s, made.sent_s = begun_s, connected_s, sent_s
    made.opening_delay_s = opening_delay_s
    return made


@pytest.mark.parametrize(
    ("made", "late_s"),
    [
        # On a connection that was idle.
        (exchange(begun_s=0.001, connected_s=0.001, sent_s=0.002), 0.002),
        # It took the server 80 ms to take a connection that was asked for at 1 ms.
        (exchange(begun_s=0.001, connected_s=0.081, sent_s=0.081), 0.001),
        # Of these 80 ms the connection stood for 50 while the client did something else.
        (exchange(begun_s=0.001, connected_s=0.081, sent_s=0.081, opening_delay_s=0.05), 0.051),
        # Nobody says for how long: as the event loop was held up then.
        (exchange(begun_s=0.001, connected_s=0.081, sent_s=0.081, opening_delay_s=NAN), 0.071),
        # No connection came of it.
        (exchange(begun_s=0.003, connected_s=NAN, sent_s=NAN), 0.003),
    ],
)
def test_lateness_is_what_the_client_let_pass_and_nobody_else(made: Exchange, late_s: float) -> None:
    log = replace(log_of([Asked(0.0, ((0.2, 1),))]), connected_s=np.array([made.connected_s]))
    health = worker_health(0, [made], log, beats_of([0.0, 0.07, 0.0]), 0.1, 0)
    assert health.lateness_max_s == pytest.approx(late_s)


SENT = exchange(begun_s=0.0, connected_s=0.0, sent_s=0.0)
READ_S = 0.085
"""Just after the loop was held up for 70 ms."""


def answered(first_s: float, second_s: float, lags_s: tuple[float, float]) -> RequestLog:
    """Two chunks, and how long each waited to be read by the kernel's word (0: it has none)."""
    log = log_of([Asked(0.0, ((first_s, 1), (second_s, 1)))])
    return replace(log, chunk_read_lag_s=np.array(lags_s, dtype=np.float32))


@pytest.mark.parametrize(
    ("log", "waited_s"),
    [
        # By the kernel's clock the first token came at its instant, whenever it was read.
        (answered(READ_S - 0.03, 0.4, (0.03, 0.0001)), 0.0),
        # Read together with the next it has that one's instant.
        (answered(READ_S - 0.03, READ_S - 0.03, (0.03, 0.03)), 0.07),
        # Without the kernel's word it came when it was read, as did the last one.
        (answered(READ_S, 0.4, (0.0, 0.0)), 0.07),
        (answered(0.005, READ_S, (0.0001, 0.0)), 0.07),
    ],
)
def test_a_lag_that_few_beats_and_many_requests_met_is_that_of_the_requests(log: RequestLog, waited_s: float) -> None:
    # Over time it is nothing: 70 ms of 50 s.
    health = worker_health(0, [SENT], log, beats_of([0.0, 0.07, *[0.0] * 5000]), 0.1, 0)
    assert health.loop_lag_p99_s == pytest.approx(waited_s)


def test_requests_of_the_warm_up_are_not_counted_where_there_are_others() -> None:
    late = exchange(begun_s=0.5, connected_s=0.5, sent_s=0.5)
    log = log_of([Asked(0.0, ((0.6, 1),), warmup=True), Asked(0.0, ((0.6, 1),))])
    assert worker_health(0, [late, SENT], log, beats_of([]), 0.1, 0).lateness_max_s == 0.0
    only_warmup = log_of([Asked(0.0, ((0.6, 1),), warmup=True)])
    assert worker_health(0, [late], only_warmup, beats_of([]), 0.1, 0).lateness_max_s == 0.5
