"""Whether one variant is worse than another, from pairs of runs: a sequential test for non-inferiority against a margin.

The unit is the run, not the request: requests of one run share its queue, its warm-up and its neighbours, and tests that pool
them alarm on identical servers. Each pair gives one number, ``ln(candidate / base)``; pairing takes slow drift out of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.units import format_fraction

if TYPE_CHECKING:
    from pytest_llmperf.metrics import MetricKey

LEVELS: Mapping[int, float] = {5: 0.0243, 8: 0.0158, 10: 0.0133, 12: 0.0119, 15: 0.0104, 20: 0.0089, 30: 0.0073}
"""The one-sided level of each look, by the most pairs there may be.

With a look after every pair from the third on, each of the two errors is 5 % in all: constants like Pocock's (1977), found by
simulating t statistics of normal log ratios.
"""

SINGLE_LOOK = 0.05
"""The level of a test that looks once, when all pairs are there."""
FIRST_LOOK = 3
PAIRS_MOST = max(LEVELS)
_TOO_NOISY = 2.0
"""Times the margin: a standard deviation of the log ratios beyond it leaves no hope for a difference near the margin."""
_ROUNDING = 1e-12
_INTERVAL = 0.95
"""One-sided; both sides leave a 90 % interval."""
_ENDLESS: Mapping[Outcome, str] = {
    Outcome.FAIL: "so many requests failed that it is inf",
    Outcome.PASS: "the base is infinitely worse: its requests failed",
}
"""What an infinite ratio is, by the outcome that all pairs alike would have."""


@dataclass(frozen=True)
class PairedVerdict:
    """What the pairs so far say of one metric."""

    outcome: Outcome | None
    """PASS: not worse than the margin. FAIL: worse. INCONCLUSIVE: cannot be told with so many pairs. None: go on."""
    pairs: int
    ratio: float
    """Candidate / base, the geometric mean over the pairs; more than 1 is worse. nan without pairs."""
    low: float
    high: float
    """The nominal 90 % interval of ``ratio``, not corrected for the looks. nan before there are two pairs."""
    note: str
    """Why it cannot be told and what to do; empty where the numbers say it all."""


@dataclass(frozen=True)
class Comparison:
    """One metric of a base and a candidate, held against its margin."""

    key: MetricKey
    margin: float
    """How much worse the candidate may be: 0.05 is 5 %."""
    base: float
    candidate: float
    """The geometric means over the pairs, in the metric's base unit."""
    verdict: PairedVerdict


def log_ratio(key: MetricKey, base: float, candidate: float) -> float:
    """``ln(candidate / base)`` where lower is better, the reverse where higher is: more is worse.

    nan where one was not measured or there is no ratio (0 / 0, inf / inf).
    """
    better, worse = (candidate, base) if key.metric.higher_is_better else (base, candidate)
    return _log(worse) - _log(better)


def compare(
    key: MetricKey, margin: float, values: Sequence[tuple[float, float]], pairs_max: int, level: float | None = None
) -> Comparison:
    """Judge one metric's pairs of (base, candidate) values so far; INCONCLUSIVE at once where a pair has no ratio."""
    log_ratios = [log_ratio(key, *pair) for pair in values]
    base, candidate = (math.exp(sum(map(_log, side)) / len(side)) for side in zip(*values, strict=True))
    if any(map(math.isnan, log_ratios)):
        note = "not measured, or infinite for both, in at least one pair"
        verdict = PairedVerdict(Outcome.INCONCLUSIVE, len(values), math.nan, math.nan, math.nan, note)
    else:
        verdict = judge_pairs(log_ratios, margin, pairs_max, level)
    return Comparison(key, margin, base, candidate, verdict)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf if value == 0 else math.nan


def level_of(pairs_max: int) -> float:
    """The level of each look; between two tabulated numbers of pairs that of the larger, which is the stricter one.

    Raises ``ValueError`` for fewer pairs than the first look needs or more than the table has.
    """
    if not FIRST_LOOK <= pairs_max <= PAIRS_MOST:
        raise ValueError(f"the most pairs must be from {FIRST_LOOK} to {PAIRS_MOST}, not {pairs_max}")
    return LEVELS[min(tabulated for tabulated in LEVELS if tabulated >= pairs_max)]


