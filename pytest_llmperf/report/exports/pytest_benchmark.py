"""A session as pytest-benchmark 5 writes it, for ``pytest-benchmark compare`` and whoever else reads that form.

There an entry is a time, and less of it is better. A metric that is better when higher is therefore exported as its reciprocal,
so that ``ops`` is the metric itself: of output tokens/s the entry is the seconds each took. The group names metric and unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_llmperf.metrics import METRICS, Metric

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.report.exports.values import Values
    from pytest_llmperf.report.results_v2 import MetricPart, RunDocument, SessionDocument

FORM = "5.3.1"
"""The version of pytest-benchmark whose form this is."""
_PERCENTILES = ("p50", "p90", "p95", "p99")
SIMULATED = "SIMULATED"


def pytest_benchmark(session: SessionDocument, values_of: Callable[[RunDocument], Values | None]) -> dict[str, Any]:
    """The document: one entry for each run and metric that has a value.

    A latency's statistics are those of the values that its answered requests have. Where ``values_of`` a run is None they are as
    far as the document says, and ``extra_info["unknown"]`` names those it does not; they then read as if nothing varied.
    """
    benchmarks: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for run in session.runs:
        seen[run.node_id] += 1
        benchmarks.extend(_entries(run, values_of(run), seen[run.node_id]))
    configuration = session.runs[0].configuration if session.runs else None
    packages = configuration.packages if configuration is not None else {}
    return {
        "machine_info": {
            "node": "",
            "processor": "",
            "machine": "",
            "python_implementation": "CPython",
            "python_version": packages.get("python", ""),
            "release": "",
            "system": configuration.client_platform if configuration is not None else "",
            "cpu": {},
        },
        "commit_info": {
            "id": session.commit or "unversioned",
            "time": None,
            "author_time": None,
            "dirty": session.dirty,
            "project": "",
            "branch": "(unknown)",
        },
        "benchmarks": benchmarks,
        "datetime": session.created,
        "version": FORM,
    }


def _entries(run: RunDocument, values: Values | None, number: int) -> Iterator[dict[str, Any]]:
    for metric in METRICS.values():
        stats, unknown = _stats_of(run, metric, values)
        if stats is None:
            continue
        params = {
            "cell": run.cell.id,
            "workload": run.workload.name,
            "profile": run.profile,
            "run": number,
            "metric": metric.name,
        }
        yield {
            "group": _group(metric, run.simulated),
            "name": _named(run.test, run.node_id, metric.name, number),
            "fullname": _named(run.node_id.partition("[")[0], run.node_id, metric.name, number),
            "params": params,
            "param": f"{run.cell.id}-{metric.name}",
            "extra_info": _extra_info(run, metric, unknown),
            "options": {
                "disable_gc": False,
                "timer": "monotonic",
                "min_rounds": 1,
                "min_time": 0.0,
                "max_time": run.timing.planned_s,
                "warmup": run.counts.warmup > 0,
            },
            "stats": stats,
        }


def _named(function: str, node_id: str, metric: str, number: int) -> str:
    """``t.py::test_x[cell-ttft]``, of the second run of ``t.py::test_x[cell]`` ``t.py::test_x[cell-2-ttft]``."""
    _, bracket, rest = node_id.partition("[")
    parameters = [rest.removesuffix("]")] if bracket else []
    return f"{function}[{'-'.join([*parameters, *([str(number)] if number > 1 else []), metric])}]"


def _group(metric: Metric, simulated: bool) -> str:
    unit = f"OPS is {metric.unit.value}" if metric.higher_is_better else metric.unit.value
    return f"{metric.title} [{unit}]" + (f" {SIMULATED}" if simulated else "")


def _extra_info(run: RunDocument, metric: Metric, unknown: tuple[str, ...]) -> dict[str, Any]:
    keys = [f"{metric.name}_{name}" for name in _PERCENTILES] if metric.is_distribution else [metric.name]
    parts = {key: part for key in keys if (part := run.metrics.get(key)) is not None}
    infinite = [key for key, part in parts.items() if "value" in part.unbounded]
    return {
        "run_id": run.run_id,
        "simulated": run.simulated,
        "verdict": run.verdict,
        "metric": metric.name,
        "unit": metric.unit.value,
        "higher_is_better": metric.higher_is_better,
        **{key: part.value for key, part in parts.items()},
        **({"unbounded": infinite} if infinite else {}),
        "failed_requests": run.counts.failed,
        "label": run.label,
        **({"unknown": list(unknown)} if unknown else {}),
    }


def _stats_of(run: RunDocument, metric: Metric, values: Values | None) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The statistics, None where there is no value, and the names of those that are not known."""
    if not metric.is_distribution:
        value = _value(run.metrics.get(metric.name))
        if metric.higher_is_better and value is not None:
            value = 1 / value if value > 0 else None
        return (_single(value), ()) if value is not None else (None, ())
    if values is not None and len(found := values.latencies.get(metric.name, ())):
        return statistics(found), ()  # type: ignore[arg-type]  # what has a length here is an array
    return _from_document(run, metric.name)


