"""A metric beside its baseline: is it worse by more than is allowed, or can these runs not tell?

The unit of evidence is the run. Requests of one run share a queue and a moment, so that tests on pooled requests find
differences between identical servers. The rule is non-inferiority against a margin, with an answer for "cannot tell": each end
of the interval (``change_interval``) is a one-sided 95 % bound (Piaggio et al., *JAMA* 308:2594, 2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_llmperf.judge.change_interval import (
    ENOUGH_RUNS,
    ChangeInterval,
    Scale,
    Z,
    are_of_unknown_error,
    change_interval,
    runs_needed,
)
from pytest_llmperf.metrics import MetricKey, format_value
from pytest_llmperf.units import format_fraction

if TYPE_CHECKING:
    from pytest_llmperf.judge.tolerance import Tolerance

_TOO_MANY_RUNS = 50
_UNKNOWN_ERROR = (
    f"one run does not tell how uncertain this value is: {ENOUGH_RUNS} runs on each side (--llmperf-repeat={ENOUGH_RUNS}) would"
)


class ChangeVerdict(StrEnum):
    """What can be said of a metric beside its baseline."""

    REGRESSED = "regressed"
    """Worse than the tolerance allows, even at its best."""
    IMPROVED = "improved"
    """Better for certain, and by more than the tolerance."""
    UNCHANGED = "unchanged"
    """Not worse than the tolerance allows, even at its worst."""
    NOISE = "noise"
    """These runs cannot tell."""
    NEW = "new"
    """The baseline has no value; ``Change.measured`` is nan where this run has none either."""
    MISSING = "missing"
    """This run has no value, and the baseline has."""
    INCOMPARABLE = "incomparable"
    """The two were measured under conditions too different, or cannot be trusted."""


_WORST_FIRST = (
    ChangeVerdict.REGRESSED,
    ChangeVerdict.INCOMPARABLE,
    ChangeVerdict.MISSING,
    ChangeVerdict.NOISE,
    ChangeVerdict.NEW,
    ChangeVerdict.UNCHANGED,
    ChangeVerdict.IMPROVED,
)


@dataclass(frozen=True)
class Sample:
    """What one run measured of a metric, in base units, with its 95 % interval; nan and inf mean what they do in ``Estimate``."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Change:
    """A metric now and before. ``measured`` and ``baseline`` are each side's mean (geometric for a relative tolerance).

    ``ratio`` is measured / baseline, nan where there is none. ``low`` and ``high`` bound the ratio, or the difference
    (measured - baseline, in base units) where the tolerance is absolute: a 90 % interval, each end of which holds with 95 %.
    They are nan where nothing can be said; an end without a bound is infinite (the low one of a ratio 0).
    """

    key: MetricKey
    measured: float
    baseline: float
    ratio: float
    low: float
    high: float
    tolerance: Tolerance
    verdict: ChangeVerdict
    note: str
    """Why it is not simply better or worse: how well the change is known and what would help; empty where the numbers say it."""


def worst(verdicts: Iterable[ChangeVerdict]) -> ChangeVerdict:
    """The one that decides over several: a regression first, an improvement last. Raises ``ValueError`` for none at all."""
    return min(verdicts, key=_WORST_FIRST.index)


def compare(key: MetricKey, now: Sequence[Sample], before: Sequence[Sample], tolerance: Tolerance) -> Change:
    """Hold the runs ``now`` against those ``before``, one sample a run; runs that did not measure the metric do not count.

    REGRESSED: the whole interval of the change is beyond the tolerance. IMPROVED: it excludes "no change" on the good side, and
    the estimate is beyond the tolerance there. UNCHANGED: its worse end is within the tolerance. Else NOISE, and the note says
    what would help. Without a value on one side: NEW or MISSING; without any, NEW: nothing is gone.
    """
    scale = Scale(tolerance)
    present = [sample for sample in now if not math.isnan(sample.value)]
    past = [sample for sample in before if not math.isnan(sample.value)]
    measured, baseline = scale.mean(present), scale.mean(past)

    def change(verdict: ChangeVerdict, note: str = "", low: float = math.nan, high: float = math.nan) -> Change:
        return Change(key, measured, baseline, _ratio(measured, baseline), low, high, tolerance, verdict, note)

    if not past:
        return change(ChangeVerdict.NEW, "not measured in the baseline" if present else "measured on neither side")
    if not present:
        return change(ChangeVerdict.MISSING, "not measured now")
    places, past_places = ([scale.place(sample.value) for sample in side] for side in (present, past))
    if any(map(math.isinf, (*places, *past_places))):
        return change(*(_without_maximum if key.statistic == "max" else _without_bound)(places, past_places))
    found = change_interval(scale, present, past)
    verdict = _verdict(found, scale.margin)
    note = _advice(scale, found, present, past) if verdict is ChangeVerdict.NOISE else ""
    return change(verdict, note, *scale.back(found.lower, found.upper))


