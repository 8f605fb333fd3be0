"""A run over time: what was sent, what came back and how long it took, in bins of equal length but for the last. Vectorised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.latencies import PIECE, answered_s, request_latencies

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, RequestLog

MOST_BINS = 600
SHORTEST_STEP_S = 1.0
QUANTILES = (0.5, 0.99)


@dataclass(frozen=True)
class Series:
    """One value a bin of ``step_s``, from ``start_s`` on; every array has shape (bins,). The last bin is ``last_step_s`` long.

    That is from half of the others' length to one and a half of it, and reaches to the last instant of the log: a rate over more
    time than was seen would fall at the end of every run, and one over a sliver of it would leap.

    What happened within the bin: requests ``sent``, ended well (``ok``) or not (``failed``: those that were cancelled at the
    run's end are neither), and ``output_tokens`` that arrived. ``in_flight_s`` are the seconds that requests, sent and not yet
    ended, spent in it together. ``quantiles`` has of each latency, in seconds, the values of ``QUANTILES``: order statistics of
    the requests that ended well in the bin (TTFT: whose first token arrived in it), nan where there was none.
    """

    start_s: float
    step_s: float
    last_step_s: float
    sent: Floats
    ok: Floats
    failed: Floats
    output_tokens: Floats
    in_flight_s: Floats
    quantiles: dict[str, tuple[Floats, ...]]


@dataclass(frozen=True)
class _Bins:
    start_s: float
    step_s: float
    number: int
    last_step_s: float

    def of(self, times_s: Floats) -> NDArray[np.int16]:
        """The bin in which each instant lies; the last bin has whatever comes after the others."""
        places = ((times_s - self.start_s) / self.step_s).astype(np.int16)
        return np.minimum(places, np.int16(self.number - 1))

    def sums(self, times_s: Floats, amounts: NDArray[Any] | None = None) -> Floats:
        """What happened in each bin: how often, or how much; an instant that is nan never came."""
        found = np.zeros(self.number)
        # In pieces: of a column a token long, what is computed of all at once is several times the log.
        for start in range(0, len(times_s), PIECE):
            at_s = times_s[start : start + PIECE]
            happened = np.isfinite(at_s)
            weights = amounts[start : start + PIECE][happened] if amounts is not None else None
            found += np.bincount(self.of(at_s[happened]), weights=weights, minlength=self.number)
        return found


def series(log: RequestLog) -> Series | None:
    """The log over time, warm-up included, in bins of a second, or of as many as leave at most 600; None for no requests."""
    if not len(log):
        return None
    bins = _bins(log)
    ok = log.outcome == Outcome.OK
    failed = ~ok & (log.outcome != Outcome.CANCELLED)
    # A body that came whole (not streamed) has no chunks; all its tokens arrived with its end.
    whole = ok & (np.diff(log.chunk_start) == 0)
    answered = answered_s(log)
    latencies = request_latencies(log)
    arrived = bins.sums(log.chunk_s, log.chunk_tokens) + bins.sums(log.end_s[whole], log.output_tokens[whole])
    return Series(
        start_s=bins.start_s,
        step_s=bins.step_s,
        last_step_s=bins.last_step_s,
        sent=bins.sums(log.sent_s),
        ok=bins.sums(answered[ok]),
        failed=bins.sums(log.end_s[failed]),
        output_tokens=arrived,
        in_flight_s=_in_flight_s(log, bins),
        quantiles={
            "ttft": _quantiles(log.first_token_s[ok], latencies["ttft"][ok], bins),
            "tpot": _quantiles(answered[ok], latencies["tpot"][ok], bins),
            "e2e": _quantiles(answered[ok], latencies["e2e"][ok], bins),
        },
    )


def _bins(log: RequestLog) -> _Bins:
    columns = (log.scheduled_s, log.sent_s, log.first_token_s, log.last_token_s, log.end_s, log.chunk_s)
    known = [column for column in columns if len(column) and not np.isnan(column).all()]
    first, last = min(0.0, *(float(np.nanmin(each)) for each in known)), max(float(np.nanmax(each)) for each in known)
    start_s = float(math.floor(first))
    step_s = max(SHORTEST_STEP_S, float(math.ceil((last - start_s) / MOST_BINS)))
    # A rest of less than half a bin belongs to the bin before it.
    number = max(1, math.floor((last - start_s) / step_s + 0.5))
    # Of a log that is one instant there is no length to divide by.
    return _Bins(start_s, step_s, number, (last - start_s - step_s * (number - 1)) or step_s)


def _in_flight_s(log: RequestLog, bins: _Bins) -> Floats:
    """Seconds in flight within each bin: what is left of it after each request was sent, less what is left after each ended."""
    flown = np.isfinite(log.sent_s) & np.isfinite(log.end_s)
    return _left_s(log.sent_s[flown], bins) - _left_s(log.end_s[flown], bins)


def _left_s(times_s: Floats, bins: _Bins) -> Floats:
    """Of each bin, the seconds that lie after the instants, added up over all of them.

    The last bin is taken to be as long as the others: its true end stands in both sides of a difference, and cancels out.
    """
    places = bins.of(times_s)
    before = np.bincount(places, minlength=bins.number).astype(np.float64)
    ends_s = bins.start_s + bins.step_s * (places + 1.0)
    within_s = np.bincount(places, weights=ends_s - times_s, minlength=bins.number)
    return within_s + bins.step_s * (np.cumsum(before) - before)


def _quantiles(times_s: Floats, values_s: Floats, bins: _Bins) -> tuple[Floats, ...]:
    """Of the values at these instants, the quantiles within each bin."""
    known = np.isfinite(times_s) & np.isfinite(values_s)
    values = values_s[known]
    places = bins.of(times_s[known])
    # Sorted by value, then by bin: a stable sort of small integers is a radix sort, and keeps the values in order.
    by_value = np.argsort(values)
    ordered = values[by_value][np.argsort(places[by_value], kind="stable")]
    counts = np.bincount(places, minlength=bins.number)
    starts = np.cumsum(counts) - counts
    return tuple(_ranked(ordered, starts, counts, quantile) for quantile in QUANTILES)


def _ranked(ordered: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64], quantile: float) -> Floats:
    """The ceil(q n)-th smallest of each bin's n values; nan where there is none."""
    found = np.full(len(counts), math.nan)
    has = counts > 0
    # Less a little, since 0.99 times 100 may be more than 99 in binary.
    ranks = np.maximum(np.ceil(quantile * counts[has] - 1e-9).astype(np.int64), 1)
    found[has] = ordered[starts[has] + ranks - 1]
    return found
