"""A load's log beside what the paced server knows of the same requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.records import LoadResult
from tests.perf.paced_go import Floats, Truth, monotonic_of_wall, server_ids


@dataclass(frozen=True)
class Errors:
    """How far a client's numbers are off, in seconds."""

    ttft_s: Floats
    """A value a request: (client: first token - sent) - (server: write of the first token - arrival in its kernel)."""
    itl_s: Floats
    """A value a gap between two tokens of a request: (client: between their arrivals) - (server: between their writes)."""
    arrival_s: Floats
    """A value a token: the client's instant of its arrival - the instant just before its write."""


def errors_of(result: LoadResult, plan: LoadPlan, content_seed: int, truth: Truth) -> Errors:
    """The errors of every measured request that ended well. Raises ``ValueError`` for one that the server does not know."""
    log = result.log
    rows = np.flatnonzero(~log.warmup & (log.outcome == 0))
    at_server = _rows_of(server_ids(plan, content_seed, log.session[rows].tolist()), truth)
    counts = np.diff(log.chunk_start)[rows]
    if not (np.array_equal(counts, truth.written[at_server]) and np.all(log.chunk_tokens == 1)):
        raise ValueError("the client has not one chunk for each token that the server wrote")
    of_row = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(len(of_row)) - np.repeat(np.cumsum(counts) - counts, counts)
    arrived = log.chunk_s[log.chunk_start[rows][of_row] + place]
    wrote = truth.wrote_s[truth.start[at_server][of_row] + place]
    within = place[1:] > 0
    return Errors(
        ttft_s=log.first_token_s[rows] - log.sent_s[rows] - truth.ttft_s[at_server],
        itl_s=(np.diff(arrived) - np.diff(wrote))[within],
        arrival_s=arrived + monotonic_of_wall(result.started_at) - wrote,
    )


def _rows_of(ids: NDArray[np.uint64], truth: Truth) -> NDArray[np.int64]:
    order = np.argsort(truth.id)
    place = np.minimum(np.searchsorted(truth.id[order], ids), len(order) - 1)
    found: NDArray[np.int64] = order[place]
    if not np.array_equal(truth.id[found], ids):
        raise ValueError("the server has not seen every request that the client has an answer to")
    return found


def p99(errors_s: Floats) -> float:
    """The 99th percentile of the errors' absolute values."""
    return float(np.quantile(np.abs(errors_s), 0.99))


@dataclass(frozen=True)
class Arrivals:
    """What an arrival process is, by the instants of its arrivals."""

    gap_cv: float
    """Standard deviation of the gaps over their mean: 0 for a constant pace, 1 for a Poisson process."""
    dispersion: float
    """Variance over mean of the counts in stretches of ten mean gaps: 1 for a Poisson process."""
    lag1: float
    """Correlation of neighbouring gaps: 0 where each is drawn by itself; nan where all gaps are equal."""

    @classmethod
    def of(cls, instants_s: Floats) -> Arrivals:
        """Of instants in any order, shape (n,)."""
        instants_s = np.sort(instants_s)
        gaps = np.diff(instants_s)
        stretch = 10 * float(gaps.mean())
        counts = np.bincount(((instants_s - instants_s[0]) / stretch).astype(np.int64))[:-1]
        spread = float(gaps.std())
        lag1 = float(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) if spread > 1e-9 * gaps.mean() else float("nan")
        return cls(spread / float(gaps.mean()), float(counts.var() / counts.mean()), lag1)
