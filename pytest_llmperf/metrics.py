"""The one registry of metrics: name, unit, direction, definition and its source.

SLA syntax, verdicts, tables, JSON and exports all read from here; nothing else knows a metric's unit or which way is better.
A *distribution* has one value a request (or a gap) and is asked for by statistic (``ttft_p99``); a *scalar* has one value a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pytest_llmperf import units
from pytest_llmperf.errors import UnitError, nearest


class Unit(StrEnum):
    """The base unit in which a metric is stored."""

    SECONDS = "s"
    FRACTION = "fraction"
    PER_SECOND = "1/s"
    PER_HOUR = "1/h"
    COUNT = "count"
    USD = "USD"
    PER_USD = "1/USD"
    JOULES = "J"


@dataclass(frozen=True)
class Metric:
    """One line of the registry. ``higher_is_better`` is the direction; ``source`` says who else defines it so.

    ``per_request`` marks the distributions that have exactly one value a request, which a request keeps or breaks.
    """

    name: str
    title: str
    unit: Unit
    higher_is_better: bool
    is_distribution: bool
    definition: str
    source: str
    per_request: bool = False


def _latency(name: str, title: str, definition: str, source: str, *, per_request: bool = True) -> Metric:
    return Metric(name, title, Unit.SECONDS, False, True, definition, source, per_request)


def _scalar(name: str, title: str, unit: Unit, higher: bool, definition: str, source: str) -> Metric:
    return Metric(name, title, unit, higher, False, definition, source)


_ALL = (
    _latency(
        "ttft",
        "TTFT",
        "arrival of the first token - scheduled start; includes waiting in the client, connecting and queueing",
        "MLPerf Inference LoadGen (latency from the scheduled arrival)",
    ),
    _latency(
        "tpot",
        "TPOT",
        "(arrival of the last token - arrival of the first) / (output tokens - 1), for two tokens or more, unless all of them "
        "arrived at one instant",
        "vLLM bench serve; MLPerf Inference",
    ),
    _latency(
        "itl",
        "ITL",
        "gap between consecutive token-bearing chunks of a response, divided by the tokens of the later chunk; none "
        "where all of them arrived at one instant",
        "vLLM bench serve (chunk gaps), with the chunk's tokens counted",
        per_request=False,
    ),
    _latency(
        "e2e",
        "E2E",
        "arrival of the last token or text (or of the whole body, when not streaming) - scheduled start",
        "MLPerf Inference LoadGen",
    ),
    _latency("service_ttft", "TTFT (sent)", "arrival of the first token - request sent", "vLLM bench serve"),
    _latency("service_e2e", "E2E (sent)", "arrival of the last token - request sent", "vLLM bench serve"),
    _scalar(
        "error_rate",
        "error rate",
        Unit.FRACTION,
        False,
        "requests that did not end well / all requests that ended within the run; cancelled ones at its end are not counted",
        "guidellm; inference-perf",
    ),
    _scalar(
        "request_rate",
        "requests/s",
        Unit.PER_SECOND,
        True,
        "requests that ended well within the measured window / its length",
        "vLLM bench serve (request throughput)",
    ),
    _scalar(
        "output_tokens_per_s",
        "output tokens/s",
        Unit.PER_SECOND,
        True,
        "output tokens that arrived within the measured window / its length",
        "vLLM bench serve (output throughput), credited on arrival",
    ),
    _scalar(
        "total_tokens_per_s",
        "total tokens/s",
        Unit.PER_SECOND,
        True,
        "output tokens that arrived, and prompt tokens whose first token arrived, within the window / its length",
        "vLLM bench serve (total token throughput)",
    ),
    _scalar(
        "goodput",
        "goodput",
        Unit.FRACTION,
        True,
        "requests that ended well and met every per-request limit / all requests that ended",
        "DistServe (OSDI 2024): SLO attainment",
    ),
    _scalar(
        "cost_per_mtok",
        "$/1M output tokens",
        Unit.USD,
        False,
        "price of the cell's accelerators per hour / (output tokens/s x 3600) x 1,000,000",
        "arithmetic on a price of the price book",
    ),
    _scalar(
        "cost_per_mtok_input",
        "$/1M input tokens",
        Unit.USD,
        False,
        "price of the cell's accelerators per hour / (prompt tokens/s x 3600) x 1,000,000: all of the cost, as if the output "
        "were free; prompt tokens count when their first output token arrives",
        "arithmetic on a price of the price book",
    ),
    _scalar(
        "cost_per_mtok_total",
        "$/1M tokens",
        Unit.USD,
        False,
        "price of the cell's accelerators per hour / (total tokens/s x 3600) x 1,000,000",
        "SemiAnalysis InferenceMAX (cost per million total tokens)",
    ),
    _scalar(
        "tokens_per_dollar",
        "output tokens/$",
        Unit.PER_USD,
        True,
        "output tokens/s x 3600 / price of the cell's accelerators per hour",
        "arithmetic on a price of the price book",
    ),
    _scalar(
        "requests_per_gpu_hour",
        "requests/GPU-hour",
        Unit.PER_HOUR,
        True,
        "requests that ended well within the measured window / its length in hours / accelerators of the cell (an accelerator's "
        "slice counts as one)",
        "arithmetic",
    ),
    _scalar(
        "joules_per_token",
        "J/output token",
        Unit.JOULES,
        False,
        "mean power of the cell's accelerators (not of their machine) over the measured window / output tokens/s",
        "ML.ENERGY Benchmark (energy per token)",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

ROUNDING = 1e-9
"""Relative: what differs by no more is equal. A latency is a difference of instants: 1.1 s - 1.0 s is a little more than 100 ms
in binary, and keeps a limit of 100 ms; 7 of 1,000 requests keep one of ``0.7%``."""

_STATISTIC = re.compile(r"p(\d{1,2}(?:\.\d+)?)|mean|max|min")


@dataclass(frozen=True)
class MetricKey:
    """What a threshold or a column speaks of: a metric and, for a distribution, the statistic (``p99``, ``mean``)."""

    metric: Metric
    statistic: str | None = None

    @property
    def name(self) -> str:
        """``ttft_p99`` or ``error_rate``: the key in JSON, on the command line and in tables."""
        return f"{self.metric.name}_{self.statistic}" if self.statistic else self.metric.name

    @property
    def title(self) -> str:
        """``TTFT p99``: what a person reads."""
        return f"{self.metric.title} {self.statistic}" if self.statistic else self.metric.title

    @property
    def quantile(self) -> float | None:
        """0.99 for ``p99``; None for means, extremes and scalars."""
        if self.statistic is None or not self.statistic.startswith("p"):
            return None
        return float(self.statistic[1:]) / 100


def metric_key(name: str, statistic: str | None = None) -> MetricKey:
    """Look a metric up: ``metric_key("ttft", "p99")`` or ``metric_key("ttft_p99")``.

    Raises ``UnitError`` (a ``ValueError``) naming the nearest valid key; whoever knows the place adds it.
    """
    if statistic is None and name not in METRICS:
        prefix, _, suffix = name.rpartition("_")
        if prefix in METRICS or (prefix and _STATISTIC.fullmatch(suffix)):
            name, statistic = prefix, suffix
    if name not in METRICS:
        close = nearest(name, METRICS)
        meant = f"; did you mean {close!r}?" if close else ""
        raise UnitError(f"unknown metric {name!r}{meant} (known: {', '.join(METRICS)})")
    metric = METRICS[name]
    if metric.is_distribution and (statistic is None or _STATISTIC.fullmatch(statistic) is None):
        raise UnitError(f"{name} needs a statistic such as p50, p95, p99, mean or max, not {statistic!r}")
    if not metric.is_distribution and statistic is not None:
        raise UnitError(f"{name} has one value a run, so no statistic {statistic!r}")
    return MetricKey(metric, _plain(statistic) if statistic is not None else None)


def _plain(statistic: str) -> str:
    """The one way to write a statistic: ``p50`` for ``p50.0``, which would be another key."""
    whole, point, fraction = statistic.partition(".")
    fraction = fraction.rstrip("0")
    if whole[0] == "p":
        whole = f"p{int(whole[1:])}"
    return f"{whole}{point}{fraction}" if fraction else whole


def with_rounding(limit: float) -> float:
    """The greatest value that is still equal to ``limit``."""
    return limit * (1 + ROUNDING)


def is_statistic(text: str) -> bool:
    """Whether a distribution has such a statistic: ``p99``, ``mean``."""
    return _STATISTIC.fullmatch(text) is not None


_READ: Mapping[Unit, tuple[str, Callable[[object], float]]] = {
    Unit.SECONDS: ("", units.parse_duration),
    Unit.FRACTION: ("", units.parse_fraction),
    Unit.PER_SECOND: ("/", units.parse_rate),
    Unit.PER_HOUR: ("/", units.parse_per_hour),
    Unit.COUNT: ("", units.parse_count),
    Unit.USD: ("$", units.parse_usd),
    Unit.PER_USD: ("/", units.parse_per_usd),
    Unit.JOULES: ("J", units.parse_energy),
}
"""What a text of the unit has in it, and how it is then read; without that it is a bare number, which cannot mislead there."""
_SHOWN: Mapping[Unit, Callable[[float], str]] = {
    Unit.SECONDS: units.format_duration,
    Unit.FRACTION: units.format_fraction,
    Unit.PER_SECOND: units.format_rate,
    Unit.PER_HOUR: units.format_per_hour,
    Unit.COUNT: units.format_number,
    Unit.USD: units.format_usd,
    Unit.PER_USD: units.format_per_usd,
    Unit.JOULES: units.format_energy,
}


def parse_value(metric: Metric, text: object) -> float:
    """Read a value in the metric's unit (``500ms``, ``0.1%``, ``1000``) into its base unit. Raises ``UnitError``."""
    symbol, read = _READ[metric.unit]
    return read(text) if symbol in str(text) else units.parse_count(text)


def format_value(metric: Metric, value: float) -> str:
    """A value in base units as people read it."""
    return _SHOWN[metric.unit](value)
