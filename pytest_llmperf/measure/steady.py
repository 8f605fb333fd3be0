"""Whether a load had a steady state, and from when on. Judged by TPOT and by the backlog, never by TTFT.

Cutting a beginning because its TTFT was high would delete early bursts, and a tail without its bursts keeps any limit. TPOT
shows a server that is still compiling or filling its batch; the number of requests in flight shows one that falls behind.
"""

from __future__ import annotations

import math
from dataclasses import replace
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
_ERRORS = 3.0
"""Standard errors of the part that is cut: MSER has chosen it among many, so two would be none too rare."""
_ERRORS_APART = 4.0
_ONE_WAY = 0.7
_PAIRS = BLOCKS * (BLOCKS - 1) / 2
_RECENT = 0.8
_FEWEST_ARRIVALS = 200
_GROWTH = 0.02
_CHANCE = 0.01
_SOONEST_S = 60.0
_SOONEST_E2E = 75
_UNLOADED = 50


def settled_after(tpot: Floats) -> tuple[int, bool]:
    """MSER-5 on the log of TPOT, shape (n,), in arrival order: (the first request kept, whether it never settled).

    Of all cuts in the first half, the one that minimises the standard error of the mean of what is left, over batches of five
    (White, Cobb and Spratt, 2000). A cut at the end of that half (its last 2 %) means that nothing had settled. Values that have
    no logarithm (nan, 0 of a whole answer in one chunk) are passed over; below ten batches there is nothing to cut.
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
    cut = int(np.argmin(errors[:limit]))
    return int(rows[cut * _BATCH]) if cut else 0, cut >= limit - max(1, int(_BOUNDARY * batches))


def backlog_growth(in_flight: Floats) -> float:
    """How many requests more are in flight for each that arrives, over the last 80 % of the arrivals; nan below 200 of them.

    0 for a server that keeps up, 1 - 1/utilisation for one that does not.
    """
    recent = _recent(in_flight)
    if len(recent) < _FEWEST_ARRIVALS:
        return math.nan
    fifth = len(recent) // 5
    return float(recent[-fifth:].mean() - recent[:fifth].mean()) / (len(recent) - fifth)


def backlog_grows(in_flight: Floats) -> bool:
    """One look at the in-flight count at each arrival since the load began, shape (n,): over the last 80 % it grew by more than
    2 per 100 arrivals, and the means of 20 blocks rise (Kendall's tau, p < .01). Three looks in a row mean overload."""
    growth = backlog_growth(in_flight)
    if not growth > _GROWTH:
        return False
    recent = _recent(in_flight)
    size = len(recent) // BLOCKS
    return _chance_of_rise(recent[: size * BLOCKS].reshape(BLOCKS, size).mean(axis=1)) < _CHANCE


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

    It is cut only where MSER-5 would, 100 requests or more have a TPOT, and the mean TPOT of what is cut differs from the rest
    by more than 10 % and by more than chance: a short run's samples are not given away for noise. That nothing settled in the
    first half is said of 200 requests or more.
    """
    tpot = seen.latencies["tpot"]
    rows = np.flatnonzero(seen.counted & np.isfinite(tpot))
    if len(rows) < _FEWEST_TPOT:
        return Steadiness()
    tpot = tpot[rows]
    cut, never = settled_after(tpot)
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


def steadiness(result: LoadResult, *, open_loop: bool = True) -> Steadiness:
    """What a finished load says of its own steady state.

    ``open_loop``: whether to look for a growing backlog. Not in a closed loop, whose concurrency is bounded, nor where the rate
    is not constant, as in a trace. A load that was ended early is told by what was known at that instant: what it was ended for
    does not change by what arrives afterwards.
    """
    seen = as_of(result, result.stopped_s) if result.stopped_s is not None else observations(result)
    if open_loop and (since_s := overload_since(seen)) is not None:
        return Steadiness(unstable=growth_sentence(seen, since_s))
    return extra_warmup(seen, result.window_start_s)


def without_warmup(result: LoadResult, extra_warmup_s: float) -> LoadResult:
    """The same load with a longer warm-up: its window opens later, and the requests before that count as warm-up."""
    if extra_warmup_s <= 0:
        return result
    opened_s = result.window_start_s + extra_warmup_s
    log = replace(result.log, warmup=result.log.warmup | (result.log.scheduled_s < opened_s))
    return replace(result, log=log, window_start_s=opened_s)
