"""What a load generator says of itself: how late it was, how long its loop was held up, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, process_time

import numpy as np

from pytest_llmperf.load.exchange import Exchange
from pytest_llmperf.load.records import Floats, WorkerHealth

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


def worker_health(
    worker: int,
    exchanges: Sequence[Exchange],
    loop_lags_s: Sequence[float],
    drain_lags_s: Sequence[float],
    cpu_share: float,
    connect_failures: int,
) -> WorkerHealth:
    """Lateness is of the measured requests (of the warm-up's where there are no others); 0 where nothing was observed.

    It counts from the scheduled instant to the one at which the request was sent or, when it needed a fresh connection,
    at which connecting began: how long the network takes to connect is in TTFT and E2E, but is no fault of the client.

    ``loop_lags_s`` are those of the heartbeats. The lag's quantiles are over time: held up for a second, a loop has missed a
    hundred beats, and what arrived in that second waited as those would have. As one lag among many it would not be seen.
    A long drain with little to read does not dilute them: they are of the window, or of all, whichever is worse.
    """
    counted = [x for x in exchanges if not x.warmup] or list(exchanges)
    begun = np.array([x.begun_s for x in counted])
    sent = np.array([x.sent_s if x.connected_s == x.begun_s else x.begun_s for x in counted])
    late = np.maximum(np.where(np.isnan(sent), begun, sent) - np.array([x.scheduled_s for x in counted]), 0.0)
    lags = _with_missed_beats(loop_lags_s)
    all_lags = _with_missed_beats([*loop_lags_s, *drain_lags_s])
    return WorkerHealth(
        worker=worker,
        requests=len(exchanges),
        lateness_p50_s=_quantile(late, 0.5),
        lateness_p99_s=_quantile(late, 0.99),
        lateness_max_s=_quantile(late, 1.0),
        loop_lag_p99_s=max(_quantile(lags, 0.99), _quantile(all_lags, 0.99)),
        loop_lag_max_s=_quantile(all_lags, 1.0),
        cpu_share=cpu_share,
        connect_failures=connect_failures,
    )


def _with_missed_beats(lags_s: Sequence[float]) -> Floats:
    missed = [np.arange(lag - HEARTBEAT_S, 0.0, -HEARTBEAT_S) for lag in lags_s if lag > HEARTBEAT_S]
    return np.concatenate([np.asarray(lags_s, dtype=np.float64), *missed])


def _quantile(values: Floats, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else 0.0
