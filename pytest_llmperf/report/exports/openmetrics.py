"""A session as OpenMetrics text: what a push gateway takes, and whatever reads a text file of metrics.

Only gauges without timestamps: a push gateway parses the older text format, which knows no further types, and refuses timestamps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from pytest_llmperf.metrics import METRICS, Metric, Unit

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import MetricPart, RunDocument, SessionDocument

MIME = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_STATISTICS = ("p50", "p90", "p95", "p99", "mean", "max")
_SUFFIXES = {Unit.SECONDS: "seconds", Unit.FRACTION: "ratio", Unit.PER_SECOND: "per_second", Unit.USD: "usd"}
"""How a family's name ends, which is its unit; of any other unit the metric's own name says it."""


@dataclass
class _Family:
    """``llmperf_ttft_seconds`` and its samples by their labels: of two that are alike the later one stands."""

    name: str
    unit: str
    help: str
    samples: dict[str, float] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} gauge"
        if self.unit:
            yield f"# UNIT {self.name} {self.unit}"
        yield f"# HELP {self.name} {_escaped(self.help)}"
        for labels, value in self.samples.items():
            yield f"{self.name}{{{labels}}} {_number(value)}"


def openmetrics(session: SessionDocument) -> str:
    """The text: a family a metric, and of each run its requests by outcome and its verdict (1 for the one it has)."""
    families = [_metric_family(metric) for metric in METRICS.values()]
    requests = _Family("llmperf_requests", "", "requests of the measured window by what became of them")
    verdict = _Family("llmperf_verdict", "", "1 for the verdict that the run has, 0 for the others")
    for run in session.runs:
        labels = _labels(run)
        for metric, family in zip(METRICS.values(), families, strict=True):
            for statistic, value in _values(run.metrics, metric):
                own = {"statistic": statistic} if statistic else {}
                family.samples[_text({**labels, **own})] = value
        for outcome in ("ok", "failed", "cancelled"):
            requests.samples[_text({**labels, "outcome": outcome})] = getattr(run.counts, outcome)
        for name in _verdicts() if run.verdict is not None else ():
            verdict.samples[_text({**labels, "verdict": name})] = 1 if run.verdict == name else 0
    told = [family for family in (*families, requests, verdict) if family.samples]
    return "\n".join([*(line for family in told for line in family.lines()), "# EOF"]) + "\n"


def _verdicts() -> tuple[str, ...]:
    from pytest_llmperf.report.results_v2 import OutcomeName

    return get_args(OutcomeName)


def _metric_family(metric: Metric) -> _Family:
    suffix = _SUFFIXES.get(metric.unit, metric.name)
    name = metric.name.removesuffix("_per_s") if metric.unit is Unit.PER_SECOND else metric.name
    return _Family(f"llmperf_{name}_{suffix}" if suffix != metric.name else f"llmperf_{name}", suffix, metric.definition)


def _values(metrics: Mapping[str, MetricPart], metric: Metric) -> Iterator[tuple[str, float]]:
    """By statistic, empty for a scalar; without those that are unknown."""
    for statistic in _STATISTICS if metric.is_distribution else ("",):
        part = metrics.get(f"{metric.name}_{statistic}" if statistic else metric.name)
        if part is not None and part.value is not None:
            yield statistic, part.value
        elif part is not None and "value" in part.unbounded:
            yield statistic, math.inf


def _labels(run: RunDocument) -> dict[str, str]:
    """What tells a run from others and is the same in every session: no run id, which would make each one a series of its own."""
    return {
        "cell": run.cell.id,
        "platform": run.cell.platform,
        "hardware": run.cell.hardware,
        "accelerators": str(run.cell.count),
        "method": run.cell.method,
        "model": run.cell.model,
        "variant": run.cell.variant,
        "workload": run.workload.name,
        "profile": run.profile,
        "test": run.node_id,
        "run": str(run.ordinal),
        "label": run.label,
        "target": run.deployment.target,
        "simulated": "true" if run.simulated else "false",
    }


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return "+Inf" if math.isinf(value) else repr(float(value))
