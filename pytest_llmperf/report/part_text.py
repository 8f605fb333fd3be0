"""The numbers of a document's parts as people read them: a document has null where a value is unknown, or is infinite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llmperf.errors import UnitError
from pytest_llmperf.judge.text import shown, shown_interval
from pytest_llmperf.metrics import Metric, Unit, metric_key
from pytest_llmperf.report.tables import margin_text
from pytest_llmperf.units import format_duration, format_fraction

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import CheckPart, MetricPart, RunDocument, ServerTimesPart

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
    """``mean 12ms, p99 80ms``; the mean alone where the server's buckets are too wide to tell a p99."""
    # In a bucket that is nearly as wide as the value, the value is where the bucket lies and no more.
    known = times.p99_s is not None and (times.resolution_s is None or times.resolution_s <= times.p99_s / 2)
    worst = f", p99 {format_duration(times.p99_s)}" if times.p99_s is not None and known else ""
    return f"mean {format_duration(times.mean_s)}{worst}"


def _number(value: float | None, is_unbounded: bool) -> float:
    return value if value is not None else math.inf if is_unbounded else math.nan
