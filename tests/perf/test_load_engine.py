"""What the load engine costs and how truly it measures, against a paced server on this machine that knows the truth.

Each figure has its target in the table. What is asserted is several times that: it catches a change of kind, not a noisy
neighbour. Where a load is made several times the table shows the best, and all of them: a neighbour only ever adds.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from time import perf_counter

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import Concurrency, Constant, Gamma, LoadProfile, Poisson
from pytest_llmperf.experiment.records import Lengths, Workload
from pytest_llmperf.load.engine import LoadOptions, run_load
from pytest_llmperf.load.messages import ROW, Seen
from pytest_llmperf.load.plan import LoadPlan, plan_load
from pytest_llmperf.load.records import LoadResult, Outcome
from pytest_llmperf.load.sightings import WorkerView, sighting_of
from pytest_llmperf.load.watch import Watch
from pytest_llmperf.units import format_duration
from tests.perf.against_truth import Arrivals, Errors, errors_of, p99
from tests.perf.figures import Table, best_of
from tests.perf.paced_go import Paced

pytestmark = pytest.mark.timeout(300)

TIMES = 3
LENIENT = 5
"""How many times its target a figure may be before its test fails."""
US, MS = 1e6, 1e3


@dataclass(frozen=True)
class Load:
    """A load, with all that its figures are computed from."""

    plan: LoadPlan
    result: LoadResult
    cpu_s: float
    """Of the workers' whole life: starting, driving, decoding."""


