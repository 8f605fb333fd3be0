"""Documents of runs beside each other, as a comparison is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_llmperf.errors import Where
from pytest_llmperf.experiment.records import Cell, Variant
from pytest_llmperf.judge.fingerprint import context, fingerprint
from pytest_llmperf.judge.tolerance import DEFAULT_TOLERANCES, parse_tolerances
from pytest_llmperf.report.comparison import compare_runs
from pytest_llmperf.report.document import run_document
from pytest_llmperf.report.results_v2 import ChangePart, ComparisonPart, MetricPart, RunDocument
from tests.unit.report.runs import answered, cell, run_of, workload

DEFAULTS = {tolerance.key.name: tolerance for tolerance in DEFAULT_TOLERANCES}
_MEASURED = run_document(run_of(answered(20)), None)


def document(
    run_id: str = "now",
    *,
    of: Cell | None = None,
    test: str = "test_chat",
    profile: str = "poisson 10/s",
    values: Mapping[str, float | tuple[float, float, float] | None] | None = None,
    **changes: object,
) -> RunDocument:
    """A run's document in which every metric is 1 but for the ``values`` (with low and high, where three)."""
    of = of or cell()
    run = run_of([], of=of, profile=profile)
    return _MEASURED.model_copy(
        update={
            "run_id": run_id,
            "node_id": f"suites/test_sla.py::{test}[{of.id}]",
            "cell": _MEASURED.cell.model_copy(update={"id": of.id}),
            "profile": profile,
            "metrics": {name: metric(part, (values or {}).get(name, 0.01)) for name, part in _MEASURED.metrics.items()},
            "fingerprint": fingerprint(of, workload(), profile, "sim", True),
            "context": context(of, run.deployment),
            **changes,
        }
    )


def metric(part: MetricPart, value: float | tuple[float, float, float] | None) -> MetricPart:
    value, low, high = value if isinstance(value, tuple) else (value, value, value)
    return part.model_copy(update={"value": value, "low": low, "high": high, "unbounded": ("value",) if value is None else ()})


def variant(name: str, **env: str) -> Cell:
    return replace(cell(), variant=Variant(name, env=env))


def compared(now: RunDocument | Sequence[RunDocument], *baseline: RunDocument, fail: Sequence[str] = ()) -> ComparisonPart:
    tolerances = parse_tolerances(fail, Where(key="test")) if fail else DEFAULTS
    return compare_runs([now] if isinstance(now, RunDocument) else now, baseline, "0001_main", tolerances, set(tolerances))


def by_metric(part: ComparisonPart) -> dict[str, ChangePart]:
    return {change.metric: change for change in part.changes}
