"""Requests in the order of their arrival, as far as they are known: what every verdict on dependent samples is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.watch import Sighting
from pytest_llmperf.measure.gaps import gaps_of
from pytest_llmperf.measure.latencies import comparable_latencies, stand_ins

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, LoadResult

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Series:
    """What is known of one limit: a row a counted request in arrival order, up to the first about which it is not known yet.

    Stopping there is what keeps a look at a running load honest: slow requests are the last to be known, so whoever judges
    those that have ended judges the fast ones. All columns are of shape (n,).
    """

    exceeds: Floats
    """1 where the request is beyond the limit, 0 where not; what part of it is, in units of the mean request, for ITL."""
    values: Floats
    """The latency: inf for a failure, the age so far of a request in flight that is beyond the limit already."""
    in_flight: Floats
    """How many other requests were at the target when it arrived."""
    scheduled_s: Floats

    def __len__(self) -> int:
        return len(self.exceeds)

    def first(self, n: int) -> Series:
        """The first ``n`` requests of it."""
        return Series(self.exceeds[:n], self.values[:n], self.in_flight[:n], self.scheduled_s[:n])


@dataclass(frozen=True)
class Observations:
    """Columns of shape (n,), one row a request that was scheduled until ``now_s``, the warm-up's included, in arrival order.

    ``latencies`` has the metrics of ``measure.latencies.PER_REQUEST``: +inf for a request that failed, nan where an answered
    request has no such latency or one in flight has none yet.
    """

    now_s: float
    """Until when the load was watched, in seconds since the run's start; for a finished run the end of its last request."""
    scheduled_s: Floats
    counted: Bools
    """Within the measured window, and not cancelled when the load ended."""
    ended: Bools
    failed: Bools
    in_flight: Floats
    """How many other requests were at the target when this one arrived."""
    latencies: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.scheduled_s)

    def counted_from(self, opened_s: float) -> Observations:
        """The same, counting only what was scheduled at ``opened_s`` or later: a longer warm-up."""
        return replace(self, counted=self.counted & (self.scheduled_s >= opened_s))

    def latency(self, metric_name: str, limit: float) -> Series:
        """The series of a latency (a metric of ``PER_REQUEST``) against ``limit`` in seconds.

        Answered requests that have no such latency are left out: TPOT of one token.
        """
        exceeds, values, known = self._against(metric_name, limit)
        return self._known_first(exceeds, values, known, self.having(metric_name))

    def having(self, metric_name: str) -> Bools:
        """Which counted requests have the latency or may yet; of the failed ones those that stand for it (``stand_ins``)."""
        values = self.latencies[metric_name]
        answered, failed = self.counted & self.ended & ~self.failed, self.counted & self.failed
        having = (answered & ~np.isnan(values)) | stand_ins(failed, answered, ~np.isnan(values))
        return having | (self.counted & ~self.ended & ~self.failed)

    def failures(self) -> Series:
        """The series of failures: a request exceeds by not ending well. Its values are the exceedances themselves."""
        failed = self.failed.astype(np.float64)
        return self._known_first(failed, failed, self.ended, self.counted)

    def bad(self, limits: Mapping[str, float]) -> Series:
        """The series of requests that are no goodput: failed, or beyond any of ``limits`` (metric name -> seconds).

        A latency that a request does not have cannot break its limit. So where too few have it (``shows``), at least as many are
        bad as are counted here. The values are the exceedances themselves.
        """
        broken = self.failed.copy()
        for name, limit in limits.items():
            broken |= self._against(name, limit)[0] > 0
        bad = broken.astype(np.float64)
        return self._known_first(bad, bad, self.ended | broken, self.counted)

    def shows(self, metric_names: Iterable[str]) -> bool:
        """Whether at least half of the counted requests that were answered well have each of these latencies.

        Without streaming there is no TTFT: that none is late says nothing.
        """
        answered = self.counted & self.ended & ~self.failed
        half = np.count_nonzero(answered) / 2
        return all(np.count_nonzero(np.isfinite(self.latencies[name][answered])) >= half for name in metric_names)

    def exceedances(self, metric_name: str, limit: float) -> tuple[Floats, Floats, Floats]:
        """``latency`` as the three columns that ``judge.sequential.rule`` takes: (exceeds, values, in_flight)."""
        series = self.latency(metric_name, limit)
        return series.exceeds, series.values, series.in_flight

    @property
    def _shows_first_tokens(self) -> bool:
        """Whether the first tokens of requests in flight are seen at all: not where answers are not streamed, nor where it
        takes an answer's end to tell which event bore its first token. Then one that was not seen may have come in time."""
        return bool((~self.ended & ~np.isnan(self.latencies["ttft"])).any())

    def _against(self, name: str, limit: float) -> tuple[Floats, Floats, Bools]:
        """Of every row: whether it exceeds, its value, and whether that is known.

        TTFT and E2E run from the schedule: a request in flight that is older than their limit is already beyond it.
        """
        values = self.latencies[name]
        known = self.ended | ~np.isnan(values)
        if name == "e2e" or (name == "ttft" and self._shows_first_tokens):
            age = self.now_s - self.scheduled_s
            late = ~known & (age > limit)
            values, known = np.where(late, age, values), known | late
        return (values > limit).astype(np.float64), values, known

    def _known_first(self, exceeds: Floats, values: Floats, known: Bools, of: Bools) -> Series:
        rows = np.flatnonzero(of)
        unknown = np.flatnonzero(~known[rows])
        rows = rows[: unknown[0]] if len(unknown) else rows
        return Series(exceeds[rows], values[rows], self.in_flight[rows], self.scheduled_s[rows])


