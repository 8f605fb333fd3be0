"""A run over time -> the document's part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llmperf.measure.series import series
from pytest_llmperf.report.results_v2 import SeriesPart

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, RequestLog
    from pytest_llmperf.measure.series import Series

_DECIMALS = 6
"""Of seconds: microseconds. Beyond them there is only noise, which would be half of the document."""


def series_part(log: RequestLog) -> SeriesPart | None:
    """The log over time, per second of each bin; None of a run without requests."""
    found = series(log)
    if found is None:
        return None
    latencies = {
        f"{name}_{statistic}_s": _known(values)
        for name, quantiles in found.quantiles.items()
        for statistic, values in zip(("p50", "p99"), quantiles, strict=True)
    }
    return SeriesPart(
        start_s=found.start_s,
        step_s=found.step_s,
        last_step_s=round(found.last_step_s, _DECIMALS),
        sent_per_s=_per_s(found.sent, found),
        ok_per_s=_per_s(found.ok, found),
        failed_per_s=_per_s(found.failed, found),
        output_tokens_per_s=_per_s(found.output_tokens, found),
        in_flight=_per_s(found.in_flight_s, found),
        **latencies,
    )


def _per_s(amounts: Floats, over: Series) -> tuple[float, ...]:
    lengths_s = [over.step_s] * (len(amounts) - 1) + [over.last_step_s]
    # Never below 0: what is left of a difference of sums is noise.
    return tuple(round(max(amount / each_s, 0.0), _DECIMALS) for amount, each_s in zip(amounts.tolist(), lengths_s, strict=True))


def _known(values: Floats) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else round(value, _DECIMALS) for value in values.tolist())
