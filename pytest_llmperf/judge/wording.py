"""What decided a sequential test, or what it lacks, in a sentence for a person."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_llmperf.judge.sequential import (
    ALPHA,
    GROSS,
    GROSS_ERGODIC,
    log_e_fail,
    log_e_pass,
    memories_for_fail,
    memories_for_pass,
)
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.measure.dependence import FEWEST, VARIANCE_BOUND
from pytest_llmperf.units import format_duration, format_fraction

if TYPE_CHECKING:
    from pytest_llmperf.judge.sequential import Evidence, Ruling

_BEYOND_REACH = 1e7
"""Independent requests: what so many do not tell apart, no load will."""


def decided(ruling: Ruling, p0: float, alpha: float = ALPHA) -> str:
    """Why a ruling is PASS or FAIL: ``e-value 41 (needs 20): 3,612 requests are worth 402 independent ones``."""
    evidence = ruling.evidence
    assert evidence is not None
    if ruling.rule in (GROSS_ERGODIC, GROSS):
        return f"{_beyond(evidence)}, {evidence.share / p0:,.0f}x as many as may be"
    worth = f"{evidence.n:,} requests are worth {evidence.effective:,.0f} independent ones"
    return f"e-value {_e_value(evidence.log_e)} (needs {1 / alpha:,.0f}): {worth}"


def undecided(evidence: Evidence | None, p0: float, rate_per_s: float, alpha_fail: float = ALPHA) -> str:
    """Why neither PASS nor FAIL can be said, and about how many more requests would tell, at ``rate_per_s`` in how long."""
    if evidence is None:
        return "too few independent samples: of no request is it known yet"
    if evidence.n < FEWEST:
        more = more_requests(FEWEST - evidence.n, rate_per_s)
        return f"too few independent samples: needs at least {more} ({evidence.n:,} of {FEWEST:,})"
    worth = f"{evidence.n:,} requests are worth {evidence.effective:,.0f}"
    needed = requests_needed(evidence, p0, alpha_fail)
    if math.isinf(needed):
        return f"too close to the limit to tell: {_beyond(evidence)} ({format_fraction(p0)} may be); {worth} independent ones"
    outcome = Outcome.PASS if evidence.share < p0 else Outcome.FAIL
    more = more_requests(needed - evidence.n, rate_per_s)
    return f"too few independent samples: {worth}; if it goes on like this, {outcome} takes about {more}"


def requests_needed(evidence: Evidence, p0: float, alpha_fail: float = ALPHA) -> float:
    """After how many requests a test would decide if their share beyond the limit and their dependence stayed as they are.

    ``evidence`` is of 200 requests or more. Infinite where the share is too close to p0.
    """
    share = evidence.share
    passes = share < p0
    log_e: Callable[[float, float, float], float] = log_e_pass if passes else log_e_fail
    target = -math.log(ALPHA if passes else alpha_fail)
    low, high = 0.0, 1.0
    while log_e(share * high, high, p0) < target:
        low, high = high, 2 * high
        if high > _BEYOND_REACH:
            return math.inf
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if log_e(share * middle, middle, p0) >= target else (middle, high)
    memories = memories_for_pass if passes else memories_for_fail
    return max(memories(evidence.design_effect, evidence.in_flight_effect), high * evidence.design_effect * VARIANCE_BOUND)


def more_requests(more: float, rate_per_s: float) -> str:
    """``2,900 more requests (12m05s at this rate)``: to two digits, as such an estimate is no better."""
    count = max(1, math.ceil(more))
    count = round(count, 2 - len(str(count))) if count >= 1000 else count
    duration = f" ({format_duration(count / rate_per_s)} at this rate)" if rate_per_s > 0 else ""
    return f"{count:,} more request{'s' if count > 1 else ''}{duration}"


def _beyond(evidence: Evidence) -> str:
    return f"{_count(evidence.exceeding)} of {evidence.n:,} requests are beyond the limit"


def _count(exceeding: float) -> str:
    return f"{exceeding:,.0f}" if exceeding == round(exceeding) else f"{exceeding:,.1f}"


def _e_value(log_e: float) -> str:
    return f"{math.exp(log_e):,.0f}" if log_e < math.log(1e6) else "above 1,000,000"
