"""Small logs written by hand: one ``Asked`` a request, turned into the columns a load leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from pytest_llmperf.load.records import ClientHealth, LoadResult, Outcome, RequestLog, WorkerHealth

NAN = math.nan


@dataclass(frozen=True)
class Asked:
    """One request. ``chunks`` are (arrival in seconds, tokens); times not given follow from them."""

    scheduled_s: float
    chunks: tuple[tuple[float, int], ...] = ()
    sent_s: float | None = None
    end_s: float | None = None
    outcome: Outcome = Outcome.OK
    output_tokens: int | None = None
    prompt_tokens: int = 10
    warmup: bool = False
    error: str = ""

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.chunks) if self.output_tokens is None else self.output_tokens

    @property
    def ended_s(self) -> float:
        if self.end_s is not None:
            return self.end_s
        return self.chunks[-1][0] if self.chunks else self.scheduled_s + 1.0


def streamed(scheduled_s: float, ttft_s: float, gap_s: float = 0.1, tokens: int = 2, *, warmup: bool = False) -> Asked:
    """A request answered with one token a chunk at an even pace."""
    chunks = tuple((scheduled_s + ttft_s + i * gap_s, 1) for i in range(tokens))
    return Asked(scheduled_s, chunks, warmup=warmup)


def failed(scheduled_s: float, outcome: Outcome = Outcome.TIMEOUT, error: str = "timeout") -> Asked:
    """A request that got no token."""
    return Asked(scheduled_s, outcome=outcome, error=error)


def stands_in(counted: Sequence[Asked], has: Callable[[Asked], bool]) -> list[bool]:
    """By a loop: which of the failed ones count as a latency that only the answered ones with ``has`` have."""
    answered = having = standing = 0
    owed, found = 0.0, []
    for one in counted:
        if one.outcome is Outcome.OK:
            answered, having = answered + 1, having + has(one)
            found.append(False)
            continue
        owed += having / answered if answered else 1.0
        found.append(math.ceil(owed - 1e-9) > standing)
        standing += found[-1]
    return found


def log_of(asked: Sequence[Asked]) -> RequestLog:
    """The log of these requests."""
    n = len(asked)
    sent = np.array([a.scheduled_s if a.sent_s is None else a.sent_s for a in asked])
    first = np.array([a.chunks[0][0] if a.chunks else NAN for a in asked])
    flat = [chunk for a in asked for chunk in a.chunks]
    return RequestLog(
        scheduled_s=np.array([a.scheduled_s for a in asked]),
        sent_s=sent,
        connected_s=sent,
        first_byte_s=first,
        first_token_s=first,
        last_token_s=np.array([a.chunks[-1][0] if a.chunks else NAN for a in asked]),
        end_s=np.array([a.ended_s for a in asked]),
        outcome=np.array([a.outcome for a in asked], np.uint8),
        http_status=np.full(n, 200, np.int16),
        prompt_tokens=np.array([a.prompt_tokens for a in asked], np.int64),
        output_tokens=np.array([a.tokens for a in asked], np.int64),
        usage_reported=np.ones(n, np.bool_),
        planned_prompt_tokens=np.array([a.prompt_tokens for a in asked], np.int64),
        planned_output_tokens=np.array([a.tokens for a in asked], np.int64),
        received_bytes=np.zeros(n, np.int64),
        session=np.arange(n, dtype=np.int64),
        turn=np.zeros(n, np.int32),
        worker=np.zeros(n, np.int16),
        warmup=np.array([a.warmup for a in asked], np.bool_),
        error=tuple(a.error for a in asked),
        chunk_start=np.array([0, *accumulate(len(a.chunks) for a in asked)], np.int64),
        chunk_s=np.array([at for at, _ in flat], np.float64),
        chunk_tokens=np.array([count for _, count in flat], np.uint16),
    )


def worker_health(
    worker: int = 0,
    *,
    requests: int = 100,
    lateness_p99_s: float = 0.001,
    loop_lag_p99_s: float = 0.001,
    cpu_share: float = 0.2,
) -> WorkerHealth:
    """A worker that kept up, but for what is given."""
    return WorkerHealth(
        worker=worker,
        requests=requests,
        lateness_p50_s=0.0001,
        lateness_p99_s=lateness_p99_s,
        lateness_max_s=2 * lateness_p99_s,
        loop_lag_p99_s=loop_lag_p99_s,
        loop_lag_max_s=2 * loop_lag_p99_s,
        cpu_share=cpu_share,
        connect_failures=0,
    )


def healthy(requests: int) -> ClientHealth:
    """A client that did all it was to do."""
    return ClientHealth((worker_health(requests=requests),), requests, requests)


def result_of(asked: Sequence[Asked], window: tuple[float, float] = (0.0, 10.0)) -> LoadResult:
    """A load with these requests, counted within ``window``."""
    return LoadResult(log_of(asked), healthy(len(asked)), 1_750_000_000.25, *window, interrupted=False)
