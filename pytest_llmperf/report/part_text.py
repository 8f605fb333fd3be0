"""The numbers of a document's parts as people read them: a document has null where a value is unknown, or is infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_llmperf.errors import UnitError
from pytest_llmperf.judge.text import shown, shown_interval
from pytest_llmperf.metrics import Metric, Unit, metric_key
from pytest_llmperf.report.rows import hardware_id
from pytest_llmperf.report.tables import margin_text
from pytest_llmperf.units import format_duration, format_fraction, format_usd

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import CheckPart, CostPart, MetricPart, RunDocument, ServerTimesPart

_FEWEST_FOR_P99 = 100
"""Of fewer values the 99th percentile is the largest, of which a histogram knows next to nothing."""
_NARROW = 0.1
"""Of the value so much may a bucket be wide for the value within it to be shown: the rest is interpolation."""
_OF_A_NEWER_VERSION = Metric("", "", Unit.COUNT, higher_is_better=False, is_distribution=False, definition="", source="")
"""Stands for a metric that the registry does not have: its values are shown as the numbers that they are."""


def metric_of(name: str) -> Metric:
    """The metric of a document's key (``ttft_p99``), also where a newer version wrote it: its values are then bare numbers."""
    try:
        return metric_key(name).metric
    except UnitError:
        return _OF_A_NEWER_VERSION


def metric_text(run: RunDocument, key: str) -> str:
    """``412ms``; ``inf`` where so many requests failed, ``-`` where it is unknown or the document has no such metric."""
    part = run.metrics.get(key)
    return value_text(key, part) if part is not None else "-"


def value_text(name: str, part: MetricPart) -> str:
    """The same of the part that the document has under ``name``."""
    return number_text(name, part.value, "value" in part.unbounded)


def measured_text(check: CheckPart) -> str:
    """The measured value of a limit."""
    return number_text(check.metric, check.measured, "value" in check.unbounded)


def number_text(name: str, value: float | None, is_unbounded: bool) -> str:
    """The same of any number in the unit of the metric ``name`` (``ttft_p99``); null is infinite where it ``is_unbounded``."""
    return shown(metric_of(name), _number(value, is_unbounded))


def interval_text(check: CheckPart) -> str:
    """``438ms..1.25s``; ``-`` where no interval is known."""
    return interval_of(check.metric, check)


def interval_of(name: str, part: MetricPart | CheckPart) -> str:
    """The same of a metric, or a limit, of that name."""
    low, high = _number(part.low, "low" in part.unbounded), _number(part.high, "high" in part.unbounded)
    return shown_interval(metric_of(name), low, high)


def margin_of(check: CheckPart) -> float:
    """Measured / limit: infinite beyond a limit of 0, and where so many requests failed; nan where nothing was measured."""
    if check.margin is not None:
        return check.margin
    return math.nan if math.isnan(_number(check.measured, "value" in check.unbounded)) else math.inf


def far_text(check: CheckPart) -> str:
    """``1.8x over``, ``17% short``; ``46% of limit`` where it is kept."""
    return margin_text(margin_of(check), at_most=check.comparator == "<=")


def share_text(check: CheckPart) -> str:
    """Measured / limit: ``63%``, ``12x``; ``-`` where it is not known."""
    margin = margin_of(check)
    if not math.isfinite(margin):
        return "-" if math.isnan(margin) else "inf"
    return format_fraction(margin) if margin < 10 else f"{margin:,.0f}x"


def server_time_text(times: ServerTimesPart) -> str:
    """``mean 12ms, p99 75ms..100ms``: the bucket that p99 lies in, and its value where the bucket is narrow.

    The mean alone where the bucket is not known, and of fewer requests than have a 99th percentile.
    """
    p99 = _server_p99(times) if times.count >= _FEWEST_FOR_P99 else ""
    return f"mean {format_duration(times.mean_s)}" + (f", p99 {p99}" if p99 else "")


def _server_p99(times: ServerTimesPart) -> str:
    if times.p99_s is None or times.resolution_s is None:
        return ""
    if times.resolution_s <= _NARROW * times.p99_s:
        return format_duration(times.p99_s)
    if times.p99_bucket_s is None:
        return ""
    low, high = times.p99_bucket_s
    return f"{format_duration(low)}..{format_duration(high)}" if low > 0 else f"<= {format_duration(high)}"


def price_text(run: RunDocument) -> str:
    """``h100x4 $8.40/h ($2.10 a GPU; a price list, 2025-06-01)``; nothing where no price is known."""
    if (cost := run.cost) is None:
        return ""
    each = f"{format_usd(cost.price_per_gpu_hour)} a GPU; " if cost.price_per_gpu_hour != cost.price_per_hour else ""
    return f"{hardware_id(run)} {format_usd(cost.price_per_hour)}/h ({each}{cost.source}, {cost.date})"


def price_texts(runs: Iterable[RunDocument]) -> list[str]:
    """The prices that were taken, each once."""
    return list(dict.fromkeys(text for run in runs if (text := price_text(run))))


def cost_texts(cost: CostPart) -> dict[str, str]:
    """What a million tokens cost, by which of them (``input``, ``output``, ``total``); ``-`` where that is not known."""
    per_million = {
        "input": cost.per_million_input_tokens,
        "output": cost.per_million_output_tokens,
        "total": cost.per_million_total_tokens,
    }
    return {name: "-" if value is None else format_usd(value) for name, value in per_million.items()}


def _number(value: float | None, is_unbounded: bool) -> float:
    return value if value is not None else math.inf if is_unbounded else math.nan