def _from_document(run: RunDocument, name: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    metrics = run.metrics
    mean, median, most = (_value(metrics.get(f"{name}_{statistic}")) for statistic in ("mean", "p50", "max"))
    if mean is None or median is None:
        return None, ()
    rounds = min(metrics[f"{name}_mean"].samples, run.counts.ok)
    stats = {**_single(median), "mean": mean, "rounds": rounds, "total": mean * rounds, "ops": 1 / mean if mean else 0.0}
    unknown = ["min", "stddev", "q1", "q3", "iqr", "ld15iqr", "hd15iqr", "outliers", "iqr_outliers", "stddev_outliers"]
    if most is None:
        unknown.append("max")
    else:
        stats["max"] = most
    return stats, tuple(unknown)


def _value(part: MetricPart | None) -> float | None:
    return part.value if part is not None else None


def _single(value: float) -> dict[str, Any]:
    """The statistics of one value."""
    return {
        **dict.fromkeys(("min", "max", "mean"), value),
        "stddev": 0.0,
        "rounds": 1,
        "median": value,
        "iqr": 0.0,
        "q1": value,
        "q3": value,
        "iqr_outliers": 0,
        "stddev_outliers": 0,
        "outliers": "0;0",
        "ld15iqr": value,
        "hd15iqr": value,
        "ops": 1 / value if value else 0.0,
        "total": value,
        "iterations": 1,
    }


def statistics(values: Floats) -> dict[str, Any]:
    """pytest-benchmark's statistics of values, by its own definitions of quartiles and outliers."""
    import numpy as np

    n = len(values)
    if n == 1:
        return _single(float(values[0]))
    ordered = np.sort(values)
    mean, total = float(np.mean(ordered)), float(np.sum(ordered))
    stddev = float(np.std(ordered, ddof=1))
    q1, q3 = _quartile(ordered), _upper_quartile(ordered)
    iqr = q3 - q1
    low, high = np.searchsorted(ordered, q1 - 1.5 * iqr, "left"), np.searchsorted(ordered, q3 + 1.5 * iqr, "right")
    beyond_fences = int(low) + n - int(high)
    beyond_stddev = int(np.count_nonzero((ordered < mean - stddev) | (ordered > mean + stddev)))
    return {
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
        "mean": mean,
        "stddev": stddev,
        "rounds": n,
        "median": float(np.median(ordered)),
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond_fences,
        "stddev_outliers": beyond_stddev,
        "outliers": f"{beyond_stddev};{beyond_fences}",
        "ld15iqr": float(ordered[low]),
        "hd15iqr": float(ordered[high - 1]),
        "ops": n / total if total else 0.0,
        "total": total,
        "iterations": 1,
    }


def _quartile(ordered: Floats) -> float:
    import numpy as np

    n, quarter = len(ordered), len(ordered) // 4
    if n % 2 == 0:
        return float(np.median(ordered[: n // 2]))
    if n % 4 == 1:
        return float(0.25 * ordered[quarter - 1] + 0.75 * ordered[quarter])
    return float(0.75 * ordered[quarter] + 0.25 * ordered[quarter + 1])


def _upper_quartile(ordered: Floats) -> float:
    # The lower one of the values' mirror image.
    return -_quartile(-ordered[::-1])