def observations(result: LoadResult, extra_warmup_s: float = 0.0) -> Observations:
    """A finished load's requests. Those of its first ``extra_warmup_s`` beyond the warm-up are not counted (``Steadiness``)."""
    log = result.log
    opened_s = result.window_start_s + extra_warmup_s
    cancelled = log.outcome == Outcome.CANCELLED
    failed = (log.outcome != Outcome.OK) & ~cancelled
    within = ~log.warmup & (log.scheduled_s >= opened_s) & (log.scheduled_s <= result.window_end_s)
    latencies = comparable_latencies(log, within & ~cancelled & ~failed)
    return Observations(
        now_s=float(np.nanmax(log.end_s, initial=result.window_end_s)),
        scheduled_s=log.scheduled_s,
        counted=within & ~cancelled,
        ended=np.ones(len(log), np.bool_),
        failed=failed,
        in_flight=_in_flight(log.scheduled_s, log.end_s),
        latencies={name: np.where(failed, np.inf, values) for name, values in latencies.items()},
    )


def sighted(sighting: Sighting, window_start_s: float) -> Observations:
    """A running load's requests, as far as they have been seen. ``window_start_s``: where its warm-up ends."""
    ended = ~np.isnan(sighting.end_s)
    # A sighting has all the columns that latencies are computed from, with nan for what has not happened yet.
    counted = ~sighting.warmup & (sighting.scheduled_s >= window_start_s)
    latencies = comparable_latencies(sighting, counted & ended & ~sighting.failed)
    for name in latencies:
        # Of a request in flight only the first token is known; its last one so far is not its last.
        hidden = np.zeros(len(ended), np.bool_) if name in ("ttft", "service_ttft") else ~ended
        latencies[name] = np.where(sighting.failed, np.inf, np.where(hidden, np.nan, latencies[name]))
    return Observations(
        now_s=sighting.now_s,
        scheduled_s=sighting.scheduled_s,
        counted=counted,
        ended=ended,
        failed=sighting.failed,
        in_flight=_in_flight(sighting.scheduled_s, sighting.end_s),
        latencies=latencies,
    )


def as_of(result: LoadResult, at_s: float, extra_warmup_s: float = 0.0) -> Observations:
    """A finished load's requests as they were known at ``at_s``, in seconds since its start: what ``sighted`` showed then."""
    log = result.log
    n = int(np.searchsorted(log.scheduled_s, at_s, side="right"))
    ended = log.end_s[:n] <= at_s

    def seen(times: Floats) -> Floats:
        return np.where(ended, times[:n], np.nan)

    sighting = Sighting(
        now_s=at_s,
        scheduled_s=log.scheduled_s[:n],
        sent_s=log.sent_s[:n],
        first_token_s=np.where(log.first_token_s[:n] <= at_s, log.first_token_s[:n], np.nan),
        last_token_s=seen(log.last_token_s),
        end_s=seen(log.end_s),
        output_tokens=np.where(ended, log.output_tokens[:n], 0),
        failed=ended & (log.outcome[:n] != Outcome.OK),
        warmup=log.warmup[:n],
    )
    return sighted(sighting, result.window_start_s + extra_warmup_s)


def gaps_beyond(result: LoadResult, limit: float, extra_warmup_s: float = 0.0) -> Series:
    """The series of the gaps between tokens (ITL) beyond ``limit`` seconds: a row a request that has a gap, or failed.

    ``exceeds`` is the number of its gaps beyond the limit over the mean number of gaps: its mean is the share of all gaps, the
    estimand of an ITL quantile, while requests stay the units that are drawn. A failed request is as many gaps that never ended
    as an answered one has in the mean. ``values`` are the requests' mean gaps.
    """
    seen = observations(result, extra_warmup_s)
    answered = seen.counted & ~seen.failed
    gaps = gaps_of(result.log, answered)
    never_ended = gaps.of_a_failure(int(np.count_nonzero(answered)))
    beyond = np.where(seen.failed, never_ended, gaps.beyond(limit))
    counts = np.where(seen.failed, never_ended, gaps.counts)
    rows = np.flatnonzero(seen.counted & (counts > 0))
    mean = float(counts[rows].mean()) if len(rows) else 1.0
    values = np.where(seen.failed, np.inf, gaps.means())
    return Series(beyond[rows] / mean, values[rows], seen.in_flight[rows], seen.scheduled_s[rows])


def _in_flight(begun_s: Floats, end_s: Floats) -> Floats:
    """How many others had begun and not ended when each began, shape (n,), from its sorted beginnings."""
    ends = np.sort(np.where(np.isnan(end_s), np.inf, end_s))
    before = np.arange(len(begun_s)) - np.searchsorted(ends, begun_s, side="right")
    # A request that ended the instant it began would count its own end.
    others: Floats = np.maximum(before, 0).astype(np.float64)
    return others
