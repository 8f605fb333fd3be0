"""A load that is watched: what is told of it while it runs is what its log will say, and it can be ended early without loss."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile
from typing import Any, cast

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError
from pytest_llmperf.experiment.profile import Concurrency, Constant, LoadProfile
from pytest_llmperf.experiment.records import Lengths, Turns
from pytest_llmperf.load.messages import Done, Go, Job, Message, Seen
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import LoadResult, Outcome, RequestLog
from pytest_llmperf.load.watch import Sighting
from pytest_llmperf.load.worker_process import WorkerProcess
from pytest_llmperf.measure.latencies import request_latencies
from tests.unit.load.conftest import PacedServer
from tests.unit.load.interruptible import children
from tests.unit.load.loads import WORKLOAD, outcomes, run, workload
from tests.unit.sim.conftest import FAST, start_server, stop_server

LOOK_S = 0.1


class Watcher:
    """Keeps what it is shown, and has enough when a condition holds."""

    def __init__(self, enough: Callable[[Sighting], bool] = lambda _: False) -> None:
        self._enough = enough
        self.seen: list[Sighting] = []

    def __call__(self, sighting: Sighting) -> bool:
        self.seen.append(sighting)
        return self._enough(sighting)


def options(workers: int = 1) -> LoadOptions:
    return LoadOptions(workers=workers, look_every_s=LOOK_S)


def ended(count: int) -> Callable[[Sighting], bool]:
    """Enough is when so many requests have ended."""
    return lambda seen: int(np.count_nonzero(~np.isnan(seen.end_s))) >= count


def known(sighting: Sighting, log: RequestLog) -> Any:
    """The rows of the log that a sighting is of."""
    rows = np.flatnonzero(np.isin(log.scheduled_s, sighting.scheduled_s))
    assert log.scheduled_s[rows].tolist() == sighting.scheduled_s.tolist()
    return rows


_TIMES = ("sent_s", "end_s")


def assert_part_of(sighting: Sighting, log: RequestLog) -> None:
    """What was told is what the log says, and everything that had ended by then was told."""
    rows, now_s = known(sighting, log), sighting.now_s
    over = log.end_s[rows] <= now_s
    happened = {name: np.where(times <= now_s, times, np.nan) for name in _TIMES for times in [getattr(log, name)[rows]]}
    assert np.array_equal(sighting.end_s, happened["end_s"], equal_nan=True)
    assert np.array_equal(sighting.sent_s[over], log.sent_s[rows][over], equal_nan=True)
    told = ~np.isnan(sighting.sent_s)
    assert np.array_equal(sighting.sent_s[told], happened["sent_s"][told])
    first = ~np.isnan(sighting.first_token_s)
    assert np.array_equal(sighting.first_token_s[first], log.first_token_s[rows][first])
    for name in ("first_token_s", "last_token_s"):
        assert np.array_equal(getattr(sighting, name)[over], getattr(log, name)[rows][over], equal_nan=True)
    assert np.isnan(sighting.last_token_s[~over]).all()
    assert sighting.output_tokens.tolist() == np.where(over, log.output_tokens[rows], 0).tolist()
    assert sighting.failed.tolist() == (over & (log.outcome[rows] != Outcome.OK)).tolist()
    assert sighting.warmup.tolist() == log.warmup[rows].tolist()
    told_s, logged_s = request_latencies(cast(RequestLog, sighting)), request_latencies(log)
    for metric in ("ttft", "tpot", "e2e"):
        assert np.array_equal(told_s[metric][over], logged_s[metric][rows][over], equal_nan=True)


def assert_steady(watcher: Watcher, log: RequestLog) -> None:
    """Every sighting is a part of the log, and each knows more than the one before."""
    for sighting in watcher.seen:
        assert_part_of(sighting, log)
    for before, after in zip(watcher.seen, watcher.seen[1:], strict=False):
        assert before.now_s < after.now_s
        assert set(before.scheduled_s) <= set(after.scheduled_s)


TURNS = workload(turns=Turns(count=Lengths(3), input=Lengths(5), pause=0.02))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("profile", "asked"),
    [(Constant(40.0), WORKLOAD), (Concurrency(6), WORKLOAD), (Constant(40.0), TURNS), (Concurrency(6), TURNS)],
    ids=["open", "closed", "open sessions", "closed sessions"],
)
def test_an_early_end_loses_nothing(
    server: PacedServer, profile: LoadProfile, asked: Any, workers: int, request: pytest.FixtureRequest
) -> None:
    behaviour = f"ok/60/20/{request.node.callspec.id.replace(' ', '-')}"
    watcher = Watcher(ended(10))
    result = run(server.endpoint(behaviour), profile, 60.0, asked=asked, options=options(workers), watch=watcher)
    log = result.log
    assert result.stopped_s == result.window_end_s
    assert watcher.seen[-1].now_s < result.window_end_s < 20
    assert (result.planned_end_s, result.interrupted) == (60.0, False)
    # Everything that was begun was finished, also what was in flight; the server has seen no other request.
    assert outcomes(result) == {Outcome.OK: len(log)}
    assert len(server.truth(behaviour)) == len(log) == result.health.planned_requests == result.health.sent_requests
    assert log.end_s.max() > result.window_end_s > log.scheduled_s.max()
    if isinstance(profile, Constant):
        arrivals = log.scheduled_s[log.turn == 0]
        assert len(arrivals) == np.ceil(result.window_end_s * profile.rate_per_s)
    # It had not enough before, and was not asked again.
    assert [ended(10)(seen) for seen in watcher.seen] == [False] * (len(watcher.seen) - 1) + [True]
    assert_steady(watcher, log)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_what_is_told_is_what_the_log_says(server: PacedServer, workers: int, api: str) -> None:
    watcher = Watcher()
    asked = workload(api=api, output=Lengths(40, "uniform", min=2))
    result = run(
        server.endpoint("ok/30/4"), Constant(60.0), 1.0, asked=asked, warmup_s=0.5, options=options(workers), watch=watcher
    )
    assert result.stopped_s is None
    assert (result.window_end_s, result.planned_end_s) == (1.5, 1.5)
    assert_steady(watcher, result.log)
    # At the instants that are agreed on, and none of them after the end.
    assert {round(seen.now_s / LOOK_S, 6) % 1 for seen in watcher.seen} == {0.0}
    assert 2 <= len(watcher.seen) < 15
    last = watcher.seen[-1]
    assert (last.output_tokens > 0).any()
    assert last.warmup.any()
    # Of a request in flight its first token is told when it is there.
    log = result.log
    first_s = log.first_token_s[known(last, log)]
    assert np.array_equal(last.first_token_s, np.where(first_s <= last.now_s, first_s, np.nan), equal_nan=True)
    assert (~np.isnan(last.first_token_s) & np.isnan(last.end_s)).any()


FAULTS = [
    "two_in_one", "cut_character", "empty_text", "three_a_chunk/5/5", "no_done", "no_end", "no_length", "truncate", "reset",
    "reset_late", "hang_up", "stall", "silent", "stale", "refuses", "unavailable", "bad_json", "bad_http", "error_event",
    "fails_sometimes",
]  # fmt: skip


@pytest.fixture(scope="module")
def faulty_loads(server: PacedServer) -> dict[str, tuple[Watcher, LoadResult]]:
    """A watched load for each behaviour, several at once: most of each is waiting."""

    def load(behaviour: str) -> tuple[Watcher, LoadResult]:
        watcher, asked = Watcher(), workload(output=Lengths(30), timeout=0.25)
        return watcher, run(server.endpoint(behaviour), Constant(50.0), 0.7, asked=asked, options=options(), watch=watcher)

    with ThreadPoolExecutor(4) as threads:
        return dict(zip(FAULTS, threads.map(load, FAULTS), strict=True))


@pytest.mark.parametrize("behaviour", FAULTS)
def test_faults_are_told_as_they_are_logged(faulty_loads: dict[str, tuple[Watcher, LoadResult]], behaviour: str) -> None:
    watcher, result = faulty_loads[behaviour]
    assert_steady(watcher, result.log)
    assert len(watcher.seen) >= 2
    assert not np.isnan(watcher.seen[-1].end_s).all()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Endpoint]:
    running = start_server(FAST)
    running.wait_ready()
    yield Endpoint(f"http://127.0.0.1:{running.port}", "tiny")
    stop_server(running)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_simulators_streams(simulator: Endpoint, api: str) -> None:
    watcher, asked = Watcher(ended(30)), workload(api=api, output=Lengths(100, "uniform", min=1))
    result = run(simulator, Constant(40.0), 60.0, asked=asked, options=options(), watch=watcher)
    assert outcomes(result) == {Outcome.OK: len(result.log)}
    assert result.stopped_s == result.window_end_s
    assert_steady(watcher, result.log)
    assert len(set(watcher.seen[-1].output_tokens)) > 10


def test_an_answer_in_one_piece(server: PacedServer) -> None:
    watcher = Watcher(ended(5))
    result = run(server.endpoint("whole/20"), Constant(50.0), 9.0, asked=workload(stream=False), options=options(), watch=watcher)
    assert_steady(watcher, result.log)
    assert result.stopped_s is not None
    assert np.isnan(watcher.seen[-1].first_token_s).all()


def test_an_end_within_the_warm_up(server: PacedServer) -> None:
    result = run(server.endpoint("ok/20"), Constant(50.0), 9.0, warmup_s=5.0, options=options(), watch=Watcher(ended(1)))
    assert result.log.warmup.all()
    assert result.stopped_s is not None
    assert result.log.scheduled_s.max() < result.stopped_s < 5.0 == result.window_end_s
    assert result.health.workers[0].cpu_share == 0.0


def test_enough_at_the_very_end_is_too_late(server: PacedServer) -> None:
    # The word to end takes longer to every worker than what is left.
    result = run(server.endpoint("ok/20"), Constant(50.0), LOOK_S + 0.01, options=options(), watch=lambda _: True)
    assert (result.stopped_s, result.window_end_s, len(result.log)) == (None, LOOK_S + 0.01, 6)


def test_a_closed_loop_of_a_count_can_end_before_it(server: PacedServer) -> None:
    result = run(server.endpoint("ok/20"), Concurrency(2), max_requests=500, options=options(2), watch=Watcher(ended(3)))
    assert result.planned_end_s is None
    assert result.stopped_s == result.window_end_s
    assert outcomes(result) == {Outcome.OK: len(result.log)}
    assert len(result.log) < 500


def test_a_worker_that_has_nothing_left_is_told_of_as_well(server: PacedServer) -> None:
    # Two users, one a worker: one has two sessions, the other has one and goes home.
    watcher = Watcher()
    result = run(server.endpoint("ok/20/100"), Concurrency(2), max_requests=3, options=options(2), watch=watcher)
    assert np.bincount(result.log.worker).tolist() == [2, 1]
    assert_steady(watcher, result.log)
    alone = [seen for seen in watcher.seen if np.isnan(seen.end_s).tolist() == [False, False, True]]
    assert len(alone) >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_watch_that_raises_ends_the_load(server: PacedServer, workers: int) -> None:
    before = set(children())

    def watch(_: Sighting) -> bool:
        assert len(set(children()) - before) == workers
        raise ZeroDivisionError("cannot judge")

    with pytest.raises(ZeroDivisionError, match="cannot judge"):
        run(server.endpoint("ok/20"), Constant(50.0), 60.0, options=options(workers), watch=watch)
    assert set(children()) == before


def test_a_slow_watch_holds_no_worker_up(server: PacedServer) -> None:
    watched: list[int] = []

    def watch(seen: Sighting) -> bool:
        watched.append(len(seen))
        until_s = time.monotonic() + 3 * LOOK_S
        while time.monotonic() < until_s:
            pass
        return False

    result = run(server.endpoint("ok/20"), Constant(100.0), 1.0, options=options(2), watch=watch)
    assert outcomes(result) == {Outcome.OK: 100}
    # Looks that came meanwhile are one.
    assert 2 <= len(watched) <= 4
    assert watched == sorted(watched)


def said(endpoint: Endpoint, *, watched: bool) -> list[Message]:
    """Everything that a worker says while it drives a load."""
    worker = WorkerProcess(0, TemporaryFile())  # noqa: SIM115  (closed by end())
    try:
        plan = plan_load(Constant(50.0), WORKLOAD, 0.7, seed=1, warmup_s=0.0)
        worker.tell(Job(plan, endpoint, options(), 1, 0, 1, watched))
        os.set_blocking(worker.inbox.fd, True)
        said: list[Message] = []
        while not worker.inbox.at_end:
            for message in worker.inbox.receive():
                if not said:
                    worker.tell(Go(time.monotonic()))
                said.append(message)
        return said
    finally:
        worker.end()


def test_a_load_that_nobody_watches_tells_nothing(server: PacedServer) -> None:
    unwatched, watched = (said(server.endpoint("ok/20"), watched=watched) for watched in (False, True))
    assert isinstance(unwatched[-1], Done)
    assert not any(isinstance(message, Seen) for message in unwatched)
    assert any(isinstance(message, Seen) and len(message.row) for message in watched)


def test_each_thing_is_told_once(server: PacedServer) -> None:
    seen = [message for message in said(server.endpoint("ok/20"), watched=True) if isinstance(message, Seen)]
    rows = np.concatenate([message.row for message in seen])
    states = np.concatenate([message.state for message in seen])
    over = rows[~np.isnan(states["end_s"])]
    assert len(set(over)) == len(over)
    # Begun and sent, first token, end: no more is ever new about a request.
    assert np.bincount(rows).max() <= 4


def test_how_often_to_look_must_be_said_sensibly() -> None:
    with pytest.raises(LoadError, match="looked at every 0 seconds"):
        run(Endpoint("http://h", "m"), options=LoadOptions(look_every_s=0.0))
