"""Summarise a large load in a process of its own, so that its time and its memory are nobody else's.

``python -m tests.perf.summarise REQUESTS TOKENS``: makes the log of a load with so many requests of so many tokens, then does
what follows a load, and prints JSON: seconds by step, and the peak memory with the log in it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from pytest_llmperf.experiment.sla import parse_sla
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.ruling import judge_run
from pytest_llmperf.load.records import ClientHealth, LoadResult, Outcome, RequestLog, WorkerHealth
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.steady import steadiness
from pytest_llmperf.measure.trust import DEFAULT_LIMITS, distrust
from pytest_llmperf.report.document import run_document, to_json
from tests.unit.report.runs import run_of

RATE_PER_S = 1000.0
FAILED = 0.001
SLA = {
    "ttft": {"p50": "250ms", "p99": "1s", "mean": "1s"},
    "tpot": {"p95": "50ms"},
    "itl": {"p99": "100ms", "mean": "50ms"},
    "output_tokens_per_s": "10",
    "error_rate": "1%",
}
TTFT_S, ITL_S = 0.2, 0.02


def large_log(requests: int, tokens: int, seed: int = 1) -> RequestLog:
    """Poisson arrivals; TTFT and gaps spread as a server's are; one in a thousand requests failed without a token."""
    rng = np.random.default_rng(seed)
    scheduled = np.cumsum(rng.exponential(1 / RATE_PER_S, requests))
    failed = rng.random(requests) < FAILED
    counts = np.where(failed, 0, tokens)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    chunk_s = rng.gamma(4.0, ITL_S / 4, int(start[-1]))
    # The first gap of a request is its TTFT; sums within a request are a running sum less what came before it.
    chunk_s[start[:-1][~failed]] = rng.gamma(4.0, TTFT_S / 4, int((~failed).sum()))
    np.cumsum(chunk_s, out=chunk_s)
    before = np.concatenate([[0.0], chunk_s])[start[:-1]]
    chunk_s += np.repeat(scheduled - before, counts)
    has = np.flatnonzero(~failed)
    first, last = np.full(requests, np.nan), np.full(requests, np.nan)
    first[has], last[has] = chunk_s[start[has]], chunk_s[start[has + 1] - 1]
    return RequestLog(
        scheduled_s=scheduled,
        sent_s=scheduled + 0.0001,
        connected_s=scheduled + 0.0001,
        first_byte_s=first,
        first_token_s=first,
        last_token_s=last,
        end_s=np.where(failed, scheduled + 1.0, last),
        outcome=np.where(failed, Outcome.TIMEOUT, Outcome.OK).astype(np.uint8),
        http_status=np.full(requests, 200, np.int16),
        prompt_tokens=np.full(requests, 128),
        output_tokens=counts,
        usage_reported=np.ones(requests, np.bool_),
        planned_prompt_tokens=np.full(requests, 128),
        planned_output_tokens=np.full(requests, tokens),
        received_bytes=counts * 200,
        session=np.arange(requests),
        turn=np.zeros(requests, np.int32),
        worker=np.zeros(requests, np.int16),
        warmup=np.zeros(requests, np.bool_),
        error=tuple("timeout total" if bad else "" for bad in failed),
        chunk_start=start,
        chunk_s=chunk_s,
        chunk_tokens=np.ones(int(start[-1]), np.uint16),
        chunk_read_lag_s=np.full(int(start[-1]), 1e-4, np.float32),
    )


def large_load(requests: int, tokens: int) -> LoadResult:
    """The load that left it."""
    log = large_log(requests, tokens)
    worker = WorkerHealth(0, requests, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0)
    health = ClientHealth((worker,), requests, requests)
    return LoadResult(log, health, 1_750_000_000.0, 0.0, float(log.scheduled_s[-1]), interrupted=False)


def peak_bytes() -> int:
    """The most memory this process has held at once since it was asked to forget."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(requests: int, tokens: int) -> None:
    """Print what it took."""
    load = large_load(requests, tokens)
    Path("/proc/self/clear_refs").write_text("5")
    found: dict[str, float] = {"log_bytes": peak_bytes()}
    began = perf_counter()

    def took(step: str) -> None:
        nonlocal began
        found[step] = perf_counter() - began
        began = perf_counter()

    steady = steadiness(load)
    took("steadiness_s")
    metrics = measure(load, price_per_hour=10.0, extra_warmup_s=steady.extra_warmup_s)
    metrics.standard()
    took("measure_s")
    run = replace(run_of([]), result=load, metrics=metrics, steadiness=steady, invalid=distrust(load.health, DEFAULT_LIMITS))
    found["measured_peak_bytes"] = peak_bytes()
    verdicts = [judge_run(run, parse_sla("large", SLA), policy) for policy in Policy]
    took("judge_s")
    for verdict in verdicts:
        to_json(run_document(run, verdict))
    took("document_s")
    found["peak_bytes"] = peak_bytes()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
