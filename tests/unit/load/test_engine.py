"""Whole loads against a real server: who asks what and when, over how many workers, and what the clock says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError
from pytest_llmperf.experiment.profile import Concurrency, Constant, Poisson
from pytest_llmperf.experiment.records import Lengths, SharedPrefix, Turns
from pytest_llmperf.load.engine import LoadOptions, LoadProgress, run_load
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import LoadResult, Outcome
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import WORKLOAD, outcomes, run, workload


def rows(result: LoadResult) -> list[tuple[int, int, float, int, int, bool]]:
    """What was planned of every request, as it was recorded."""
    log = result.log
    columns = (log.session, log.turn, log.scheduled_s.round(6), log.planned_prompt_tokens, log.planned_output_tokens, log.warmup)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_an_open_loop_sends_its_plan_and_what_the_server_saw_is_what_was_planned(server: PacedServer) -> None:
    asked = workload(input=Lengths(20, "lognormal", 0.5), output=Lengths(5, "uniform", min=2))
    plan = plan_load(Poisson(60.0), asked, 1.5, seed=9, warmup_s=0.5)
    result = run_load(plan, server.endpoint("ok/3/2", api_key="s3cret"))
    log = result.log
    assert outcomes(result) == {Outcome.OK: len(plan.arrivals_s) + len(plan.warmup_arrivals_s)}
    assert np.allclose(log.scheduled_s, np.concatenate([plan.warmup_arrivals_s, plan.arrivals_s]))
    assert log.warmup.tolist() == (log.scheduled_s < 0.5).tolist()
    assert (result.window_start_s, result.window_end_s) == (0.5, 2.0)
    assert np.array_equal(log.prompt_tokens, log.planned_prompt_tokens)
    assert np.array_equal(log.output_tokens, log.planned_output_tokens)
    seen = server.truth("ok/3/2")
    assert sorted(len(truth["body"]["prompt"]) for truth in seen) == sorted(log.prompt_tokens)
    assert {truth["headers"]["authorization"] for truth in seen} == {"Bearer s3cret"}
    assert "s3cret" not in repr(result)


def test_the_clock_is_the_servers_clock(server: PacedServer) -> None:
    result = run(server.endpoint("ok/30/4"), Constant(40.0), 1.0)
    log, seen = result.log, server.truth("ok/30/4")
    received = np.sort([truth["received"] for truth in seen]) - result.started_at
    first = np.sort([truth["first"] for truth in seen]) - result.started_at
    last = np.sort([truth["last"] for truth in seen]) - result.started_at
    # Sent before it was received, read after it was written; how soon is for the benchmarks to say.
    slack = 0.001
    assert np.all(np.sort(log.sent_s) <= received + slack)
    assert np.all(np.sort(log.first_token_s) >= first - slack)
    assert np.all(np.sort(log.last_token_s) >= last - slack)
    assert np.median(np.sort(log.first_token_s) - first) < 0.05
    # The headers came first: their arrival is not the first token's.
    assert np.all(log.first_token_s - log.first_byte_s > 0.02)


@pytest.mark.parametrize("profile", [Poisson(60.0), Concurrency(6)], ids=str)
def test_workers_share_one_plan(server: PacedServer, profile: Poisson | Concurrency) -> None:
    asked = workload(input=Lengths(20, "lognormal", 0.5), output=Lengths(4))
    count = 30
    one, three = (
        run(server.endpoint("ok/2/1"), profile, asked=asked, max_requests=count, options=LoadOptions(workers=workers))
        for workers in (1, 3)
    )
    assert outcomes(one) == outcomes(three) == {Outcome.OK: count}
    assert sorted(three.log.session) == list(range(count))
    assert set(three.log.worker) == {0, 1, 2}
    assert [health.requests for health in three.health.workers] == [10, 10, 10]
    if isinstance(profile, Poisson):
        assert rows(one) == rows(three)
    else:
        assert {row[:2] + row[3:] for row in rows(one)} == {row[:2] + row[3:] for row in rows(three)}


def test_no_run_asks_what_an_earlier_one_has_asked(server: PacedServer) -> None:
    def prompts(behaviour: str, workers: int, content_seed: int | None) -> set[tuple[int, ...]]:
        run(server.endpoint(behaviour), Constant(40.0), 0.25, options=LoadOptions(workers=workers, content_seed=content_seed))
        return {tuple(truth["body"]["prompt"]) for truth in server.truth(behaviour)}

    first, second = prompts("ok/1/1.1", 1, None), prompts("ok/1/1.2", 1, None)
    assert (len(first), len(second), first & second) == (10, 10, set())
    assert prompts("ok/1/1.3", 1, 5) == prompts("ok/1/1.4", 2, 5)


def test_no_more_workers_than_users(server: PacedServer) -> None:
    result = run(server.endpoint("ok"), Concurrency(2), max_requests=4, options=LoadOptions(workers=5))
    assert len(result.health.workers) == 2
    assert "2 of 5 workers used" in result.health.notes[0]


def test_a_closed_loop_keeps_its_users_busy(server: PacedServer) -> None:
    result = run(server.endpoint("ok/20/2"), Concurrency(4), 1.0, warmup_s=0.3)
    log = result.log
    # Never more in flight than users, and all of them most of the time.
    changes = sorted([(t, 1) for t in log.scheduled_s] + [(t, -1) for t in log.end_s])
    in_flight = np.cumsum([step for _, step in changes])
    assert in_flight.max() == 4
    assert np.sum(log.end_s - log.scheduled_s) > 0.9 * 4 * 1.3
    assert log.scheduled_s.max() < 1.3 == result.window_end_s
    assert log.warmup.any()
    assert np.array_equal(log.warmup, log.scheduled_s < 0.3)
    assert sorted(log.session[~log.warmup]) == list(range(np.count_nonzero(~log.warmup)))
    assert set(log.session[log.warmup]) == {-1 - number for number in range(np.count_nonzero(log.warmup))}
    # Four users need four connections.
    assert len({truth["connection"] for truth in server.truth("ok/20/2")}) == 4


def test_think_time(server: PacedServer) -> None:
    log = run(server.endpoint("ok"), Concurrency(1, think_time_s=0.1), max_requests=4).log
    assert np.allclose(log.scheduled_s[1:] - log.end_s[:-1], 0.1)


def test_a_closed_loop_of_a_count_ends_with_its_last_answer(server: PacedServer) -> None:
    result = run(server.endpoint("ok/10"), Concurrency(2), 60.0, max_requests=5)
    assert len(result.log) == 5
    assert result.window_end_s == result.log.end_s.max() < 30


def test_open_loop_never_waits_for_a_connection(server: PacedServer) -> None:
    result = run(server.endpoint("ok/700/0"), Constant(100.0), 0.5)
    assert outcomes(result) == {Outcome.OK: 50}
    # All were sent before the first was answered.
    assert result.log.sent_s.max() < result.log.first_token_s.min()
    assert len({truth["connection"] for truth in server.truth("ok/700/0")}) == 50


@pytest.mark.parametrize("profile", [Constant(10.0), Concurrency(3)], ids=str)
def test_sessions(server: PacedServer, profile: Constant | Concurrency) -> None:
    turns = Turns(count=Lengths(3), input=Lengths(5), pause=0.05)
    asked = workload(turns=turns, shared_prefix=SharedPrefix(8, 2))
    behaviour = f"ok/6/{1 if isinstance(profile, Constant) else 2}"
    result = run(server.endpoint(behaviour), profile, 5.0, asked=asked, max_requests=6, options=LoadOptions(workers=2))
    log = result.log
    if isinstance(profile, Concurrency):
        assert len(log) == 18
    plan = plan_load(profile, asked, 5.0, seed=1, warmup_s=0, max_requests=6)
    for number in set(log.session.tolist()):
        mine = np.flatnonzero(log.session == number)
        assert log.turn[mine].tolist() == list(range(len(mine)))
        assert log.planned_prompt_tokens[mine].tolist() == [12, 23, 34][: len(mine)]
        pauses = [turn.pause_s for turn in plan.session(number).turns[1 : len(mine)]]
        assert np.allclose(log.scheduled_s[mine[1:]] - log.end_s[mine[:-1]], pauses)
    prompts = [truth["body"]["prompt"] for truth in server.truth(behaviour)]
    first = {tuple(prompt) for prompt in prompts if len(prompt) == 12}
    assert all(tuple(prompt[:12]) in first for prompt in prompts)


def test_chat(server: PacedServer) -> None:
    result = run(server.endpoint("ok/3/3"), asked=workload(api="chat"))
    assert outcomes(result) == {Outcome.OK: 4}
    assert result.log.output_tokens.tolist() == [6] * 4
    assert any("text of about a word a token" in note for note in result.health.notes)


def test_several_tokens_a_chunk(server: PacedServer) -> None:
    log = run(server.endpoint("three_a_chunk")).log
    assert log.chunk_tokens.tolist() == [3, 3] * 4


def test_progress(server: PacedServer) -> None:
    seen: list[LoadProgress] = []
    plan = plan_load(Constant(20.0), WORKLOAD, 1.0, seed=1, warmup_s=0.6)
    run_load(plan, server.endpoint("ok"), on_progress=seen.append)
    assert [p.duration_s for p in seen] == [1.6] * len(seen)
    assert [p.elapsed_s for p in seen] == sorted(p.elapsed_s for p in seen)
    assert seen[-1].finished >= seen[0].finished
    assert seen[-1].finished > 0
    assert seen[-1].output_tokens > seen[-1].finished
    assert seen[0].warming_up
    assert not seen[-1].warming_up


def test_health(server: PacedServer) -> None:
    health = run(server.endpoint("ok"), Constant(50.0), 1.0).health
    assert (health.planned_requests, health.sent_requests) == (50, 50)
    worker = health.workers[0]
    assert 0 <= worker.lateness_p50_s <= worker.lateness_p99_s <= worker.lateness_max_s < 1
    assert 0 <= worker.loop_lag_p99_s <= worker.loop_lag_max_s < 1
    assert 0 < worker.cpu_share < 1.5
    assert (health.unreachable_requests, health.lost_workers) == (0, 0)


def test_a_long_drain_makes_no_busy_client_look_idle(server: PacedServer) -> None:
    busy = run(server.endpoint("stall"), Constant(300.0), 0.5, asked=workload(timeout=0.2))
    # The same, and then three seconds of waiting for answers that do not come.
    drained = run(server.endpoint("stall"), Constant(300.0), 0.5, asked=workload(timeout=3.0))
    assert drained.log.end_s.max() > 3
    assert drained.health.workers[0].cpu_share > busy.health.workers[0].cpu_share / 2


def test_a_name_with_several_addresses(server: PacedServer) -> None:
    # Where localhost is ::1 as well, nobody listens there.
    result = run(Endpoint(f"http://localhost:{server.port}/ok", "m"))
    assert outcomes(result) == {Outcome.OK: 4}


def test_without_uvloop(server: PacedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run(server.endpoint("stale"), Constant(50.0), 0.5)
    assert outcomes(result) == {Outcome.OK: 25}
    assert result.health.notes[0] == "uvloop is not available: asyncio's own loop was used"


@pytest.mark.parametrize(
    ("url", "message"), [("ftp://h", "not an http or https URL"), ("http://no.such.host.invalid", "cannot be resolved")]
)
def test_an_endpoint_that_cannot_be(url: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        run(Endpoint(url, "m"))


def test_no_workers() -> None:
    with pytest.raises(LoadError, match="0 workers"):
        run(Endpoint("http://h", "m"), options=LoadOptions(workers=0))
