"""What a worker says of its own health."""

from __future__ import annotations

import pytest

from pytest_llmperf.load.health import HEARTBEAT_S, worker_health


def test_a_loop_held_up_for_a_twentieth_of_the_time_was_late_for_a_twentieth_of_the_answers() -> None:
    beats = int(19 / HEARTBEAT_S)
    health = worker_health(0, [], [0.0002] * beats + [1.0], [], 0.1, 0)
    # Of what arrived at random instants in these 20 s the slowest 1 % waited for 0.8 s or more.
    assert health.loop_lag_p99_s == pytest.approx(0.8, abs=0.02)
    assert health.loop_lag_max_s == 1.0


def test_a_long_drain_hides_nothing_and_shows_its_own() -> None:
    quiet, held_up = [0.0002] * 1000, [0.0002] * 1000 + [0.5]
    assert worker_health(0, [], held_up, quiet * 10, 0.1, 0).loop_lag_p99_s > 0.3
    assert worker_health(0, [], quiet, held_up, 0.1, 0).loop_lag_p99_s > 0.2


def test_short_lags_are_taken_as_they_are() -> None:
    health = worker_health(0, [], [0.001] * 90 + [0.004] * 10, [], 0.1, 0)
    assert health.loop_lag_p99_s == pytest.approx(0.004)


def test_nothing_was_observed() -> None:
    health = worker_health(0, [], [], [], 0.0, 0)
    assert (health.requests, health.lateness_p99_s, health.loop_lag_p99_s) == (0, 0.0, 0.0)
