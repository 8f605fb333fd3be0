"""How long a server that is overloaded asks to be left alone, and whether it is."""

from __future__ import annotations

from email.utils import formatdate
from itertools import pairwise

import numpy as np
import pytest

from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.load.engine import LoadOptions
from pytest_llmperf.load.exchange import Exchange
from pytest_llmperf.load.patience import MOST_S, retry_after_s
from pytest_llmperf.load.plan import SessionPlan, TurnPlan
from pytest_llmperf.load.records import Outcome
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import outcomes, run, workload

NOW_S = 1_795_000_000.0


@pytest.mark.parametrize(
    ("status", "said", "wait_s"),
    [
        (429, b"7", 7.0),
        (503, b" 2 ", 2.0),
        (429, b"86400", MOST_S),
        (503, formatdate(NOW_S + 30, usegmt=True).encode(), 30.0),
        (503, formatdate(NOW_S - 30, usegmt=True).encode(), 0.0),
        (503, formatdate(NOW_S + 1e6, usegmt=True).encode(), MOST_S),
        (429, b"soon", 0.0),
        (429, b"-3", 0.0),
        (429, b"\xb2", 0.0),
        (429, b"", 0.0),
        (500, b"7", 0.0),
        (200, b"7", 0.0),
    ],
)
def test_retry_after(status: int, said: bytes, wait_s: float) -> None:
    exchange = Exchange(SessionPlan(0, False, None, (TurnPlan(1, 1),)), 0, 0.0, b"", warmup=False)
    exchange.status, exchange.retry_after = status, said
    assert retry_after_s(exchange, NOW_S) == wait_s


def test_a_user_waits_as_long_as_it_was_asked_to(server: PacedServer) -> None:
    result = run(server.endpoint("refuses"), Concurrency(2), max_requests=4, options=LoadOptions(failure_pause_s=0.01))
    assert outcomes(result) == {Outcome.HTTP_ERROR: 4}
    assert set(result.log.error) == {"http 429 RateLimitError"}
    # The second of each user comes no sooner than a second after the first one's answer.
    assert result.log.scheduled_s[2:].min() >= result.log.end_s[:2].min() + 1.0


def test_an_open_loop_asks_when_it_is_due(server: PacedServer) -> None:
    result = run(server.endpoint("refuses"), Constant(20), 0.5)
    assert outcomes(result) == {Outcome.HTTP_ERROR: 10}
    assert np.allclose(result.log.scheduled_s, np.arange(10) / 20)


@pytest.mark.parametrize(("behaviour", "api"), [("silent", "completions"), ("stall_before_token", "chat")])
def test_first_token_timeout(server: PacedServer, behaviour: str, api: str) -> None:
    options = LoadOptions(first_token_timeout_s=0.2, idle_timeout_s=5.0)
    result = run(server.endpoint(behaviour), max_requests=2, asked=workload(api=api), options=options)
    assert outcomes(result) == {Outcome.TIMEOUT: 2}
    assert set(result.log.error) == {"timeout first token"}
    assert np.isnan(result.log.first_token_s).all()
    assert np.all(result.log.end_s - result.log.sent_s >= 0.2)


@pytest.mark.parametrize(("behaviour", "stream"), [("ok/1/120", True), ("whole/1", False)])
def test_who_has_a_token_does_not_wait_for_the_first(server: PacedServer, behaviour: str, stream: bool) -> None:
    options = LoadOptions(first_token_timeout_s=0.3)
    result = run(server.endpoint(behaviour), max_requests=2, asked=workload(stream=stream), options=options)
    assert outcomes(result) == {Outcome.OK: 2}


def test_a_closed_loop_on_a_server_that_hangs_up_does_not_spin(server: PacedServer) -> None:
    result = run(server.endpoint("hang_up"), Concurrency(2), 0.5, options=LoadOptions(failure_pause_s=0.1))
    assert outcomes(result).keys() == {Outcome.RESET}
    assert 2 <= len(result.log) <= 12
    mine = result.log.scheduled_s
    assert all(later - earlier >= 0.0 for earlier, later in pairwise(mine))
