"""The server's side of a run, in the form of an llm-d benchmark report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llmperf.report.exports.llm_d_series import series_of

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument, ServerPart

_SERIES = {
    "kv_cache_usage": ("kv_cache_usage", "percent", 100.0),
    "num_requests_running": ("running", "count", 1.0),
    "num_requests_waiting": ("waiting", "count", 1.0),
    "prefix_cache_hit_rate": ("prefix_cache_hit_rate", "percent", 100.0),
    "gpu_utilization": ("gpu_utilisation", "percent", 100.0),
    "gpu_memory_usage": ("gpu_memory_bytes", "bytes", 1.0),
    "cpu_memory_usage": ("memory_bytes", "bytes", 1.0),
    "power_consumption": ("gpu_power_w", "Watts", 1.0),
}
"""Their field: the name in ``ServerSeriesPart.values``, the unit, and what a value is multiplied by."""


def observability(run: RunDocument, component: str) -> dict[str, Any] | None:
    """What the server said of itself; None where it said nothing."""
    if run.server is None:
        return None
    seen: dict[str, Any] = {"component_label": component}
    if aggregate := _aggregate(run.server):
        seen["aggregate"] = aggregate
    if series := _time_series(run, run.server):
        seen["time_series"] = series
    return {"components": [seen]} if len(seen) > 1 else None


def _aggregate(server: ServerPart) -> dict[str, Any]:
    found = {
        "kv_cache_usage": _statistics("percent", 100.0, server.kv_cache_usage_mean, server.kv_cache_usage_max),
        "cache_hit_rate": _statistics("percent", 100.0, server.prefix_cache_hit_rate),
        "gpu_utilization": _statistics("percent", 100.0, server.gpu_utilisation_mean),
        "power_consumption": _statistics("Watts", 1.0, server.gpu_power_w),
        "running_requests": _statistics("count", 1.0, server.running_mean, server.running_max),
        "waiting_requests": _statistics("count", 1.0, server.waiting_mean, server.waiting_max),
        "preemptions": _statistics("count", 1.0, server.preemptions),
    }
    return {name: statistics for name, statistics in found.items() if statistics is not None}


def _statistics(unit: str, scale: float, mean: float | None, most: float | None = None) -> dict[str, Any] | None:
    if mean is None:
        return None
    return {"units": unit, "mean": scale * mean, **({"max": scale * most} if most is not None else {})}


def _time_series(run: RunDocument, server: ServerPart) -> dict[str, Any]:
    series = server.series
    if series is None:
        return {}
    found = {}
    for field, (name, unit, scale) in _SERIES.items():
        values = [scale * value if value is not None else None for value in series.values.get(name, ())]
        if values and (points := series_of(run.timing.started_at, series.at_s, {"value": values}, unit)) is not None:
            found[field] = points
    return found
