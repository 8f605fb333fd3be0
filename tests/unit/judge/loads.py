"""Loads on an imagined server, as logs: finished, or as they looked while they ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.experiment.sla import Sla, parse_sla
from pytest_llmperf.judge.policy import Settled
from pytest_llmperf.judge.until import Until
from pytest_llmperf.load.plan import LoadPlan, plan_load
from pytest_llmperf.load.records import Floats, LoadResult
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.observations import as_of
from pytest_llmperf.measure.run import Run, Steadiness, Stopped
from pytest_llmperf.measure.steady import steadiness
from tests.unit.measure.logs import Asked, failed, result_of, streamed, worker_health
from tests.unit.report.runs import run_of, workload

RATE = 10.0


def sla(document: Mapping[str, object]) -> Sla:
    return parse_sla("chat", document)


def plan(requests: int, *, open_loop: bool = True) -> LoadPlan:
    """Ten requests a second, without a warm-up; or as many by three users."""
    profile = Constant(RATE) if open_loop else Concurrency(3)
    return plan_load(profile, workload(), None, seed=1, warmup_s=0.0, max_requests=requests)


def answered(ttfts_s: Iterable[float], *, gap_s: float = 0.02, tokens: int = 4, failing: Iterable[int] = ()) -> LoadResult:
    """Ten requests a second with these times to the first token; those whose places are in ``failing`` fail after 1 s."""
    bad = set(failing)
    asked = [
        failed(i / RATE) if i in bad else streamed(i / RATE, float(ttft_s), gap_s, tokens) for i, ttft_s in enumerate(ttfts_s)
    ]
    return loaded(asked)


def loaded(asked: list[Asked]) -> LoadResult:
    """A load of these requests by a client without delay, whose window ends with the last arrival."""
    result = result_of(asked, (0.0, max((one.scheduled_s for one in asked), default=0.0)))
    punctual = replace(worker_health(lateness_p99_s=0.0, loop_lag_p99_s=0.0), lateness_p50_s=0.0)
    return replace(result, health=replace(result.health, workers=(punctual,)))


def spread(n: int, seed: int = 0, median_s: float = 0.1) -> Floats:
    """Independent latencies of a lognormal distribution, sigma 0.5: its p95 is 2.28 medians, its p99 3.2."""
    return median_s * np.exp(0.5 * np.random.default_rng(seed).normal(size=n))


def queue(requests: int, capacity_per_s: float, seed: int = 0, rate: float = RATE) -> LoadResult:
    """Poisson arrivals at a server that begins so many answers a second, in order of arrival."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))
    free_s, asked = 0.0, []
    for at in arrivals.tolist():
        free_s = max(free_s, at) + 1 / capacity_per_s
        asked.append(Asked(at, ((free_s, 1), (free_s + 0.5, 20))))
    return loaded(asked)


def run(result: LoadResult, stopped: Stopped | None = None, steady: Steadiness | None = None) -> Run:
    """A run of that load."""
    found = steady or steadiness(result)
    metrics = measure(result, price_per_hour=2.1, extra_warmup_s=found.extra_warmup_s)
    return replace(run_of([]), result=result, metrics=metrics, steadiness=found, stopped=stopped)


def watched(until: Until, result: LoadResult, every_s: float = 1.0) -> Settled | None:
    """What is settled, and when, if somebody looks at the load every second until its last arrival."""
    for now_s in np.arange(every_s, result.window_end_s, every_s).tolist():
        if (settled := until.look(as_of(result, now_s))) is not None:
            return settled
    return None


def ended(result: LoadResult, settled: Settled) -> tuple[LoadResult, Stopped]:
    """The same load, ended when its verdict was settled: nothing further is asked, what is in flight is awaited."""
    at_s = settled.at_s + 0.05
    asked = int(np.searchsorted(result.log.scheduled_s, at_s, side="right"))
    log = result.log
    columns = {name: getattr(log, name)[:asked] for name in log.__dataclass_fields__ if not name.startswith("chunk_")}
    chunks = int(log.chunk_start[asked])
    shorter = replace(
        log,
        **columns,
        chunk_start=log.chunk_start[: asked + 1],
        chunk_s=log.chunk_s[:chunks],
        chunk_tokens=log.chunk_tokens[:chunks],
        chunk_read_lag_s=log.chunk_read_lag_s[:chunks],
    )
    saved_s = result.window_end_s - at_s
    stopped = Stopped(settled.reason, settled.outcome.value, at_s, saved_s)
    return replace(result, log=shorter, window_end_s=at_s, stopped_s=at_s), stopped
