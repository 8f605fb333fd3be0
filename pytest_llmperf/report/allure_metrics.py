"""The runs' metrics as Allure's performance metrics, whose history its report draws: samples, and what each means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import METRICS, MetricKey, Unit, metric_key
from pytest_llmperf.report.comparison import test_key

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument

_KEYS: tuple[MetricKey, ...] = (
    *(metric_key(name, statistic) for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p99")),
    *map(metric_key, ("output_tokens_per_s", "request_rate", "error_rate", "goodput", "cost_per_mtok")),
)
_SHOWN: dict[Unit, tuple[str, float]] = {Unit.SECONDS: ("ms", 1000.0), Unit.FRACTION: ("%", 100.0), Unit.USD: ("$", 1.0)}
"""Allure prints numbers as they are: a unit in which they read well, and how many of it the base unit has."""
_DIGITS = 6
_DOT = "\u2024"
"""Allure takes a title apart at each full stop; this looks like one."""


@dataclass(frozen=True)
class Sample:
    """A metric of one run. ``group`` is the cell and the workload, ``key`` names the test and the metric besides.

    The test has its file, its class and its parameters: Allure takes the mean of all that share a key, and only repetitions do.
    """

    id: str
    key: str
    group: str
    group_title: str
    title: str
    unit: str
    better: str
    value: float
    started_ms: int
    ended_ms: int


def samples_of(runs: Iterable[RunDocument]) -> Iterator[Sample]:
    """The samples of every run that shows something and stands alone: neither INVALID nor a part of an experiment."""
    for run in runs:
        if run.verdict != "INVALID" and not run.label:
            yield from _samples(run)


def _samples(run: RunDocument) -> Iterator[Sample]:
    mark = " (SIMULATED)" if run.simulated else ""
    group = f"{run.cell.id}/{run.workload.name}"
    test = test_key(run) + (f"#{run.ordinal}" if run.ordinal > 1 else "")
    began = datetime.fromisoformat(run.timing.started_at).timestamp()
    for key in _KEYS:
        part = run.metrics.get(key.name)
        if part is None or part.value is None:
            continue
        unit, scale = _SHOWN.get(key.metric.unit, (key.metric.unit.value, 1.0))
        yield Sample(
            id=f"{run.run_id}/{key.name}",
            key=f"{group}/{test}/{key.name}",
            group=group,
            group_title=f"{run.workload.title} on {run.cell.id}{mark}".replace(".", _DOT),
            title=f"{key.title} of {test}".replace(".", _DOT),
            unit=unit,
            better="higher" if METRICS[key.metric.name].higher_is_better else "lower",
            value=float(f"{part.value * scale:.{_DIGITS}g}"),
            started_ms=round(1000 * (began + run.counted_from_s)),
            ended_ms=round(1000 * (began + run.timing.window_end_s)),
        )


def perf_results(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """What ``*-perf.json`` holds."""
    return [
        {"id": each.id, "key": each.key, "value": each.value, "start": each.started_ms, "stop": each.ended_ms} for each in samples
    ]


def performance_section(samples: Sequence[Sample]) -> dict[str, object]:
    """What ``performance`` in an ``allurerc`` holds: every metric's and every group's meaning."""
    return {
        "groups": {each.group: {"title": each.group_title} for each in samples},
        "metrics": {
            each.key: {"title": each.title, "unit": each.unit, "better": each.better, "group": each.group} for each in samples
        },
    }
