"""What a load generator says of itself: how late it was, how long its loop was held up, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, process_time

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.exchange import Exchange
from pytest_llmperf.load.records import Floats, RequestLog, WorkerHealth

HEARTBEAT_S = 0.01
"""How often a worker looks whether its event loop is held up."""


class CpuMeter:
    """CPU seconds of this process per second between ``begin`` and the first ``end``."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self._ended: tuple[float, float] | None = None

    def begin(self) -> None:
        """From now."""
        self._began = process_time(), monotonic()

    def end(self) -> None:
        """Until now; later calls change nothing."""
        self._ended = self._ended or (process_time(), monotonic())

    @property
    def share(self) -> float:
        """0 where nothing was measured."""
        if self._began is None or self._ended is None:
            return 0.0
        (cpu_began_s, began_s), (cpu_ended_s, ended_s) = self._began, self._ended
        return (cpu_ended_s - cpu_began_s) / (ended_s - began_s)


class Beats:
    """The heartbeats of the window and of the drain after it: how much later than due the event loop came to each."""

    def __init__(self) -> None:
        self._at_s: list[float] = []
        self._lags_s: list[float] = []
        self._in_window = 0

    def note(self, due_s: float, now_s: float, *, in_window: bool) -> None:
        """One that was due at ``due_s`` and came at ``now_s``, in seconds since the run's start. The window's come first."""
        self._at_s.append(now_s)
        self._lags_s.append(now_s - due_s)
        self._in_window += in_window

    @property
    def window_lags_s(self) -> Floats:
        """Of the beats in the window."""
        return np.array(self._lags_s[: self._in_window])

    @property
    def lags_s(self) -> Floats:
        """Of all."""
        return np.array(self._lags_s)

    def lags_at(self, instants_s: Floats) -> Floats:
        """The lag in force at each instant: that of the beat before it or of the one after it, whichever is longer.

        What a loop finds once it is no longer held up has waited as the beat before it, what it does meanwhile as the one after.
        """
        lags = np.array([0.0, *self._lags_s, 0.0, 0.0])
        places = np.searchsorted(self._at_s, instants_s, side="right")
        in_force: Floats = np.maximum(lags[places], lags[places + 1])
        return in_force


def worker_health(
    worker: int, exchanges: Sequence[Exchange], log: RequestLog, beats: Beats, cpu_share: float, connect_failures: int
) -> WorkerHealth:
    """``log`` has a row for each of the exchanges. Both delays are 0 where nothing was observed.

    The lateness is of the measured requests (of the warm-up's where there are no others).

    The loop's lag is the worst of three quantiles. Two are over time: held up for a second, a loop has missed a hundred beats,
    and what arrived in that second waited as those would have; as one lag among many it would not be seen. A long drain with
    little to read does not dilute them: they are of the window, and of all. The third is over the requests, for many may have
    their answers read at the one moment at which the loop was held up.
    """
    counted = ~log.warmup if not log.warmup.all() else np.ones(len(log), dtype=np.bool_)
    late = _lateness_s(exchanges, log, beats)[counted]
    waited = _reading_delay_s(log, beats)[counted]
    of_window, of_all = _with_missed_beats(beats.window_lags_s), _with_missed_beats(beats.lags_s)
    stamped = log.chunk_read_lag_s[log.chunk_read_lag_s > 0]
    return WorkerHealth(
        worker=worker,
        requests=len(exchanges),
        lateness_p50_s=_quantile(late, 0.5),
        lateness_p99_s=_quantile(late, 0.99),
        lateness_max_s=_quantile(late, 1.0),
        loop_lag_p99_s=max(_quantile(lags, 0.99) for lags in (of_window, of_all, waited)),
        loop_lag_max_s=_quantile(of_all, 1.0),
        cpu_share=cpu_share,
        connect_failures=connect_failures,
        kernel_stamped_share=len(stamped) / len(log.chunk_s) if len(log.chunk_s) else 0.0,
        read_lag_p99_s=_quantile(stamped, 0.99),
    )


def _lateness_s(exchanges: Sequence[Exchange], log: RequestLog, beats: Beats) -> Floats:
    """How late the client itself was with each request.

    From the scheduled instant to the one at which it was sent. Where it needed a fresh connection: to the one at which that was
    asked for, and then for as long as the client left it waiting when it stood. How long the server and the network take to
    connect is in TTFT and E2E, but is no fault of the client.
    """
    scheduled = np.array([x.scheduled_s for x in exchanges])
    begun = np.array([x.begun_s for x in exchanges])
    sent = np.array([x.sent_s for x in exchanges])
    reused = np.array([x.connected_s == x.begun_s for x in exchanges], dtype=np.bool_) & ~np.isnan(sent)
    told = np.array([x.opening_delay_s for x in exchanges])
    opening = np.where(np.isnan(told), beats.lags_at(log.connected_s), told)
    late: Floats = np.maximum(np.where(reused, sent, begun + opening) - scheduled, 0.0)
    return late


def _reading_delay_s(log: RequestLog, beats: Beats) -> Floats:
    """At most so much later than it came has the first token of each request its instant, or the last where that is more.

    The kernel's timestamp is that of the last bytes of a read: of a first token that was read together with the next, and of all
    without a timestamp, the lag says how long they may have waited.
    """
    first, after = log.chunk_start[:-1], log.chunk_start[1:]
    delay = np.zeros(len(log))
    has = after > first
    first, last = first[has], after[has] - 1
    next_s = log.chunk_s[np.minimum(first + 1, last)]
    together = (first < last) & (next_s == log.chunk_s[first])
    read_s = log.chunk_s + log.chunk_read_lag_s
    stamped = log.chunk_read_lag_s > 0
    of_first = np.where(stamped[first] & ~together, 0.0, beats.lags_at(read_s[first]))
    of_last = np.where(stamped[last], 0.0, beats.lags_at(read_s[last]))
    delay[has] = np.maximum(of_first, of_last)
    return delay


def _with_missed_beats(lags_s: Floats) -> Floats:
    missed = [np.arange(lag - HEARTBEAT_S, 0.0, -HEARTBEAT_S) for lag in lags_s if lag > HEARTBEAT_S]
    return np.concatenate([lags_s, *missed])


def _quantile(values: Floats | NDArray[np.float32], q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else 0.0
