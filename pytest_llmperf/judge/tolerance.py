"""How much worse than its baseline a metric may be: ``ttft_p99:10%``, ``ttft_p99:50ms``, ``error_rate:0.5%``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_llmperf.errors import ConfigError, UnitError, Where
from pytest_llmperf.metrics import MetricKey, Unit, format_value, metric_key, parse_value
from pytest_llmperf.units import format_fraction

_FORM = "Write METRIC:TOLERANCE, such as 'ttft_p99:10%', 'ttft_p99:50ms' or 'error_rate:0.5%'."
_PERCENT = re.compile(r"\s*\+?(\d+(?:\.\d*)?|\.\d+)\s*%\s*")


@dataclass(frozen=True)
class Tolerance:
    """What a metric may be worse by: a fraction of the baseline's value, or an amount in base units. Exactly one is set.

    A metric that is a fraction itself (error rate, goodput) has an absolute tolerance only: ``0.5%`` are 0.5 percentage points,
    since half a percent of an error rate of 0.1 % would be nothing, and of no errors at all there is no percentage.
    """

    key: MetricKey
    relative: float | None = None
    absolute: float | None = None

    def __post_init__(self) -> None:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError(f"a tolerance of {self.key.name} is either relative or absolute")

    def __str__(self) -> str:
        if self.relative is not None:
            return format_fraction(self.relative)
        amount = self.absolute or 0.0
        if self.key.metric.unit is Unit.FRACTION:
            return f"{format_fraction(amount).removesuffix('%')}pp"
        return format_value(self.key.metric, amount)


def parse_tolerance(text: str, where: Where) -> Tolerance:
    """``"ttft_p99:10%"`` -> a tolerance. Raises ``ConfigError`` that names the form or the nearest metric."""
    name, colon, amount = text.partition(":")
    if not colon or not name.strip() or not amount.strip():
        raise ConfigError(f"{text!r} is no tolerance", where=where, hint=_FORM)
    return _tolerance(name.strip(), amount.strip(), where)


def parse_tolerances(texts: Iterable[str], where: Where) -> dict[str, Tolerance]:
    """Several of them, by the name of their key, in order. Raises ``ConfigError``, also for a key that is given twice."""
    found: dict[str, Tolerance] = {}
    for text in texts:
        tolerance = parse_tolerance(text, where)
        if (known := found.get(tolerance.key.name)) is not None:
            raise ConfigError(f"{tolerance.key.name} has two tolerances, {known} and {tolerance}", where=where)
        found[tolerance.key.name] = tolerance
    return found


def tolerance_mapping(mapping: Mapping[str, object], where: Where) -> dict[str, Tolerance]:
    """A marker's ``tolerance={"ttft_p99": "10%"}``, by the name of the key. Raises ``ConfigError``."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{mapping!r} is no mapping of metrics to tolerances", where=where, hint='Write {"ttft_p99": "10%"}.')
    for name, amount in mapping.items():
        if not isinstance(amount, str):
            raise ConfigError(
                f"the tolerance of {name!r} is {amount!r}, not text with a unit", where=where, hint='Write {"ttft_p99": "10%"}.'
            )
    return parse_tolerances((f"{name}:{amount}" for name, amount in mapping.items()), where)


def shown_tolerance(key: MetricKey) -> Tolerance:
    """The margin by which a metric is judged that nobody gave one: the default one's, else 5 %, or half a percentage point."""
    if (default := _DEFAULTS.get(key)) is not None:
        return default
    return Tolerance(key, absolute=0.005) if key.metric.unit is Unit.FRACTION else Tolerance(key, relative=0.05)


def _tolerance(name: str, amount: str, where: Where) -> Tolerance:
    try:
        key = metric_key(name)
        percent = _PERCENT.fullmatch(amount)
        if percent is None or key.metric.unit is Unit.FRACTION:
            return Tolerance(key, absolute=parse_value(key.metric, amount))
    except UnitError as error:
        raise ConfigError(f"{name}:{amount}: {error}", where=where, hint=_FORM) from None
    relative = float(percent[1]) / 100
    if key.metric.higher_is_better and relative >= 1:
        raise ConfigError(
            f"{name}:{amount}: {key.title} is better when higher, and {amount} less is nothing at all",
            where=where,
            hint="Write less than 100%.",
        )
    return Tolerance(key, relative=relative)


DEFAULT_TOLERANCES: tuple[Tolerance, ...] = (
    Tolerance(metric_key("tpot_p50"), relative=0.05),
    Tolerance(metric_key("tpot_p95"), relative=0.10),
    Tolerance(metric_key("ttft_p50"), relative=0.10),
    Tolerance(metric_key("output_tokens_per_s"), relative=0.05),
    Tolerance(metric_key("error_rate"), absolute=0.005),
)
"""What is gated when nobody says otherwise: metrics that come out alike in two runs of one server (docs/baselines.md).

TTFT's tail is not among them: above moderate load it multiplies a change and the noise alike, so that two runs of one server
may differ by half.
"""
_DEFAULTS = {tolerance.key: tolerance for tolerance in DEFAULT_TOLERANCES}
