"""SLAs: thresholds on a run's metrics. Parsing checks every key against the registry of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.errors import UnitError
from pytest_llmperf.metrics import MetricKey, format_value, metric_key, parse_value

Comparator = Literal["<=", ">="]


@dataclass(frozen=True)
class Threshold:
    """One line of an SLA: a metric's statistic and the ``limit`` (in the metric's base unit) it must keep."""

    key: MetricKey
    comparator: Comparator
    limit: float

    def met_by(self, value: float) -> bool:
        """Whether ``value`` (base unit) keeps the limit; NaN never does."""
        return value <= self.limit if self.comparator == "<=" else value >= self.limit

    @property
    def required(self) -> str:
        """``<= 500ms``: what a table shows."""
        return f"{self.comparator} {format_value(self.key.metric, self.limit)}"


@dataclass(frozen=True, repr=False)
class Sla:
    """A named set of thresholds; all must hold."""

    name: str
    thresholds: tuple[Threshold, ...]

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        # Short: pytest shows it above a failing test, where the table says the rest.
        return f"Sla({self.name}: {', '.join(f'{t.key.title} {t.required}' for t in self.thresholds)})"


class SlaKeyError(UnitError):
    """A bad entry of an SLA: ``path`` leads to it (``("ttft", "p99")``), so that the loader can name the line."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        self.path = path
        super().__init__(message)


def parse_sla(name: str, document: Mapping[str, object]) -> Sla:
    """``{"ttft": {"p99": "1s"}, "error_rate": "0.1%"}`` -> an Sla. Raises ``SlaKeyError``."""
    if not isinstance(document, Mapping):
        raise SlaKeyError((), f"an SLA is a mapping of metrics to limits, not {document!r}")
    thresholds: dict[MetricKey, Threshold] = {}
    for path, limit in _limits(document):
        threshold = _threshold(path, limit)
        if threshold.key in thresholds:
            raise SlaKeyError(path, f"{threshold.key.title} has a limit already")
        thresholds[threshold.key] = threshold
    if not thresholds:
        raise SlaKeyError((), "an SLA needs at least one limit")
    return Sla(name, tuple(thresholds.values()))


def _limits(document: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], object]]:
    for metric_name, spec in document.items():
        if isinstance(spec, Mapping):
            yield from (((str(metric_name), str(statistic)), limit) for statistic, limit in spec.items())
        else:
            yield (str(metric_name),), spec


def _threshold(path: tuple[str, ...], limit: object) -> Threshold:
    try:
        key = metric_key(*path)
        natural: Comparator = ">=" if key.metric.higher_is_better else "<="
        match = re.fullmatch(r"\s*(<=|>=)?\s*(.+?)\s*", str(limit))
        text = match[2] if match else str(limit)
        if match and match[1] and match[1] != natural:
            raise UnitError(f"{key.title} is better when {'higher' if natural == '>=' else 'lower'}: write '{natural} {text}'")
        return Threshold(key, natural, parse_value(key.metric, text))
    except SlaKeyError:
        raise
    except UnitError as error:
        raise SlaKeyError(path, str(error)) from None
