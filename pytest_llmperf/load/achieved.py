"""What a load made of its plan: the rate and the concurrency that were planned, beside those there were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_llmperf.load.attendance import Attendance
from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.records import Achieved, Floats, RequestLog, WorkerHealth

_HALF = 0.49
"""Half of the requests are late by p50 or more, the last hundredth of them by p99 or more."""


def achieved(
    plan: LoadPlan, log: RequestLog, workers: Sequence[WorkerHealth], window_start_s: float, window_end_s: float
) -> Achieved:
    """Planned and achieved, within the window (seconds since the run's start); all of it unknown where that has no length."""
    length_s = window_end_s - window_start_s
    if not length_s > 0:
        return Achieved()
    mean, peak = in_flight(log, window_start_s, window_end_s)
    there_s = _there_s(plan.attendance, window_start_s, window_end_s) if plan.attendance is not None else None
    return Achieved(
        planned_rate_per_s=_planned_requests(plan, log, window_start_s, window_end_s) / length_s if plan.open_loop else None,
        rate_per_s=_within(log.sent_s, window_start_s, window_end_s) / length_s,
        planned_in_flight=there_s / length_s if there_s is not None else None,
        mean_in_flight=mean,
        peak_in_flight=peak,
        busy_share=_busy_share(log, workers, there_s) if there_s else None,
    )


def in_flight(log: RequestLog, start_s: float, end_s: float) -> tuple[float, int]:
    """How many requests were sent and not ended: the mean over [``start_s``, ``end_s``), and the most at one instant."""
    sent = ~np.isnan(log.sent_s)
    began, ended = np.clip(log.sent_s[sent], start_s, end_s), np.clip(log.end_s[sent], start_s, end_s)
    overlaps = ended > began
    began, ended = np.sort(began[overlaps]), np.sort(ended[overlaps])
    # As each begins: itself and those before it, without those that have ended by then.
    at_once = np.arange(1, len(began) + 1) - np.searchsorted(ended, began, side="right")
    return float(np.sum(ended) - np.sum(began)) / (end_s - start_s), int(np.max(at_once, initial=0))


def _planned_requests(plan: LoadPlan, log: RequestLog, start_s: float, end_s: float) -> int:
    """The plan's arrivals, and the later turns of sessions, which are due when their answers say so."""
    later = log.scheduled_s[(log.turn > 0) & ~log.warmup]
    return _within(plan.arrivals_s, start_s, end_s) + _within(later, start_s, end_s)


def _within(instants_s: Floats, start_s: float, end_s: float) -> int:
    return int(np.count_nonzero((instants_s >= start_s) & (instants_s < end_s)))


def _there_s(attendance: Attendance, start_s: float, end_s: float) -> float:
    """For how long users were there, all together."""
    there_s = 0.0
    for user in range(len(attendance)):
        at_s = start_s
        while at_s < end_s and (span := attendance.next_span(user, at_s)) is not None:
            there_s += max(0.0, min(span.until_s, end_s) - max(span.from_s, start_s))
            at_s = span.until_s
    return there_s


def _busy_share(log: RequestLog, workers: Sequence[WorkerHealth], there_s: float) -> float:
    """At most what the client left of its users' time; a slow server, a pause or a time to think takes nothing from it.

    What it wasted is at least what the quantiles of the lateness say, which counts from the instant at which a user was ready to
    the one at which the client turned to the request: how long connecting or answering takes has no part in it.
    """
    measured = np.bincount(log.worker[~log.warmup], minlength=1)
    wasted_s = sum(
        float(measured[one.worker]) * (_HALF * one.lateness_p50_s + (0.5 - _HALF) * one.lateness_p99_s)
        for one in workers
        if one.worker < len(measured) and measured[one.worker]
    )
    return float(np.clip(1.0 - wasted_s / there_s, 0.0, 1.0))
