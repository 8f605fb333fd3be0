"""Whether the load generator did what it was to do. A client that fell behind measured itself, not the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, UnitError, Where, unknown
from pytest_llmperf.load.cores import available_cores
from pytest_llmperf.units import format_duration, format_fraction, parse_duration, parse_fraction

if TYPE_CHECKING:
    from pytest_llmperf.load.records import ClientHealth, WorkerHealth
    from pytest_llmperf.metrics import MetricKey

_KNOWN = 0.99
"""The quantile at which a worker's lateness and lag are known; of what lies above, only the most."""
_FROM_SCHEDULE = frozenset({"ttft", "e2e"})


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
    busy_share: float = 0.90
    """Of the time of a closed loop's users, the share that the client did not waste by sending late, at least. With answers of
    a few milliseconds a lateness that is small in itself leaves fewer requests in flight than were asked for."""


DEFAULT_LIMITS = TrustLimits()


@dataclass(frozen=True)
class _Limit:
    """One limit as a user writes it. ``at_least``: a smaller number is the looser one."""

    field: str
    read: Callable[[object], float]
    shown: Callable[[float], str]
    at_least: bool = False


_LIMITS = {
    "lateness_p99": _Limit("lateness_p99_s", parse_duration, format_duration),
    "loop_lag_p99": _Limit("loop_lag_p99_s", parse_duration, format_duration),
    "cpu_share": _Limit("cpu_share", parse_fraction, format_fraction),
    "sent_share": _Limit("sent_share", parse_fraction, format_fraction, at_least=True),
    "busy_share": _Limit("busy_share", parse_fraction, format_fraction, at_least=True),
}
_FORM = "Write NAME:LIMIT, such as 'lateness_p99:20ms', 'cpu_share:90%' or 'sent_share:99.9%'."


def parse_trust_limits(texts: Iterable[str], where: Where) -> TrustLimits:
    """``["lateness_p99:20ms", "cpu_share:90%"]`` -> the limits; what is not named keeps its default. Raises ``ConfigError``."""
    given: dict[str, float] = {}
    for text in texts:
        name, _, amount = (part.strip() for part in text.partition(":"))
        if name and not amount:
            raise ConfigError(f"{text!r} is no limit", where=where, hint=_FORM)
        if name not in _LIMITS:
            raise unknown("limit of trust", name, _LIMITS, where)
        limit = _LIMITS[name]
        if limit.field in given:
            raise ConfigError(f"{name} has two limits, {limit.shown(given[limit.field])} and {amount}", where=where)
        given[limit.field] = _read(name, amount, where)
    return replace(DEFAULT_LIMITS, **given)


def _read(name: str, amount: str, where: Where) -> float:
    try:
        value = round(_LIMITS[name].read(amount), 12)  # 99.9% is 0.999, which 99.9 / 100 is not
    except UnitError as error:
        raise ConfigError(f"{name}: {error}", where=where, hint=_FORM) from None
    if value == 0 and not _LIMITS[name].at_least:
        raise ConfigError(f"{name}:{amount} trusts no client at all", where=where, hint="Write a limit of more than 0.")
    return value


def named_limits(limits: TrustLimits) -> dict[str, float]:
    """Each limit by the name a user writes, in seconds or as a fraction."""
    return {name: float(getattr(limits, limit.field)) for name, limit in _LIMITS.items()}


def loosened(limits: TrustLimits) -> tuple[str, ...]:
    """The limits that trust more than the defaults do: ``lateness_p99:200ms (default 50ms)``."""
    return tuple(
        f"{name}:{limit.shown(value)} (default {limit.shown(default)})"
        for name, limit in _LIMITS.items()
        if (value := getattr(limits, limit.field)) != (default := getattr(DEFAULT_LIMITS, limit.field))
        and (value < default) == limit.at_least
    )


@dataclass(frozen=True)
class ClientDelay:
    """What the client itself may have added to latencies, by its worst worker: to all but 1 % of them, and to any."""

    sending_s: float = 0.0
    reading_s: float = 0.0
    sending_max_s: float = 0.0
    reading_max_s: float = 0.0

    def in_metric(self, key: MetricKey) -> float:
        """Seconds of it in a statistic of a latency."""
        if key.statistic == "mean":
            # No more than the 99 % have, and of the last 1 % the most there was.
            return self.in_quantile(key.metric.name, _KNOWN) + (1 - _KNOWN) * self.in_quantile(key.metric.name, 1.0)
        return self.in_quantile(key.metric.name, 1.0 if key.statistic == "max" else key.quantile or 0.0)

    def in_quantile(self, name: str, level: float) -> float:
        """Seconds of it in a quantile of a latency; TPOT spreads it over all its tokens, which leaves none to speak of.

        A stall that less than 1 % of the requests met decides the quantiles above p99 by itself: there it is the longest.
        """
        if name == "tpot":
            return 0.0
        sending_s, reading_s = self.sending_s, self.reading_s
        if level > _KNOWN:
            sending_s, reading_s = max(sending_s, self.sending_max_s), max(reading_s, self.reading_max_s)
        return reading_s + (sending_s if name in _FROM_SCHEDULE else 0.0)


