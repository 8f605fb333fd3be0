"""The run over time, in the form of an llm-d benchmark report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument

Values = Sequence[float | None]


def series_of(started_at: str, at_s: Sequence[float], values: Mapping[str, Values], unit: str) -> dict[str, Any] | None:
    """Points at ``at_s`` seconds since the run's start, each with those of ``values`` that are known there; None without any.

    ``values`` by the name of a point's field: ``value``, ``p99``.
    """
    started = datetime.fromisoformat(started_at)
    points = []
    for index, at in enumerate(at_s):
        known = {name: column[index] for name, column in values.items() if column[index] is not None}
        if known:
            points.append({"ts": (started + timedelta(seconds=at)).isoformat(timespec="milliseconds"), **known})
    return {"units": unit, "series": points} if points else None


def request_series(run: RunDocument) -> dict[str, Any] | None:
    """Throughput and latencies, bin by bin; None where the run has no series."""
    series = run.series
    if series is None:
        return None
    at_s = [series.start_s + index * series.step_s for index in range(len(series.sent_per_s))]

    def over_time(unit: str, **values: Values) -> dict[str, Any] | None:
        return series_of(run.timing.started_at, at_s, values, unit)

    latency = {
        "time_to_first_token": over_time("s", p50=series.ttft_p50_s, p99=series.ttft_p99_s),
        "time_per_output_token": over_time("s/token", p50=series.tpot_p50_s, p99=series.tpot_p99_s),
        "request_latency": over_time("s", p50=series.e2e_p50_s, p99=series.e2e_p99_s),
    }
    throughput = {
        "output_token_rate": over_time("tokens/s", value=series.output_tokens_per_s),
        "request_rate": over_time("queries/s", value=series.ok_per_s),
    }
    found = {
        "latency": {name: points for name, points in latency.items() if points is not None},
        "throughput": {name: points for name, points in throughput.items() if points is not None},
    }
    return {name: part for name, part in found.items() if part} or None