def drive(
    endpoint: Endpoint,
    profile: LoadProfile,
    duration_s: float,
    output: Lengths,
    *,
    warmup_s: float = 1.5,
    workers: int = 1,
    watch: Watch | None = None,
) -> Load:
    """Make a load in which every request ends well."""
    asked = Workload("w", "W", Lengths(32), output, timeout=60.0)
    plan = plan_load(profile, asked, duration_s, seed=3, warmup_s=warmup_s)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_load(plan, endpoint, LoadOptions(workers=workers, content_seed=plan.seed), watch=watch)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert set(result.log.outcome) == {Outcome.OK}
    return Load(plan, result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def tokens_in_window(result: LoadResult) -> int:
    """Those of requests of the warm-up too."""
    within = (result.log.chunk_s >= result.window_start_s) & (result.log.chunk_s < result.window_end_s)
    return int(result.log.chunk_tokens[within].sum())


def cpu_per_token_s(result: LoadResult) -> float:
    """CPU of the driving in the window, over the tokens received in it."""
    length_s = result.window_end_s - result.window_start_s
    return sum(worker.cpu_share for worker in result.health.workers) * length_s / tokens_in_window(result)


@dataclass(frozen=True)
class Streams:
    """Loads of one number of streams."""

    loads: list[Load]
    errors: list[Errors]
    floor_s: list[float]
    """CPU a read of a program that reads the same streams and keeps nothing, taken before each load."""

    @property
    def cpu_s(self) -> list[float]:
        """Per token, of each load."""
        return [cpu_per_token_s(load.result) for load in self.loads]

    @property
    def tokens_per_s(self) -> float:
        """Of all loads."""
        seconds = sum(load.result.window_end_s - load.result.window_start_s for load in self.loads)
        return sum(tokens_in_window(load.result) for load in self.loads) / seconds


@pytest.fixture(scope="module")
def streams(paced: Paced) -> object:
    """``streams(mode, n)``: n streams of 100 tokens/s each, several times; measured once a session.

    Answers have 50 to 150 tokens, so that after some of them requests end and begin evenly: unless the mode is ``herd``, where
    all have 100 and the users, who came together, stay together, so that every second all end and begin within milliseconds.
    """

    @cache
    def of(mode: str, count: int) -> Streams:
        output = Lengths(100) if mode == "herd" else Lengths(100, "uniform", min=50, max=150)
        endpoint = paced.endpoint("spread" if mode == "herd" else mode, 20, 10)
        loads, errors, floor_s = [], [], []
        for _ in range(TIMES):
            floor_s.append(paced.floor_s("step" if mode == "step" else "spread", count))
            paced.reset()
            loads.append(drive(endpoint, Concurrency(count), 5.0, output, warmup_s=4.0))
            errors.append(errors_of(loads[-1].result, loads[-1].plan, loads[-1].plan.seed, paced.truth()))
        return Streams(loads, errors, floor_s)

    return of


PACES = pytest.mark.parametrize(
    ("mode", "count"), [("spread", 100), ("spread", 400), ("spread", 1000), ("step", 400), ("herd", 400)]
)
WAYS = {"spread": "", "step": ", in step", "herd": ", users in a herd"}


def named(mode: str, count: int) -> str:
    """How rows of a pace begin."""
    return f"{count:,} streams x 100/s{WAYS[mode]}"


@PACES
def test_cpu_per_token(streams, table: Table, mode: str, count: int) -> None:  # type: ignore[no-untyped-def]
    seen: Streams = streams(mode, count)
    whole_s = min(load.cpu_s / int(load.result.log.chunk_tokens.sum()) for load in seen.loads)
    table.add(
        f"CPU per token, {named(mode, count)}",
        f"{best_of(seen.cpu_s, 'µs', US)} at {seen.tokens_per_s:,.0f} tokens/s; with start and decoding "
        f"{whole_s * US:.3g} µs; a loop that keeps nothing {best_of(seen.floor_s, 'µs', US)}",
        "5 µs" if count == 400 and mode != "herd" else "",
        min(seen.cpu_s) <= 5e-6 if count == 400 and mode != "herd" else None,
    )
    assert min(seen.cpu_s) < LENIENT * min(seen.floor_s)


@PACES
def test_errors_against_the_truth(streams, table: Table, mode: str, count: int) -> None:  # type: ignore[no-untyped-def]
    seen: Streams = streams(mode, count)
    ttft = [p99(each.ttft_s) for each in seen.errors]
    itl = [p99(each.itl_s) for each in seen.errors]
    arrival = [p99(each.arrival_s) for each in seen.errors]
    asked = count in (100, 400) and mode != "herd"
    table.add(
        f"TTFT p99 error, {named(mode, count)}", best_of(ttft, "ms", MS), "1 ms" * asked, min(ttft) <= 1e-3 if asked else None
    )
    table.add(
        f"ITL p99 error, {named(mode, count)}", best_of(itl, "ms", MS), "0.5 ms" * asked, min(itl) <= 0.5e-3 if asked else None
    )
    table.add(f"arrival - write p99, {named(mode, count)}", best_of(arrival, "ms", MS))
    if asked:
        assert min(ttft) < LENIENT * 1e-3
        assert min(itl) < LENIENT * 0.5e-3


@pytest.mark.parametrize(
    ("profile", "ideal_cv"),
    [(Constant(1000), 0.0), (Poisson(1000), 1.0), (Gamma(1000, 0.25), 2.0)],
    ids=["constant", "poisson", "gamma"],
)
def test_arrivals_at_a_thousand_a_second(paced: Paced, table: Table, profile: LoadProfile, ideal_cv: float) -> None:
    late, server, planned = [], [], Arrivals(0, 0, 0)
    for _ in range(2):
        paced.reset()
        load = drive(paced.endpoint("spread", 20, 5), profile, 12.0, Lengths(2), warmup_s=1.0)
        late.append(load.result.health.workers[0].lateness_p99_s)
        # The first requests of the warm-up open the connections.
        warmup = len(load.plan.warmup_arrivals_s)
        server.append(Arrivals.of(np.sort(paced.truth().arrived_s)[warmup:]))
        planned = Arrivals.of(load.plan.arrivals_s)
    best = min(server, key=lambda seen: abs(seen.gap_cv - planned.gap_cv))
    name = f"{profile}, one worker"
    table.add(f"lateness p99, {name}", best_of(late, "ms", MS), "1 ms", min(late) <= 1e-3)
    table.add(
        f"gap CV at the server, {name}",
        f"{best.gap_cv:.4f} (plan {planned.gap_cv:.4f}, ideal {ideal_cv:g})",
        "within 0.03 of the plan",
        abs(best.gap_cv - planned.gap_cv) <= 0.03 * max(1.0, ideal_cv),
    )
    table.add(
        f"index of dispersion at the server, {name}",
        f"{best.dispersion:.4f} (plan {planned.dispersion:.4f})",
        "within 0.03 of the plan",
        abs(best.dispersion - planned.dispersion) <= 0.03 * max(1.0, planned.dispersion),
    )
    if ideal_cv:
        table.add(
            f"lag-1 autocorrelation at the server, {name}",
            f"{best.lag1:+.4f} (plan {planned.lag1:+.4f})",
            "0.02",
            abs(best.lag1) < 0.02,
        )
        assert abs(best.lag1) < LENIENT * 0.02
    assert min(late) < LENIENT * 1e-3
    assert abs(best.gap_cv - planned.gap_cv) < LENIENT * 0.03 * max(1.0, ideal_cv)


@pytest.mark.parametrize(("profile", "cv"), [(Poisson(1000), 1.0), (Gamma(1000, 0.25), 2.0)], ids=["poisson", "gamma"])
def test_a_plan_of_half_a_million_arrivals_is_the_process_it_is_named_after(
    table: Table, profile: LoadProfile, cv: float
) -> None:
    plan = plan_load(profile, Workload("w", "W", Lengths(1), Lengths(1)), 500.0, seed=5, warmup_s=0.0)
    seen = Arrivals.of(plan.arrivals_s)
    close = abs(seen.gap_cv / cv - 1) <= 0.03 and abs(seen.lag1) < 0.02
    # Stretches of a few gaps do not show a gamma process's dispersion yet, a Poisson process's is 1 in any.
    close &= cv != 1 or abs(seen.dispersion - 1) <= 0.03
    table.add(
        f"{profile}, planned for 500 s",
        f"gap CV {seen.gap_cv:.4f}, index of dispersion {seen.dispersion:.4f}, lag-1 {seen.lag1:+.4f}",
        f"gap CV {cv:g}{', dispersion 1' * (cv == 1)} within 3 %, lag-1 within 0.02",
        close,
    )
    assert close


PEAKS = pytest.mark.parametrize(("events", "users"), [(10, 500), (1, 400)], ids=["ten_events_a_write", "one_event_a_write"])


@PEAKS
def test_peak_of_requests_of_100_events(paced: Paced, table: Table, events: int, users: int) -> None:
    """Two workers beside the server. Ten events a write every 5 ms are an answer in 50 ms; one a write every 1 ms in 0.1 s."""
    rates, shares, server = [], [], 0.0
    for _ in range(2):
        paced.reset()
        began, cpu_s = perf_counter(), paced.cpu_s()
        load = drive(
            paced.endpoint("spread", 5, 5 if events > 1 else 1, events),
            Concurrency(users),
            4.0,
            Lengths(100),
            warmup_s=1.0,
            workers=2,
        )
        result = load.result
        driven_s = float(result.log.end_s.max())
        server = (paced.cpu_s() - cpu_s) / driven_s
        within = (result.log.end_s >= result.window_start_s) & (result.log.end_s < result.window_end_s)
        rates.append(np.count_nonzero(within) / (result.window_end_s - result.window_start_s))
        shares.append(sum(worker.cpu_share for worker in result.health.workers))
        assert perf_counter() > began
    best = int(np.argmax(rates))
    table.add(
        f"peak beside the server, 100 events, {events} a write, {users} users",
        f"{rates[best]:,.0f} requests/s; workers {shares[best]:.0%}, server {server:.0%} of a core",
        "6,000 requests/s" if events > 1 else "",
        bool(rates[best] >= 6000) if events > 1 else None,
    )
    assert rates[best] > (6000 if events > 1 else 1000) / LENIENT


@pytest.mark.parametrize(("count", "tokens"), [(400, 300), (200, 50)])
def test_cost_of_being_watched(paced: Paced, table: Table, count: int, tokens: int) -> None:
    """The same load in turns, watched and not. Every event is looked at once more, but never while another waits."""
    results: dict[bool, list[LoadResult]] = {False: [], True: []}
    for watched in (False, True, True, False):
        watch = (lambda _: False) if watched else None
        load = drive(paced.endpoint("step", 1, 10), Concurrency(count), 5.0, Lengths(tokens), warmup_s=1.0, watch=watch)
        results[watched].append(load.result)
    unwatched_s, watched_s = (float(np.mean([*map(cpu_per_token_s, results[watched])])) for watched in (False, True))
    lags_s = [min(load.health.workers[0].loop_lag_p99_s for load in results[watched]) for watched in (False, True)]
    table.add(
        f"CPU per token while watched, {count} streams of {tokens} tokens",
        f"{watched_s * US:.3g} µs, {watched_s / unwatched_s - 1:+.0%}; loop lag p99 {format_duration(lags_s[1])}, "
        f"unwatched {format_duration(lags_s[0])}",
    )
    assert watched_s < 1.6 * unwatched_s


def test_a_sighting_of_ten_thousand_requests(table: Table) -> None:
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
    table.add("a sighting of 10,000 requests", format_duration(float(np.median(took_s))))
    assert np.median(took_s) < 0.01


def told(*arguments: str) -> dict[str, float]:
    """What a program of this package prints."""
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True)
    printed: dict[str, float] = json.loads(done.stdout)
    return printed


