"""What the load engine costs and how truly it measures, against a paced server on this machine. Prints a table.

Limits here are several times what a quiet two-core machine shows: they catch a change of kind, not a noisy neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import pytest

from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.load.engine import LoadOptions, run_load
from pytest_llmperf.load.messages import ROW, Seen
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.prompts import FIRST_TOKEN_ID, session_tokens
from pytest_llmperf.load.records import LoadResult, Outcome
from pytest_llmperf.load.sightings import WorkerView, sighting_of
from pytest_llmperf.units import format_duration
from tests.unit.load.conftest import PacedServer, running_server
from tests.unit.load.loads import run, workload

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def paced() -> Iterator[PacedServer]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    rows: dict[str, str] = {}
    yield rows
    width = max((len(row) for row in rows), default=0)
    lines = "\n".join(f"  {row:<{width}}  {value}" for row, value in rows.items())
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nload engine\n{lines}")


def cpu_per_token_s(result: LoadResult) -> float:
    """CPU of the driving (decoding comes after) divided by the tokens received."""
    driven_s = float(result.log.end_s.max())
    return sum(worker.cpu_share for worker in result.health.workers) * driven_s / int(result.log.output_tokens.sum())


@pytest.mark.parametrize(("streams", "limit_s"), [(100, 60e-6), (400, 60e-6)])
def test_cpu_per_token(paced: PacedServer, table: dict[str, str], streams: int, limit_s: float) -> None:
    asked = workload(output=Lengths(400))
    result = run(paced.endpoint(f"step/1/{10}"), Concurrency(streams), asked=asked, max_requests=streams * 2)
    assert set(result.log.outcome) == {Outcome.OK}
    tokens_per_s = int(result.log.output_tokens.sum()) / float(result.log.end_s.max())
    cpu_s = cpu_per_token_s(result)
    health = result.health.workers[0]
    table[f"CPU per token, {streams} streams"] = (
        f"{format_duration(cpu_s)} at {tokens_per_s:,.0f} tokens/s, {health.cpu_share:.0%} of a core, "
        f"loop lag p99 {format_duration(health.loop_lag_p99_s)}"
    )
    assert cpu_s < limit_s


def window_cpu_per_token_s(result: LoadResult) -> float:
    """CPU in the window divided by the tokens received in it."""
    length_s = result.window_end_s - result.window_start_s
    received = (result.log.chunk_s >= result.window_start_s) & (result.log.chunk_s < result.window_end_s)
    cpu_s = sum(worker.cpu_share for worker in result.health.workers) * length_s
    return cpu_s / int(result.log.chunk_tokens[received].sum())


@pytest.mark.parametrize(("streams", "tokens"), [(100, 300), (400, 300), (200, 50)])
def test_cost_of_being_watched(paced: PacedServer, table: dict[str, str], streams: int, tokens: int) -> None:
    """The same load in turns, watched and not. Every event is looked at once more, but never while another waits."""
    asked = workload(output=Lengths(tokens, "uniform", min=tokens // 2))
    results: dict[bool, list[LoadResult]] = {False: [], True: []}
    for watched in (False, True, True, False):
        watch = (lambda _: False) if watched else None
        load = run(paced.endpoint("step/1/10"), Concurrency(streams), 7.0, asked=asked, warmup_s=1.0, watch=watch)
        assert set(load.log.outcome) == {Outcome.OK}
        results[watched].append(load)
    unwatched_s, watched_s = (float(np.mean([*map(window_cpu_per_token_s, results[watched])])) for watched in (False, True))
    lags_s = [min(load.health.workers[0].loop_lag_p99_s for load in results[watched]) for watched in (False, True)]
    table[f"CPU per token while watched, {streams} streams of {tokens} tokens"] = (
        f"{format_duration(watched_s)}, {watched_s / unwatched_s - 1:+.0%}; "
        f"loop lag p99 {format_duration(lags_s[1])}, unwatched {format_duration(lags_s[0])}"
    )
    assert watched_s < 1.6 * unwatched_s


@pytest.mark.parametrize("watched", [False, True])
def test_ttft_against_the_servers_truth(paced: PacedServer, table: dict[str, str], watched: bool) -> None:
    behaviour = "ok/20/10.0" if watched else "ok/20/10"
    asked = workload(input=Lengths(32), output=Lengths(50))
    plan = plan_load(Constant(80), asked, 5.0, seed=3, warmup_s=0.0)
    watch = (lambda _: False) if watched else None
    result = run_load(plan, paced.endpoint(behaviour), LoadOptions(content_seed=plan.seed), watch=watch)
    log = result.log
    assert set(log.outcome) == {Outcome.OK}
    first = {tuple(truth["body"]["prompt"]): truth["first"] for truth in paced.truth(behaviour)}
    prompts = [session_tokens(plan.session(int(number)), plan.seed, 0, 32) + FIRST_TOKEN_ID for number in log.session]
    written = np.array([first[tuple(prompt.tolist())] for prompt in prompts])
    error_s = log.first_token_s + result.started_at - written
    p50, p99 = np.quantile(error_s, [0.5, 0.99])
    table[f"TTFT read after it was written, 4,000 tokens/s{', watched' * watched}"] = (
        f"p50 {format_duration(p50)}, p99 {format_duration(p99)}"
    )
    assert p50 < 0.005


@pytest.mark.parametrize("watched", [False, True])
def test_lateness_at_a_thousand_requests_a_second(paced: PacedServer, table: dict[str, str], watched: bool) -> None:
    watch = (lambda _: False) if watched else None
    asked = workload(output=Lengths(2))
    result = run(paced.endpoint("two_in_one/20"), Constant(1000), 4.0, asked=asked, warmup_s=0.5, watch=watch)
    assert len(result.log) == 4500
    assert set(result.log.outcome) == {Outcome.OK}
    health = result.health.workers[0]
    table[f"lateness at 1,000 requests/s{', watched' * watched}"] = (
        f"p50 {format_duration(health.lateness_p50_s)}, p99 {format_duration(health.lateness_p99_s)}, "
        f"max {format_duration(health.lateness_max_s)}, {health.cpu_share:.0%} of a core"
    )
    assert health.lateness_p50_s < 0.005


def test_a_sighting_of_ten_thousand_requests(table: dict[str, str]) -> None:
    views = [WorkerView() for _ in range(4)]
    for worker, view in enumerate(views):
        rows = np.zeros(2500, dtype=ROW)
        rows["scheduled_s"] = np.sort(np.random.default_rng(worker).uniform(0.0, 100.0, 2500))
        view.take(Seen(100.0, np.arange(2500), rows))
    took_s = []
    for _ in range(20):
        began_s = perf_counter()
        sighting = sighting_of(views, 100.0)
        took_s.append(perf_counter() - began_s)
        assert len(sighting) == 10_000
    table["a sighting of 10,000 requests"] = format_duration(float(np.median(took_s)))
    assert np.median(took_s) < 0.01
