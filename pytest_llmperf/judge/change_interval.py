"""How far a metric has changed between two sides of some runs each, and how well these runs tell.

Runs' values are held against each other on one scale, on which more is worse: their logarithms where the tolerance is relative,
the values themselves where it is absolute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import Unit

if TYPE_CHECKING:
    from pytest_llmperf.judge.regression import Sample
    from pytest_llmperf.judge.tolerance import Tolerance

BETWEEN_RUNS = 0.02
"""The standard deviation between runs, as a share of the value, that is assumed where neither side has ``ENOUGH_RUNS``."""
ENOUGH_RUNS = 3
"""From so many runs on, a side's own spread is used."""
RISK = 0.05
Z = NormalDist().inv_cdf(1 - RISK)
"""How many standard errors a one-sided 95 % bound is away."""

_Z_OF_A_RUN = NormalDist().inv_cdf(0.975)
"""A run's own interval is two-sided."""
_FRACTION_SPREAD = 4 * BETWEEN_RUNS
"""Latencies that are all 2 % longer move the share of requests within a limit by about 0.08 x share x (1 - share).

That is so for a lognormal latency with sigma 0.5: to a third, for shares from 50 % to 99 %.
"""
_POWER = 0.8
_ENDLESS = 700.0
"""``exp`` of more overflows; an interval as wide has no bound in practice."""


@dataclass(frozen=True)
class Scale:
    """The scale of one metric under one tolerance, on which more is worse."""

    tolerance: Tolerance

    @property
    def margin(self) -> float:
        """The tolerance on this scale: for 10 %, from the baseline to 1.1 times its value (0.9 times, if higher is better)."""
        relative = self.tolerance.relative
        if relative is None:
            return self.tolerance.absolute or 0.0
        return -math.log1p(-relative) if self._higher_is_better else math.log1p(relative)

    @property
    def is_fraction(self) -> bool:
        """Whether the metric is a share of requests."""
        return self.tolerance.key.metric.unit is Unit.FRACTION

    @property
    def _higher_is_better(self) -> bool:
        return self.tolerance.key.metric.higher_is_better

    def place(self, value: float) -> float:
        """Where a value (base unit) lies; infinite for a latency of inf, and for a throughput of 0 where ratios are compared."""
        if self.tolerance.relative is not None:
            value = math.log(value) if value > 0 else -math.inf
        return -value if self._higher_is_better else value

    def back(self, lower: float, upper: float) -> tuple[float, float]:
        """From an interval of the worsening to (low, high) of measured / baseline, or of their difference in base units."""
        low, high = (-upper, -lower) if self._higher_is_better else (lower, upper)
        return (low, high) if self.tolerance.relative is None else (_exp(low), _exp(high))

    def mean(self, samples: Sequence[Sample]) -> float:
        """A side's mean in base units, geometric where ratios are compared; inf or 0 where most of its runs are; nan for none."""
        values = [sample.value for sample in samples]
        relative = self.tolerance.relative is not None
        for extreme in (math.inf, 0.0) if relative else (math.inf,):
            if values.count(extreme) > len(values) / 2:
                return extreme
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not relative)]
        if not finite:
            return math.nan
        return _exp(fmean(map(math.log, finite))) if relative else fmean(finite)


@dataclass(frozen=True)
class ChangeInterval:
    """The worsening on a ``Scale``: its estimate, and bounds of which each holds with 95 %."""

    worsening: float
    lower: float
    upper: float


@dataclass(frozen=True)
class _Side:
    """Some runs on a scale. ``spread``: the standard deviation of their values, nan below three of them.

    ``down`` and ``up``: how far the mean is uncertain either way by the runs' own intervals, at one-sided 95 %; infinite where
    there are fewer than three runs, and one of them has none.
    """

    runs: int
    mean: float
    spread: float
    down: float
    up: float

    @property
    def has_spread(self) -> bool:
        return not math.isnan(self.spread)


def change_interval(scale: Scale, now: Sequence[Sample], before: Sequence[Sample]) -> ChangeInterval:
    """The worsening from ``before`` to ``now``, at least one run each, all of them with a place that is finite.

    Each side's mean is uncertain by some way up and down; the difference is by the root of the sum of their squares (MOVER: Zou
    and Donner, *Statistics in Medicine* 27:1693, 2008). Where both sides have three runs or more that is Welch's t interval.
    """
    present, past = _side(scale, now), _side(scale, before)
    (down, up), (past_down, past_up) = _reaches(scale, present, past)
    worsening = present.mean - past.mean
    return ChangeInterval(worsening, worsening - math.hypot(down, past_up), worsening + math.hypot(up, past_down))