def client_delay(health: ClientHealth) -> ClientDelay:
    """The delay of the workers that made requests."""
    workers = [worker for worker in health.workers if worker.requests > 0]
    return ClientDelay(
        max((worker.lateness_p99_s for worker in workers), default=0.0),
        max((worker.loop_lag_p99_s for worker in workers), default=0.0),
        max((worker.lateness_max_s for worker in workers), default=0.0),
        max((worker.loop_lag_max_s for worker in workers), default=0.0),
    )


def distrust(health: ClientHealth, limits: TrustLimits, cores: int | None = None) -> tuple[str, ...]:
    """The reasons not to trust a measurement, each one with what to do; empty when there is none.

    ``cores``: those that the load's workers could use; None: as many as this process may.
    """
    advice = _advice(max(health.started_workers, len(health.workers)), available_cores() if cores is None else cores)
    workers = [worker for worker in health.workers if worker.requests > 0]
    return (
        *(reason for worker in workers for reason in _worker(worker, limits, advice)),
        *_plan(health, limits),
        *_users(health, limits, advice),
        *_missing(health),
    )


def _advice(workers: int, cores: int) -> str:
    """How a client gets more of its machine, or another one."""
    if workers > cores:
        return f"use fewer workers (--llmperf-workers={cores}): {workers} are too many for the cores there are"
    if workers == cores:
        return "keep other work off its cores (each has a worker), or load from inside the cluster"
    return "use more workers (--llmperf-workers), idle cores, or load from inside the cluster"


def _worker(worker: WorkerHealth, limits: TrustLimits, advice: str) -> Iterator[str]:
    # "Not within" instead of "beyond": a health that is nan proves nothing, so it does not pass.
    if not worker.lateness_p99_s <= limits.lateness_p99_s:
        yield (
            f"worker {worker.worker} sent its requests late: p99 {format_duration(worker.lateness_p99_s)} "
            f"(limit {format_duration(limits.lateness_p99_s)}, worst {format_duration(worker.lateness_max_s)}); {advice}"
        )
    if not worker.loop_lag_p99_s <= limits.loop_lag_p99_s:
        yield (
            f"worker {worker.worker} read its answers late: p99 {format_duration(worker.loop_lag_p99_s)} "
            f"(limit {format_duration(limits.loop_lag_p99_s)}, worst {format_duration(worker.loop_lag_max_s)}); {advice}"
        )
    if not worker.cpu_share <= limits.cpu_share:
        yield (
            f"worker {worker.worker} used {format_fraction(worker.cpu_share)} of a CPU core "
            f"(limit {format_fraction(limits.cpu_share)}); {advice}"
        )


def _plan(health: ClientHealth, limits: TrustLimits) -> Iterator[str]:
    planned, sent = health.planned_requests - health.unreachable_requests, health.sent_requests
    if planned > 0 and sent < limits.sent_share * planned:
        yield (
            f"the client sent {sent:,} of {planned:,} planned requests ({format_fraction(sent / planned)}, at least "
            f"{format_fraction(limits.sent_share)} is needed); look at 'error' in run.requests, or lower the rate"
        )


def _users(health: ClientHealth, limits: TrustLimits, advice: str) -> Iterator[str]:
    busy = health.achieved.busy_share
    if busy is not None and not busy >= limits.busy_share:
        yield (
            f"{_latest(health)}: users busy {format_fraction(busy)} of the time "
            f"(limit {format_fraction(limits.busy_share)}); {advice}"
        )


def _missing(health: ClientHealth) -> Iterator[str]:
    planned = health.planned_requests - health.unreachable_requests
    if health.lost_workers:
        yield f"{health.lost_workers} load workers died and took what they had measured with them; the run's notes say how"
    if planned > 0 and not health.workers:
        yield f"no worker reported on the {planned:,} planned requests; look for workers that died in the log"


def _latest(health: ClientHealth) -> str:
    """The worker that is late most often, and how late."""
    worst = max(health.workers, key=lambda worker: worker.lateness_p50_s, default=None)
    return f"worker {worst.worker} sent late (p50 {format_duration(worst.lateness_p50_s)})" if worst is not None else "no worker"
