"""Whether the load generator did what it was to do. A client that fell behind measured itself, not the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.units import format_duration, format_fraction

if TYPE_CHECKING:
    from pytest_llmperf.load.records import ClientHealth, WorkerHealth

_FROM_SCHEDULE = frozenset({"ttft", "e2e"})
_MORE_WORKERS = "use more workers (--llmperf-workers) or make the load from inside the cluster"


@dataclass(frozen=True)
class TrustLimits:
    """Up to where a client is trusted. Beyond, the load that was made is not the load that was planned.

    Below, ``lateness_p99_s`` and ``loop_lag_p99_s`` are still errors that a latency may carry: a miss by no more than that is
    not held against the server (``judge.verdict``). Above ``cpu_share`` a worker's core is full and its times are those of a
    queue in the client. The defaults are some hundred times what an idle machine shows; a busy CI machine stays below them.
    """

    lateness_p99_s: float = 0.050
    """How late the slowest 1 % of a worker's requests may be sent."""
    loop_lag_p99_s: float = 0.050
    """How late a worker's event loop may see what arrived."""
    cpu_share: float = 0.95
    """CPU seconds per second of one worker (one core is 1.0)."""
    sent_share: float = 0.999
    """Requests sent / requests planned, at least; without those for which the server took no connection.
    What the client could not send (no more open files, no local port) is an error in the metrics: it must stay rare."""


@dataclass(frozen=True)
class ClientDelay:
    """What the client itself may have added to its slowest 1 % of latencies, by its worst worker."""

    sending_s: float = 0.0
    reading_s: float = 0.0

    def in_metric(self, name: str) -> float:
        """Seconds of it in one value of a latency; TPOT spreads it over all its tokens, which leaves none to speak of."""
        if name == "tpot":
            return 0.0
        return self.reading_s + (self.sending_s if name in _FROM_SCHEDULE else 0.0)


def client_delay(health: ClientHealth) -> ClientDelay:
    """The delay of the workers that made requests."""
    workers = [worker for worker in health.workers if worker.requests > 0]
    return ClientDelay(
        max((worker.lateness_p99_s for worker in workers), default=0.0),
        max((worker.loop_lag_p99_s for worker in workers), default=0.0),
    )


def distrust(health: ClientHealth, limits: TrustLimits) -> tuple[str, ...]:
    """The reasons not to trust a measurement, each one with what to do; empty when there is none."""
    reasons = [reason for worker in health.workers if worker.requests > 0 for reason in _worker(worker, limits)]
    return (*reasons, *_plan(health, limits))


def _worker(worker: WorkerHealth, limits: TrustLimits) -> Iterator[str]:
    # "Not within" instead of "beyond": a health that is nan proves nothing, so it does not pass.
    if not worker.lateness_p99_s <= limits.lateness_p99_s:
        yield (
            f"worker {worker.worker} sent its requests late: p99 {format_duration(worker.lateness_p99_s)} after schedule "
            f"(limit {format_duration(limits.lateness_p99_s)}, worst {format_duration(worker.lateness_max_s)}); {_MORE_WORKERS}"
        )
    if not worker.loop_lag_p99_s <= limits.loop_lag_p99_s:
        yield (
            f"worker {worker.worker} read its answers late: its event loop lagged p99 {format_duration(worker.loop_lag_p99_s)} "
            f"(limit {format_duration(limits.loop_lag_p99_s)}, worst {format_duration(worker.loop_lag_max_s)}); {_MORE_WORKERS}"
        )
    if not worker.cpu_share <= limits.cpu_share:
        yield (
            f"worker {worker.worker} used {format_fraction(worker.cpu_share)} of a CPU core "
            f"(limit {format_fraction(limits.cpu_share)}); {_MORE_WORKERS}"
        )


def _plan(health: ClientHealth, limits: TrustLimits) -> Iterator[str]:
    planned, sent = health.planned_requests - health.unreachable_requests, health.sent_requests
    if planned > 0 and sent < limits.sent_share * planned:
        yield (
            f"the client sent {sent:,} of {planned:,} planned requests ({format_fraction(sent / planned)}, at least "
            f"{format_fraction(limits.sent_share)} is needed); lower the rate, or {_MORE_WORKERS}"
        )
    if health.lost_workers:
        yield f"{health.lost_workers} load workers died and took what they had measured with them; the run's notes say how"
    if planned > 0 and not health.workers:
        yield f"no worker reported on the {planned:,} planned requests; look for workers that died in the log"