def runs_needed(deviation: float, change: float) -> int:
    """The runs on each side that find a relative ``change`` with 80 % power at one-sided 5 %.

    ``deviation``: the standard deviation of one run's value, as a share of it: the spread between runs and the run's own error,
    as the root of the sum of their squares. Two samples of normal logarithms, and two runs more for having to estimate the
    deviation: ``2 + 2 (z.95 + z.80)^2 deviation^2 / ln(1 + change)^2``.
    """
    z = Z + NormalDist().inv_cdf(_POWER)
    return math.ceil(2 + 2 * (z * deviation / math.log1p(change)) ** 2)


def are_of_unknown_error(samples: Sequence[Sample]) -> bool:
    """Whether nothing tells how uncertain a side is: fewer than three runs, one of them without an interval of its own.

    A maximum, a minimum, a mean of two requests and the throughput of a short run have none.
    """
    return len(samples) < ENOUGH_RUNS and any(map(_has_no_interval, samples))


def _has_no_interval(sample: Sample) -> bool:
    return math.isnan(sample.low) or math.isnan(sample.high)


def _exp(value: float) -> float:
    return math.exp(value) if value < _ENDLESS else math.inf


def _side(scale: Scale, samples: Sequence[Sample]) -> _Side:
    places = [scale.place(sample.value) for sample in samples]
    runs = len(places)
    # Unknown is not exact. From three runs on their spread holds the error of each; fewer have nothing else to go by.
    without = 0.0 if runs >= ENOUGH_RUNS else math.inf
    downs, ups = zip(*(_own_reach(scale, sample, without) for sample in samples), strict=True)
    spread = stdev(places) if runs >= ENOUGH_RUNS else math.nan
    return _Side(runs, fmean(places), spread, math.hypot(*downs) / runs, math.hypot(*ups) / runs)


def _own_reach(scale: Scale, sample: Sample, without: float) -> tuple[float, float]:
    """How far a run's own interval reaches down and up; ``without`` both ways where none is known."""
    if _has_no_interval(sample):
        return without, without
    place, *ends = (scale.place(value) for value in (sample.value, sample.low, sample.high))
    shrink = Z / _Z_OF_A_RUN
    return max(0.0, place - min(ends)) * shrink, max(0.0, max(ends) - place) * shrink


def _reaches(scale: Scale, now: _Side, before: _Side) -> tuple[tuple[float, float], tuple[float, float]]:
    """How far each side's mean is uncertain, down and up."""
    if not now.has_spread and not before.has_spread:
        return _with_assumed_spread(scale, now), _with_assumed_spread(scale, before)
    t = _student(_degrees(now, before))
    return _with_spread(scale, now, before, t), _with_spread(scale, before, now, t)


def _with_assumed_spread(scale: Scale, side: _Side) -> tuple[float, float]:
    """By the runs' own intervals, and by what two runs of one server are assumed to differ."""
    extra = Z * _assumed_spread(scale, side) / math.sqrt(side.runs)
    return math.hypot(side.down, extra), math.hypot(side.up, extra)


def _assumed_spread(scale: Scale, side: _Side) -> float:
    if scale.tolerance.relative is not None:
        return BETWEEN_RUNS
    value = abs(side.mean)
    return _FRACTION_SPREAD * value * (1 - value) if scale.is_fraction else BETWEEN_RUNS * value


def _with_spread(scale: Scale, side: _Side, other: _Side, t: float) -> tuple[float, float]:
    """By the spread of the runs, which holds the error within a run as well; one or two runs spread like the other side's."""
    reach = t * (side.spread if side.has_spread else other.spread) / math.sqrt(side.runs)
    # Own intervals count where the spread may miss something: a run that was shorter than the other side's, or a share of
    # requests that was 0 % in every run, however few requests those had.
    if not side.has_spread or scale.is_fraction:
        return max(reach, side.down), max(reach, side.up)
    return reach, reach


def _degrees(now: _Side, before: _Side) -> float:
    """Degrees of freedom: Welch and Satterthwaite's where both spreads are known, else those of the one that is."""
    if not (now.has_spread and before.has_spread):
        return (now if now.has_spread else before).runs - 1
    parts = [(side.spread**2 / side.runs, side.runs - 1) for side in (now, before)]
    total = sum(part for part, _ in parts)
    # Below the smallest float's root the squares are 0, and a spread of nothing needs no degrees.
    squares = sum(part**2 / degrees for part, degrees in parts)
    return total**2 / squares if squares > 0 else math.inf


def _student(degrees: float) -> float:
    """Student's t at one-sided 95 %."""
    from scipy.special import stdtrit

    return Z if math.isinf(degrees) else float(stdtrit(degrees, 1 - RISK))
