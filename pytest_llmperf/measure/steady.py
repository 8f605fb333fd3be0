"""Whether a load had a steady state, and from when on. Judged by TPOT and by the backlog, never by TTFT.

Cutting a beginning because its TTFT was high would delete early bursts, and a tail without its bursts keeps any limit. TPOT
shows a server that is still compiling or filling its batch; the number of requests in flight shows one that falls behind.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.measure.dependence import BLOCKS, FEWEST, design_effect
from pytest_llmperf.measure.observations import as_of, observations
from pytest_llmperf.measure.run import Steadiness

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, LoadResult
    from pytest_llmperf.measure.observations import Observations

WARMING = "still warming up"
GROWING = "the backlog grew"
LOOK_EVERY_S = 15.0
LOOKS_IN_A_ROW = 3

_BATCH = 5
_BOUNDARY = 0.02
_FEWEST_TPOT = 100
_TOLD_APART = 0.10
_OPENING = 25
"""Requests by which a stretch's TPOT is told: the median of fewer says little."""
_OF_THE_CUT = 0.5
_ERRORS = 3.0
"""Standard errors of the part that is cut: MSER has chosen it among many, so two would be none too rare."""
_ERRORS_APART = 4.0
_ONE_WAY = 0.7
_PAIRS = BLOCKS * (BLOCKS - 1) / 2
_RECENT = 0.8
_FEWEST_ARRIVALS = 200
_GROWTH = 0.02
_CHANCE = 0.01
_ERRORS_OF_A_WALK = 2.5
_STEPS_TO_GROWTH = 22
"""Averages of a random walk over m steps, d steps apart, differ with variance d - m/3 (d >= m): (16 - 4/3) / (1 - 1/3)."""
_SOONEST_S = 60.0
_SOONEST_E2E = 75
_UNLOADED = 50


