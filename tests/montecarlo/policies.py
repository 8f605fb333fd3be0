"""Ways to decide whether a quantile keeps its limit: the project's ``certain`` policy, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pytest_llmperf.judge.sequential import rule
from pytest_llmperf.judge.verdict import Outcome
from tests.montecarlo.systems import Floats, Trace

RISK = 0.05
"""The error of each direction that every policy here aims at."""
_LOOKS = 40
_LOOK_REQUESTS = 250
_EARLY_LOOK_REQUESTS = 20


@dataclass(frozen=True)
class Question:
    """A quantile of a latency, such as the p99 of TTFT."""

    metric: str
    quantile: float

    @property
    def may_exceed(self) -> float:
        """The share of requests that may be beyond the limit."""
        return 1 - self.quantile

    def __str__(self) -> str:
        return f"{self.metric.upper()} p{self.quantile * 100:g}"


@dataclass(frozen=True)
class Decision:
    """What a policy said, and how many seconds of load it took."""

    outcome: Outcome
    """PASS, FAIL or INCONCLUSIVE."""
    at_s: float


Policy = Callable[[Trace, Question, float], Decision]
"""Judges a run against a limit in seconds."""


def look_sizes(budget: int) -> NDArray[np.int64]:
    """After how many requests a run of ``budget`` requests is looked at: shape (looks,)."""
    every = max(budget // _LOOKS, _LOOK_REQUESTS)
    return np.arange(every, budget + 1, every, dtype=np.int64)


def certain(trace: Trace, question: Question, limit_s: float) -> Decision:
    """The policy under test: the first look at which its rule decides.

    It also looks at every 20 requests of the beginning, as a load that is watched every second does.
    """
    values = trace.latencies[question.metric]
    exceeds = (values > limit_s).astype(np.float64)
    looks = look_sizes(len(values))
    for n in [*range(_EARLY_LOOK_REQUESTS, int(looks[0]), _EARLY_LOOK_REQUESTS), *looks.tolist()]:
        ruling = rule(exceeds[:n], values[:n], trace.in_flight[:n], question.may_exceed)
        if ruling.outcome is not None:
            return Decision(ruling.outcome, float(trace.known_s[n - 1]))
    return Decision(Outcome.INCONCLUSIVE, float(trace.known_s[-1]))


def peeking(trace: Trace, question: Question, limit_s: float) -> Decision:
    """Naive: at every look an exact binomial test, as if requests were independent and there were only one look."""
    return _first(trace, question, limit_s, look_sizes(len(trace.known_s)))


def fixed_length(trace: Trace, question: Question, limit_s: float) -> Decision:
    """The same binomial test, once, when the whole run is over."""
    return _first(trace, question, limit_s, look_sizes(len(trace.known_s))[-1:])


def measured(trace: Trace, question: Question, limit_s: float) -> Decision:
    """The measured quantile of the whole run against the limit: what most load tools report."""
    values = trace.latencies[question.metric]
    missed = np.count_nonzero(values > limit_s) > math.floor(len(values) * question.may_exceed + 1e-9)
    return Decision(Outcome.FAIL if missed else Outcome.PASS, float(trace.known_s[-1]))


POLICIES: Mapping[str, Policy] = {"certain": certain, "peeking": peeking, "fixed length": fixed_length, "measured": measured}


def _first(trace: Trace, question: Question, limit_s: float, looks: NDArray[np.int64]) -> Decision:
    """The first of the looks at which the binomial test rejects one side."""
    most, fewest = _binomial_limits(tuple(looks.tolist()), question.may_exceed)
    beyond = np.cumsum(trace.latencies[question.metric] > limit_s)[looks - 1]
    decided = np.flatnonzero((beyond <= most) | (beyond >= fewest))
    if not len(decided):
        return Decision(Outcome.INCONCLUSIVE, float(trace.known_s[-1]))
    look = decided[0]
    outcome = Outcome.PASS if beyond[look] <= most[look] else Outcome.FAIL
    return Decision(outcome, float(trace.known_s[looks[look] - 1]))


@cache
def _binomial_limits(looks: tuple[int, ...], may_exceed: float) -> tuple[Floats, Floats]:
    """Exceedances with which n requests PASS at the most and FAIL at the least, at ``RISK`` each; both of shape (looks,)."""
    n = np.array(looks)
    # binom.ppf(p) is the least k with P(X <= k) >= p: one less has P(X <= k) < RISK, one more has P(X >= k) <= RISK.
    most = np.asarray(binom.ppf(RISK, n, may_exceed)) - 1
    fewest = np.asarray(binom.ppf(1 - RISK, n, may_exceed)) + 1
    return most, fewest