def _ratio(measured: float, baseline: float) -> float:
    if math.isinf(baseline) or measured == 0 == baseline:
        return math.nan
    return measured / baseline if baseline else math.inf


def _verdict(found: ChangeInterval, margin: float) -> ChangeVerdict:
    if found.lower > margin:
        return ChangeVerdict.REGRESSED
    if found.upper < 0 and found.worsening < -margin:
        return ChangeVerdict.IMPROVED
    return ChangeVerdict.UNCHANGED if found.upper <= margin else ChangeVerdict.NOISE


def _without_bound(now: Sequence[float], before: Sequence[float]) -> tuple[ChangeVerdict, str]:
    """The verdict where places are infinite: a latency is where it falls on a failed request, a rate where nothing was done."""
    kinds = []
    for places, whose in ((now, "this session's"), (before, "the baseline's")):
        endless = [place for place in places if math.isinf(place)]
        if 0 < len(endless) <= len(places) / 2:
            return ChangeVerdict.NOISE, f"{len(endless)} of {len(places)} of {whose} runs have no finite value: requests failed"
        kinds.append(endless[0] if endless else 0.0)
    if kinds[0] == kinds[1]:
        return ChangeVerdict.NOISE, (
            "neither side has a finite value: requests failed" if kinds[0] > 0 else "neither side has a value above 0"
        )
    # No latency is 0 or less, but a file may say so; a cost may be 0.
    if kinds[1] == -math.inf:
        return ChangeVerdict.REGRESSED, "the baseline's value is 0 or less: any higher one is beyond every percentage of it"
    if kinds[0] == -math.inf:
        return ChangeVerdict.IMPROVED, "the value is 0 or less, and the baseline's is not"
    if kinds[0] > kinds[1]:
        return ChangeVerdict.REGRESSED, "so many requests failed that there is no finite value"
    return ChangeVerdict.IMPROVED, "so many of the baseline's requests failed that it has no finite value"


def _without_maximum(now: Sequence[float], before: Sequence[float]) -> tuple[ChangeVerdict, str]:
    """The verdict on a max where places are infinite: one request that failed is enough, however fast all others were."""
    if any(place == math.inf for place in before):
        return ChangeVerdict.NOISE, "a request of the baseline failed, and so it has no maximum to compare with"
    if any(place == math.inf for place in now):
        return ChangeVerdict.REGRESSED, "a request failed, and so there is no maximum"
    return _without_bound(now, before)


def _advice(scale: Scale, found: ChangeInterval, now: Sequence[Sample], before: Sequence[Sample]) -> str:
    """How well the change is known, and what would help."""
    if are_of_unknown_error(now) or are_of_unknown_error(before):
        return _UNKNOWN_ERROR
    half = (found.upper - found.lower) / 2
    if math.isinf(half):
        return "the samples set no bound; longer runs do"
    tolerance = scale.tolerance
    if half < scale.margin and found.worsening > scale.margin / 2:
        return f"the change is too close to the {tolerance} that are allowed: only many more runs would tell"
    help_needed = _repeats(scale, half, len(now), len(before)) + _sooner(tolerance.key)
    return f"the change is known to {_width(scale, half)} only: {help_needed}"


def _width(scale: Scale, half: float) -> str:
    if scale.tolerance.relative is not None:
        return f"±{format_fraction(math.expm1(half))}"
    if scale.is_fraction:
        return f"±{format_fraction(half).removesuffix('%')}pp"
    return f"±{format_value(scale.tolerance.key.metric, half)}"


def _repeats(scale: Scale, half: float, runs: int, past_runs: int) -> str:
    # One run's deviation, from the half width: that is Z standard errors of a difference of two means.
    deviation = half / Z / math.sqrt(1 / runs + 1 / past_runs)
    needed = runs_needed(deviation, math.expm1(scale.margin)) if scale.margin > 0 else math.inf
    if needed > _TOO_MANY_RUNS:
        return "much longer runs, and several on each side, would tell"
    needed = max(needed, min(runs, past_runs) + 1)
    return f"about {needed} runs on each side (--llmperf-repeat={needed}), or fewer longer ones, would tell"


def _sooner(key: MetricKey) -> str:
    """What tells sooner than the tail of a latency that includes waiting in the server's queue."""
    waits = key.metric.name in {"ttft", "service_ttft", "e2e", "service_e2e"}
    is_tail = key.statistic == "max" or (key.quantile or 0.0) >= 0.9
    return "; TPOT tells sooner than a latency with queueing in it" if waits and is_tail else ""
