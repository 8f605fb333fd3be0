"""The sequential test of "at most a share p0 of the requests lies beyond the limit", for requests that depend on each other.

A latency quantile q <= T holds exactly when P(latency > T) <= 1 - q, so exceedances are counted and no quantile is estimated.
The evidence is an *e-value*: a one-sided beta-binomial mixture of likelihood ratios (Robbins, *Annals of Mathematical
Statistics* 41, 1970). With independent requests it reaches 1 / alpha with a chance of alpha at most, however often one looks.
For dependent ones the counts are divided by the design effect (Rao and Scott, 1992), and nothing is decided before the load has
been seen for many of its own correlation times; that is a correction, not a theorem: ``docs/verdicts.md`` says what it is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.load.records import Floats
from pytest_llmperf.measure.dependence import FEWEST, VARIANCE_BOUND, design_effect

__all__ = ["Evidence", "Ruling", "design_effect", "evidence_of", "first_gross", "is_gross", "log_e_fail", "log_e_pass", "rule"]

ALPHA = 0.05
"""The risk of a false PASS, and of a false FAIL."""
E_VALUE, GROSS_ERGODIC, GROSS = "e-value", "gross ergodic", "gross"

PASS_MEMORIES = 150
"""Correlation times, the longer of the metric's and the in-flight count's, to be seen before a PASS: the queue's memory shows
in the in-flight count even while no request has been late yet."""
FAIL_MEMORIES = 50
"""Correlation times of the metric before a FAIL."""
FAIL_IN_FLIGHT_MEMORIES = 30
_LEVELS = (0.5, 0.75, 0.9, 0.95)
FEWEST_ERGODIC = 20
"""The theorem holds for every n, the first request included; fewer than 20 would let one burst at the window's opening speak
for the server. More would make an overloaded one at 10 requests a second take longer than the 10 s in which it shows."""
_FEWEST_GROSS = 2000
_GROSS_RATIO = 3.0


@dataclass(frozen=True)
class Evidence:
    """What a ruling rests on. The effects and ``effective`` are nan below 200 requests, where dependence cannot be told."""

    n: int
    exceeding: float
    """Requests beyond the limit; fractional where a request exceeds it in part."""
    share: float
    design_effect: float
    """The metric's own: the largest at the limit and at its levels .5, .75, .9 and .95."""
    in_flight_effect: float
    effective: float
    """How many independent requests these are worth at least: n / (design_effect x 1.63)."""
    log_e: float = math.nan
    """The log of the e-value in the direction of the share: for a PASS below p0, for a FAIL above."""


@dataclass(frozen=True)
class Ruling:
    """``outcome`` is PASS, FAIL, or None while undecided; ``rule`` names what decided it."""

    outcome: Outcome | None
    rule: str
    evidence: Evidence | None


def log_e_pass(exceeding: float, n: float, p0: float, c: float = 20.0) -> float:
    """The log of the evidence against P(exceed) >= p0, from ``exceeding`` of ``n`` (either may be fractional), 0 < p0 < 1.

    The prior is Beta(c p0, c (1 - p0)) cut to [0, p0]: worth c requests. Fractional counts are the same formula.
    """
    a, b = c * p0, c * (1 - p0)
    mixture = _log_beta_below(a + exceeding, b + n - exceeding, p0) - _log_beta_below(a, b, p0)
    return mixture - exceeding * math.log(p0) - (n - exceeding) * math.log1p(-p0)


def log_e_fail(exceeding: float, n: float, p0: float, c: float = 20.0) -> float:
    """The log of the evidence against P(exceed) <= p0: what ``log_e_pass`` says of the requests within the limit."""
    return log_e_pass(n - exceeding, n, 1 - p0, c)


def _log_beta_below(a: float, b: float, x: float) -> float:
    """The log of the incomplete beta function, the integral of t^(a-1) (1-t)^(b-1) over [0, x]."""
    from scipy.special import betainc, betaincc, betaln

    whole = float(betaln(a, b))
    share = float(betainc(a, b, x))
    if share > 0.5:
        return whole + math.log1p(-float(betaincc(a, b, x)))
    if share > 1e-20:
        return whole + math.log(share)
    # Far below the mode, where the share loses digits and then underflows: the power series of DLMF 8.17.8 has only positive
    # terms there, each the last one times (a + b + k) / (a + 1 + k) x < 1.
    term = total = 1.0
    k = 0
    while term > 1e-17 * total:
        term *= (a + b + k) / (a + 1 + k) * x
        total += term
        k += 1
    return a * math.log(x) + b * math.log1p(-x) - math.log(a) + math.log(total)


def evidence_of(exceeds: Floats, values: Floats, in_flight: Floats, p0: float) -> Evidence:
    """Count, and say what the count is worth. Arguments as for ``rule``, n >= 1."""
    n, exceeding = len(exceeds), float(exceeds.sum())
    if n < FEWEST:
        return Evidence(n, exceeding, exceeding / n, math.nan, math.nan, math.nan)
    own = max(_effect_at_limit(exceeds, p0), *(design_effect(beyond) for beyond in _beyond_levels(values)))
    effective = n / (own * VARIANCE_BOUND)
    share = exceeding / n
    log_e = (log_e_pass if share < p0 else log_e_fail)(share * effective, effective, p0)
    return Evidence(n, exceeding, share, own, design_effect(in_flight), effective, log_e)


