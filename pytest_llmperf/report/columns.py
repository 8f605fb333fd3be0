"""The numbers of a summary: one column a metric, with the quantiles of a latency side by side in one (``23/41/66``)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import Metric, MetricKey, Unit, format_value
from pytest_llmperf.units import format_number

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument

_SHORT = {"output_tokens_per_s": "tok/s", "total_tokens_per_s": "all tok/s", "error_rate": "err%", "goodput": "goodput %"}


@dataclass(frozen=True)
class Column:
    """A column's two lines of heading, and its text for each document."""

    heading: tuple[str, str]
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Characters that the widest line takes."""
        return max(len(text) for text in (*self.heading, *self.cells))


def summary_columns(documents: Sequence[RunDocument], keys: Sequence[MetricKey]) -> tuple[Column, ...]:
    """The number of requests, and then the keys; neighbouring statistics of one latency share a column."""
    requests = Column(("", "reqs"), tuple(str(document.counts.ok + document.counts.failed) for document in documents))
    grouped = [(metric, tuple(group)) for metric, group in groupby(keys, key=lambda key: key.metric)]
    return (requests, *(_column(documents, metric, group) for metric, group in grouped))


def value_of(document: RunDocument, key: MetricKey) -> float:
    """A metric's value in its base unit: +inf where so many requests failed, nan where the document has none."""
    part = document.metrics.get(key.name)
    if part is None:
        return math.nan
    if part.value is not None:
        return part.value
    return math.inf if "value" in part.unbounded else math.nan


def _column(documents: Sequence[RunDocument], metric: Metric, keys: tuple[MetricKey, ...]) -> Column:
    values = [[value_of(document, key) for key in keys] for document in documents]
    if not metric.is_distribution:
        return Column(("", _SHORT.get(metric.name, metric.title)), tuple(_scalar(metric, row[0]) for row in values))
    # One unit for the whole column, so that the eye can compare rows.
    in_seconds = any(math.isfinite(value) and value >= 1 for row in values for value in row)
    scale, unit = (1.0, "s") if in_seconds else (1e3, "ms")
    digits = 3 if len(keys) == 1 else 2
    return Column(
        (f"{metric.title} {unit}", _statistics([key.statistic or "" for key in keys])),
        tuple(_together([_short(value * scale, digits) for value in row]) for row in values),
    )


def _statistics(names: Sequence[str]) -> str:
    """p50, p95, p99 -> ``p50/95/99``."""
    if all(name.startswith("p") for name in names):
        return "p" + "/".join(name[1:] for name in names)
    return "/".join(names)


def _together(texts: Sequence[str]) -> str:
    """Side by side; ``.19/.29/1.3``, since three leading zeros a column would not leave 80 columns enough for names."""
    if len(texts) == 1 or set(texts) == {"-"}:
        return texts[0]
    return "/".join(re.sub(r"^0(?=\.)", "", text) for text in texts)


def _scalar(metric: Metric, value: float) -> str:
    if math.isinf(value):
        return "inf"
    if metric.unit is Unit.FRACTION:
        return _short(value * 100, 2)
    # Fractions and per-second metrics carry the unit in their heading.
    return format_number(value) if metric.unit is Unit.PER_SECOND else format_value(metric, value)


def _short(value: float, digits: int) -> str:
    """At least ``digits`` significant digits, never fewer than the whole part, no more than three decimals."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(rounded)) if rounded > 0 else 0
    return f"{value:,.{min(3, max(0, decimals))}f}"