def settled_after(tpot: Floats, at_most: int | None = None) -> tuple[int, bool]:
    """MSER-5 on the log of TPOT, shape (n,), in arrival order: (the first request kept, whether it never settled).

    Of all cuts in the first half (of no more than ``at_most`` requests), the one that minimises the standard error of the mean of
    what is left, over batches of five (White, Cobb and Spratt, 2000). A cut at the end of that half (its last 2 %) means that
    nothing had settled. Values that have no logarithm (nan, 0 of a whole answer in one chunk) are passed over; below ten batches
    there is nothing to cut.
    """
    rows = np.flatnonzero((tpot > 0) & np.isfinite(tpot))
    batches = len(rows) // _BATCH
    limit = batches // 2
    if batches < 10:
        return 0, False
    logs = np.log(tpot[rows[: batches * _BATCH]]).reshape(batches, _BATCH).mean(axis=1)
    logs -= logs.mean()
    left = np.arange(batches, 0, -1)
    sums, squares = np.cumsum(logs[::-1])[::-1], np.cumsum(logs[::-1] ** 2)[::-1]
    errors = (squares - sums**2 / left) / left**2
    cuts = limit if at_most is None else min(limit, 1 + int(np.searchsorted(rows, at_most)) // _BATCH)
    cut = int(np.argmin(errors[:cuts]))
    return int(rows[cut * _BATCH]) if cut else 0, cut >= limit - max(1, int(_BOUNDARY * batches))


def one_settling(tpot: Floats, cut: int) -> int:
    """How many of the first ``cut`` values of TPOT, shape (n,), may be one settling that began with the run; 0 if none.

    MSER cuts a bad stretch in the middle of a run with all that came before it. A cold start is at its worst with the first
    requests, and what has settled stays so. So the median of the first 25 has to be off the level of the rest, by more than 10 %
    and by half of what the mean of the whole cut is. And where further stretches (of 25, or of a twentieth of the cut) have come
    back to within 10 %, but a later one is off again, no more counts than up to the end of the first that had come back.
    """
    rest, size = tpot[cut:], max(_OPENING, cut // BLOCKS)
    bounds: list[int] = sorted({0, min(_OPENING, cut), *range(size, cut, size), cut})
    level, off_by = float(np.median(rest)), float(tpot[:cut].mean() - rest.mean())
    off = np.array([np.median(tpot[start:end]) for start, end in pairwise(bounds)]) - level
    if off[0] * np.sign(off_by) <= max(_TOLD_APART * level, _OF_THE_CUT * abs(off_by)):
        return 0
    sides = np.where(np.abs(off) > _TOLD_APART * level, np.sign(off), 0.0)
    elsewhere = np.flatnonzero(sides != sides[0])
    if not len(elsewhere) or not sides[elsewhere[0] :].any():
        return cut
    back = int(elsewhere[0])
    return bounds[back + 1] if sides[back] == 0 else bounds[back]


def backlog_growth(in_flight: Floats) -> float:
    """How many requests more are in flight for each that arrives, over the last 80 % of the arrivals; nan below 200 of them.

    0 for a server that keeps up, 1 - 1/utilisation for one that does not.
    """
    recent = _recent(in_flight)
    if len(recent) < _FEWEST_ARRIVALS:
        return math.nan
    fifth = len(recent) // 5
    return float(recent[-fifth:].mean() - recent[:fifth].mean()) / (len(recent) - fifth)


def backlog_rises(in_flight: Floats) -> bool:
    """Whether the in-flight count at each arrival since the load began, shape (n,), rose over the last 80 % of the arrivals: by
    more than 2 per 100 of them, and the means of 20 blocks go up (Kendall's tau, p < .01)."""
    return backlog_growth(in_flight) > _GROWTH and _chance_of_rise(_recent_blocks(in_flight)) < _CHANCE


def backlog_grows(in_flight: Floats) -> bool:
    """One look at a load: its backlog rises, by more than a queue that keeps up may wander. Three looks in a row mean overload.

    Close to its capacity a queue is a random walk for a while, and both a slope and a trend of its neighbouring blocks are what a
    walk has by chance. So the growth must also be 2.5 standard errors of a walk whose steps are as uneven as those between the
    20 blocks: of the difference of its last and first four, whose variance is 22 times that of a step between block means.
    """
    if not backlog_rises(in_flight):
        return False
    means = _recent_blocks(in_flight)
    fifth = BLOCKS // 5
    growth = float(means[-fifth:].mean() - means[:fifth].mean())
    return growth > _ERRORS_OF_A_WALK * math.sqrt(_STEPS_TO_GROWTH * float(np.diff(means).var(ddof=1)))


def _recent_blocks(in_flight: Floats) -> Floats:
    recent = _recent(in_flight)
    size = len(recent) // BLOCKS
    means: Floats = recent[: size * BLOCKS].reshape(BLOCKS, size).mean(axis=1)
    return means


def _recent(in_flight: Floats) -> Floats:
    return in_flight[int(len(in_flight) * (1 - _RECENT)) :]


def _chance_of_rise(y: Floats) -> float:
    """The one-sided p of Kendall's tau against a rise, by the normal approximation with continuity correction."""
    n, concordance = len(y), _concordance(y)
    z = (concordance - (1 if concordance > 0 else 0)) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _concordance(y: Floats) -> float:
    """Pairs of ``y`` that rise less those that fall: Kendall's tau times n (n - 1) / 2."""
    return float(np.sign(y[None, :] - y[:, None])[np.triu_indices(len(y), 1)].sum())


def watched_from_s(seen: Observations) -> float:
    """From when on a growing backlog means overload: 60 s, or 75 times the E2E of the load's first requests if that is more.

    The first 50 that were answered: those of an overloaded server soon take so long that their own mean would put off for ever
    what they show. Infinite before any was answered.
    """
    e2e = seen.latencies["e2e"]
    answered = np.isfinite(e2e)
    if not answered.any():
        return math.inf
    return max(_SOONEST_S, _SOONEST_E2E * float(e2e[answered][:_UNLOADED].mean()))


def overload_since(seen: Observations) -> float | None:
    """When a finished open loop had shown a growing backlog at three looks in a row, 15 s apart, in seconds since its start."""
    in_a_row, look_s = 0, watched_from_s(seen)
    while look_s <= float(seen.scheduled_s[-1] if len(seen) else 0.0):
        arrived = int(np.searchsorted(seen.scheduled_s, look_s, side="right"))
        in_a_row = in_a_row + 1 if backlog_grows(seen.in_flight[:arrived]) else 0
        if in_a_row == LOOKS_IN_A_ROW:
            return look_s
        look_s += LOOK_EVERY_S
    return None


def growth_sentence(seen: Observations, at_s: float) -> str:
    """What a growing backlog looked like at ``at_s``: ``the backlog grew by 12.3 requests per 100 arrivals``."""
    arrived = int(np.searchsorted(seen.scheduled_s, at_s, side="right"))
    return f"{GROWING} by {100 * backlog_growth(seen.in_flight[:arrived]):.1f} requests per 100 arrivals"


def is_warming_up(steadiness: Steadiness) -> bool:
    """Whether a run was unstable because its server never got warm, not because it fell behind."""
    return steadiness.unstable.startswith(WARMING)


def extra_warmup(seen: Observations, window_start_s: float) -> Steadiness:
    """By how much the beginning of the window (``window_start_s``) had not settled, by the TPOT of the requests seen so far.

    It is cut only where MSER-5 would, 100 requests or more have a TPOT, what is cut is one settling that began with the run, and
    its mean TPOT differs from the rest by more than 10 % and by more than chance: a short run's samples are not given away for
    noise, and a bad stretch later on is no warm-up. That nothing settled in the first half is said of 200 requests or more.
    """
    tpot = seen.latencies["tpot"]
    rows = np.flatnonzero(seen.counted & np.isfinite(tpot))
    if len(rows) < _FEWEST_TPOT:
        return Steadiness()
    tpot = tpot[rows]
    cut, never = settled_after(tpot)
    if cut and (longest := one_settling(tpot, cut)) < cut:
        cut, never = settled_after(tpot, longest)
    rest = tpot[cut:]
    difference = abs(float(tpot[:cut].mean() - rest.mean())) if cut else 0.0
    if difference <= _TOLD_APART * rest.mean():
        return Steadiness()
    if never:
        positive = tpot > 0
        logs = np.log(tpot[positive])
        shown = len(logs) >= FEWEST and _never_settled(logs, int(np.count_nonzero(positive[:cut])))
        return Steadiness(unstable=f"{WARMING}: TPOT had not settled after {cut:,} requests") if shown else Steadiness()
    if difference <= _ERRORS * math.sqrt(float(rest.var()) * design_effect(rest) / cut):
        return Steadiness()
    return Steadiness(extra_warmup_s=float(seen.scheduled_s[rows[cut]]) - window_start_s)


def _never_settled(logs: Floats, cut: int) -> bool:
    """Whether it is more than chance that ``logs`` (shape (n,), n >= 200) ends elsewhere than it was in its first ``cut`` values.

    A level that wanders for a while looks much like one that has not settled. Told apart is what goes one way throughout (of
    the pairs of 20 blocks 85 % agree: tau 0.7), and where the last quarter differs by four standard errors of its own and of
    the first part's. The design effect of the whole would be of no use: a trend's is so large that no trend would exceed it.
    """
    size = len(logs) // BLOCKS
    if abs(_concordance(logs[-size * BLOCKS :].reshape(BLOCKS, size).mean(axis=1))) >= _ONE_WAY * _PAIRS:
        return True
    parts = logs[:cut], logs[-(len(logs) // 4) :]
    variance = sum(float(part.var()) * design_effect(part) / len(part) for part in parts)
    return bool(abs(parts[0].mean() - parts[1].mean()) > _ERRORS_APART * math.sqrt(variance))


def is_speeding_up(seen: Observations) -> bool:
    """Whether the latest quarter of the counted answers came, at the mean, by more than 10 % faster a token than the first.

    A server that gets warm does; one that is overloaded does not. It is told long before ``extra_warmup`` can cut anything.
    """
    tpot = seen.latencies["tpot"][seen.counted]
    tpot = tpot[np.isfinite(tpot)]
    quarter = len(tpot) // 4
    return quarter > 0 and bool(tpot[-quarter:].mean() < (1 - _TOLD_APART) * tpot[:quarter].mean())


def steadiness(result: LoadResult, *, open_loop: bool = True, stationary: bool = True) -> Steadiness:
    """What a finished load says of its own steady state.

    ``open_loop``: whether to look for a growing backlog. Not in a closed loop, whose concurrency is bounded, nor where the rate
    is not constant, as in a trace. ``stationary``: whether the load is the same from its beginning to its end; where it is not (a
    trace, a ramp), a TPOT that changes with it is no warm-up. A load that was ended early is told by what was known at that
    instant: what it was ended for does not change by what arrives afterwards.
    """
    seen = as_of(result, result.stopped_s) if result.stopped_s is not None else observations(result)
    if open_loop and (since_s := overload_since(seen)) is not None:
        return Steadiness(unstable=growth_sentence(seen, since_s))
    return extra_warmup(seen, result.window_start_s) if stationary else Steadiness()


def without_warmup(result: LoadResult, extra_warmup_s: float) -> LoadResult:
    """The same load with a longer warm-up: its window opens later, and the requests before that count as warm-up."""
    if extra_warmup_s <= 0:
        return result
    opened_s = result.window_start_s + extra_warmup_s
    log = replace(result.log, warmup=result.log.warmup | (result.log.scheduled_s < opened_s))
    return replace(result, log=log, window_start_s=opened_s)