def test_memory_per_token(paced: Paced, table: Table) -> None:
    """Loads that differ in one thing: what more recorded tokens cost, and what more tokens of answers that are under way."""
    base_url = paced.endpoint("spread", 20, 5).base_url
    few, many, longer = (
        told("tests.perf.footprint", base_url, "400", str(requests), str(tokens))
        for requests, tokens in ((800, 100), (6400, 100), (800, 1000))
    )
    assert few["worker_peak_bytes"] > few["floor_bytes"]
    more = many["tokens"] - few["tokens"]
    log = (many["log_bytes"] - few["log_bytes"]) / more
    worker = (many["worker_peak_bytes"] - few["worker_peak_bytes"]) / more
    table.add("memory per recorded token, the log", f"{log:.1f} bytes", "24 bytes", log <= 24)
    table.add("memory per recorded token, the worker's peak with decoding", f"{worker:.1f} bytes")
    # Half of the tokens are on their way at once, and each keeps its event's bytes until its answer has ended.
    under_way = (longer["worker_peak_bytes"] - few["worker_peak_bytes"]) / ((longer["tokens"] - few["tokens"]) / 2)
    table.add("memory per token under way, the worker's peak", f"{under_way:.0f} bytes")
    assert log < 2 * 24
    assert worker < LENIENT * 24
    assert under_way < 2000


def test_a_million_requests_are_summarised(table: Table) -> None:
    seen = told("tests.perf.summarise", "1000000", "30")
    seconds = seen["steadiness_s"] + seen["measure_s"]
    table.add(
        "1,000,000 requests of 30 tokens summarised: steadiness, metrics, intervals",
        f"{seconds:.1f} s, {seen['measured_peak_bytes'] / 1e9:.2f} GB with the log's {seen['log_bytes'] / 1e9:.2f}",
        "10 s, 2 GB",
        seconds <= 10 and seen["measured_peak_bytes"] <= 2e9,
    )
    table.add(
        "and judged by both policies, two documents",
        f"{seen['judge_s'] + seen['document_s']:.1f} s more, {seen['peak_bytes'] / 1e9:.2f} GB",
    )
    assert seconds < 3 * 10
    assert seen["peak_bytes"] < 1.5 * 2e9