def judge_pairs(log_ratios: Sequence[float], margin: float, pairs_max: int, level: float | None = None) -> PairedVerdict:
    """Judge the pairs so far. Ask after each pair and stop at the first outcome.

    ``log_ratios``: one ``ln(candidate / base)`` a pair, signed so that more is worse; +inf where the candidate's requests failed
    and the base's did not, -inf the other way round. ``margin``: how much worse is still as good (0.05 is 5 %). Student's t of
    the mean against ``ln(1 + margin)``, at ``level`` on each side (``level_of(pairs_max)``; ``SINGLE_LOOK`` for whoever asks
    once). Where ratios are infinite, only pairs that all are so the same way tell.

    Raises ``ValueError`` for nan or a margin that is not positive.
    """
    level = level_of(pairs_max) if level is None else level
    if not margin > 0:
        raise ValueError(f"the margin must be more than 0, not {margin!r}")
    if any(map(math.isnan, log_ratios)):
        raise ValueError("a pair without a ratio cannot be judged")
    if not all(map(math.isfinite, log_ratios)):
        return _with_failures(log_ratios, pairs_max)
    pairs = len(log_ratios)
    ratio, low, high = _interval(log_ratios)
    outcome, note = _outcome(log_ratios, math.log1p(margin), level) if pairs >= FIRST_LOOK else (None, "")
    if outcome is None and pairs >= FIRST_LOOK:
        note = _noise(log_ratios, margin, pairs_max, level)
        # The stop for noise comes at the first look alone: later the pairs are paid for, and more of them only tell more.
        outcome = Outcome.INCONCLUSIVE if pairs >= pairs_max or (note and pairs == FIRST_LOOK) else None
        note = (note or f"{pairs} pairs are not enough to tell") if outcome is not None else ""
    return PairedVerdict(outcome, pairs, ratio, low, high, note)


def _outcome(log_ratios: Sequence[float], bound: float, level: float) -> tuple[Outcome | None, str]:
    from scipy.special import stdtr

    t = _t(fmean(log_ratios) - bound, stdev(log_ratios), len(log_ratios))
    at_least = float(stdtr(len(log_ratios) - 1, -t))
    if at_least <= level:
        return Outcome.FAIL, ""
    return (Outcome.PASS, "") if 1 - at_least <= level else (None, "")


def _t(distance: float, sd: float, pairs: int) -> float:
    if sd < _ROUNDING:
        return math.copysign(math.inf, distance) if abs(distance) > _ROUNDING else 0.0
    return distance / (sd / math.sqrt(pairs))


def _interval(log_ratios: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of the ratios and the interval of Student's t around it."""
    if not log_ratios:
        return math.nan, math.nan, math.nan
    mean = fmean(log_ratios)
    if len(log_ratios) == 1:
        return math.exp(mean), math.nan, math.nan
    from scipy.special import stdtrit

    half = float(stdtrit(len(log_ratios) - 1, _INTERVAL)) * stdev(log_ratios) / math.sqrt(len(log_ratios))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _noise(log_ratios: Sequence[float], margin: float, pairs_max: int, level: float) -> str:
    """What to do about pairs that differ too much; empty where they do not, or where the difference stands out of the noise."""
    from scipy.special import stdtrit

    sd = stdev(log_ratios)
    decides = float(stdtrit(pairs_max - 1, 1 - level))
    # Were the mean and the spread to stay as they are, the last look would decide.
    hopeful = abs(_t(fmean(log_ratios) - math.log1p(margin), sd, pairs_max)) >= decides
    if sd <= _TOO_NOISY * margin or hopeful:
        return ""
    return (
        f"the pairs differ by {format_fraction(sd)} (standard deviation), more than {_TOO_NOISY:g} times the margin of "
        f"{format_fraction(margin)}: lower the load or make the runs longer"
    )


def _with_failures(log_ratios: Sequence[float], pairs_max: int) -> PairedVerdict:
    """Pairs of which some have an infinite ratio: no mean exists, so only their unanimity can tell."""
    pairs = len(log_ratios)
    endless = {Outcome.FAIL: log_ratios.count(math.inf), Outcome.PASS: log_ratios.count(-math.inf)}
    note = "; ".join(f"in {count} of {pairs} pairs {_ENDLESS[which]}" for which, count in endless.items() if count)
    unanimous = next((which for which, count in endless.items() if count == pairs), None)
    ratio = math.nan if unanimous is None else math.inf if unanimous is Outcome.FAIL else 0.0
    outcome = unanimous if pairs >= FIRST_LOOK else None
    if outcome is None and pairs >= pairs_max:
        outcome = Outcome.INCONCLUSIVE
    return PairedVerdict(outcome, pairs, ratio, math.nan, math.nan, note if outcome is not None else "")
