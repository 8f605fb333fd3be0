"""Loads that begin with an empty server and are watched while they run: how soon an overload is told, how often a calm one is
called unstable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from pytest_llmperf.judge.sequential import rule
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.measure.observations import Observations
from pytest_llmperf.measure.steady import overload_since
from tests.montecarlo.crowd import Crowd
from tests.montecarlo.systems import System, Trace, simulate_from_start

WARMUP_S = 2.0
"""As in the shipped workloads."""
MAY_EXCEED = 0.01
"""The limit is on the p99 of TTFT."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class Watched:
    """What watching so many loads came to. Seconds count from a load's beginning, its warm-up included; nan for never."""

    system: System
    loads: int
    duration_s: float
    failed: int
    """By the exceedances of the limit, whichever rule."""
    median_failed_s: float
    unstable: int
    """By the growing backlog."""
    median_unstable_s: float


def watch(systems: Sequence[System], limit_s: float, loads: int, duration_s: float, *, processes: int = 1) -> list[Watched]:
    """Watch so many loads of each system, looking every second, against ``limit_s`` for the p99 of TTFT."""
    with Crowd(processes) as crowd:
        return [_watched(crowd, system, limit_s, loads, duration_s) for system in systems]


def _watched(crowd: Crowd, system: System, limit_s: float, loads: int, duration_s: float) -> Watched:
    seen = crowd.run(_watch_one, [(system, limit_s, duration_s, seed) for seed in range(loads)])
    failed = [failed_s for failed_s, _ in seen if failed_s is not None]
    unstable = [unstable_s for _, unstable_s in seen if unstable_s is not None]
    return Watched(system, loads, duration_s, len(failed), _median(failed), len(unstable), _median(unstable))


def _median(seconds: Sequence[float]) -> float:
    return median(seconds) if seconds else math.nan


def _watch_one(system: System, limit_s: float, duration_s: float, seed: int) -> tuple[float | None, float | None]:
    """When the rule failed the load, and when its backlog was called growing."""
    trace = simulate_from_start(system, duration_s, seed)
    return _failed_s(trace, limit_s, duration_s), overload_since(seen_at(trace, float(trace.known_s[-1])))


def _failed_s(trace: Trace, limit_s: float, duration_s: float) -> float | None:
    for look_s in np.arange(WARMUP_S + _LOOK_S, duration_s + _LOOK_S, _LOOK_S).tolist():
        ruling = rule(*seen_at(trace, look_s).exceedances("ttft", limit_s), MAY_EXCEED)
        if ruling.outcome is not None:
            return look_s if ruling.outcome is Outcome.FAIL else None
    return None


def seen_at(trace: Trace, at_s: float) -> Observations:
    """What is known of a load at that time: requests that have arrived, latencies that have been."""
    n = int(np.searchsorted(trace.arrived_s, at_s, side="right"))
    arrived_s = trace.arrived_s[:n]
    ttft, e2e = trace.latencies["ttft"][:n], trace.latencies["e2e"][:n]
    ended = arrived_s + e2e <= at_s
    return Observations(
        now_s=at_s,
        scheduled_s=arrived_s,
        counted=arrived_s >= WARMUP_S,
        ended=ended,
        failed=np.zeros(n, np.bool_),
        in_flight=trace.in_flight[:n],
        latencies={
            "ttft": np.where(arrived_s + ttft <= at_s, ttft, np.nan),
            "tpot": np.where(ended, trace.latencies["tpot"][:n], np.nan),
            "e2e": np.where(ended, e2e, np.nan),
        },
    )