def _effect_at_limit(exceeds: Floats, p0: float) -> float:
    """The design effect of the exceedances. Where they are weighted (some above 1), their variance may be more than that of
    a coin of p0, which the e-value assumes: then by as much more."""
    spread = float(exceeds.var()) / (p0 * (1 - p0)) if exceeds.max() > 1 else 1.0
    return design_effect(exceeds) * max(1.0, spread)


def _beyond_levels(values: Floats) -> list[Floats]:
    # To the nanosecond: below, latencies that are the same differ by the rounding of the instants they are made of.
    values = np.round(values, 9)
    ranks = [min(len(values) - 1, int(level * len(values))) for level in _LEVELS]
    ordered = np.partition(values, ranks)
    return [(values > ordered[rank]).astype(np.float64) for rank in ranks]


def first_gross(exceeds: Floats, p0: float, alpha: float = ALPHA) -> int | None:
    """After how many requests (shape (n,), in arrival order) the share beyond the limit first reached p0 / alpha; None: never.

    For any stationary sequence, however dependent, P(that ever happens) <= alpha if p0 holds (Hopf's maximal ergodic theorem).
    It says something where p0 < alpha: for p99 and for small error rates, not for p95.
    """
    if not _has_ergodic_rule(p0, alpha) or len(exceeds) < FEWEST_ERGODIC:
        return None
    counts = np.arange(FEWEST_ERGODIC, len(exceeds) + 1)
    reached = np.cumsum(exceeds)[FEWEST_ERGODIC - 1 :] >= p0 / alpha * counts
    return int(counts[np.argmax(reached)]) if reached.any() else None


def rule(
    exceeds: Floats,
    values: Floats,
    in_flight: Floats,
    p0: float,
    *,
    alpha_fail: float = ALPHA,
) -> Ruling:
    """Look once at the first n requests of a load, in arrival order, after its warm-up; 0 < p0 < 1.

    ``exceeds`` (n,) is 1 where the request is beyond the limit, 0 where not, a fraction where it is in part; ``values`` (n,) the
    latency itself (inf for a failure); ``in_flight`` (n,) how many others were at the target when it arrived. ``alpha_fail`` is
    the risk of a FAIL by e-value (divide it by the thresholds of an SLA). Look as often as wanted; the first outcome stands.
    """
    if len(exceeds) == 0:
        return Ruling(None, "", None)
    evidence = evidence_of(exceeds, values, in_flight, p0)
    if evidence.n >= FEWEST_ERGODIC and _has_ergodic_rule(p0, ALPHA) and evidence.share >= p0 / ALPHA:
        return Ruling(Outcome.FAIL, GROSS_ERGODIC, evidence)
    if evidence.share < p0:
        seen = evidence.n >= memories_for_pass(evidence.design_effect, evidence.in_flight_effect)
        passes = seen and evidence.log_e >= -math.log(ALPHA)
        return Ruling(Outcome.PASS, E_VALUE, evidence) if passes else Ruling(None, "", evidence)
    seen = evidence.n >= memories_for_fail(evidence.design_effect, evidence.in_flight_effect)
    if evidence.share > p0 and seen and evidence.log_e >= -math.log(alpha_fail):
        return Ruling(Outcome.FAIL, E_VALUE, evidence)
    if is_gross(exceeds, p0, alpha_fail):
        return Ruling(Outcome.FAIL, GROSS, evidence)
    return Ruling(None, "", evidence)


def memories_for_pass(own_effect: float, in_flight_effect: float) -> float:
    """How many requests a PASS takes at least, by the design effects; nan, which no number reaches, where those are."""
    return PASS_MEMORIES * max(own_effect, in_flight_effect)


def memories_for_fail(own_effect: float, in_flight_effect: float) -> float:
    """How many requests a FAIL by e-value takes at least, as for a PASS."""
    return max(FAIL_MEMORIES * own_effect, FAIL_IN_FLIGHT_MEMORIES * in_flight_effect)


def _has_ergodic_rule(p0: float, alpha: float) -> bool:
    # 1 - 0.95 is a little more than 0.05 in binary: at p0 = alpha every single request would have to be late.
    return 0 < p0 < alpha * (1 - 1e-9)


def is_gross(exceeds: Floats, p0: float, alpha: float = ALPHA) -> bool:
    """Three times too many over 2,000 requests, with five times the evidence, but the dependence taken at the limit alone:
    an overloaded server has no stationary design effect, and its medians drift without end."""
    if len(exceeds) < _FEWEST_GROSS:
        return False
    share = float(exceeds.sum()) / len(exceeds)
    if share < min(_GROSS_RATIO * p0, 0.9):
        return False
    effective = len(exceeds) / (_effect_at_limit(exceeds, p0) * VARIANCE_BOUND)
    return log_e_fail(share * effective, effective, p0) >= math.log(5 / alpha)
