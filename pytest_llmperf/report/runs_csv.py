"""Runs as CSV: one row a run, with every metric's value and interval in base units, for a spreadsheet or a script."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import MetricPart, RunDocument, Unbounded

_IDENTITY: Mapping[str, Callable[[RunDocument], object]] = {
    "run_id": lambda run: run.run_id,
    "node_id": lambda run: run.node_id,
    "ordinal": lambda run: run.ordinal,
    "label": lambda run: run.label,
    "started_at": lambda run: run.timing.started_at,
    "simulated": lambda run: "yes" if run.simulated else "no",
    "target": lambda run: run.deployment.target,
    "engine": lambda run: run.deployment.engine,
    "cell": lambda run: run.cell.id,
    "platform": lambda run: run.cell.platform,
    "hardware": lambda run: run.cell.hardware,
    "accelerators": lambda run: run.cell.count,
    "method": lambda run: run.cell.method,
    "model": lambda run: run.cell.model,
    "variant": lambda run: run.cell.variant,
    "workload": lambda run: run.workload.name,
    "profile": lambda run: run.profile,
    "seed": lambda run: run.seed,
    "window_s": lambda run: run.timing.window_s,
    "requests_ok": lambda run: run.counts.ok,
    "requests_failed": lambda run: run.counts.failed,
    "sla": lambda run: run.sla.name if run.sla is not None else "",
    "verdict": lambda run: run.verdict or "",
    "beside_baseline": lambda run: run.comparison.verdict if run.comparison is not None else "",
    "bottleneck": lambda run: run.bottleneck.kind if run.bottleneck is not None else "",
}
_SIDES: tuple[tuple[Unbounded, str], ...] = (("value", ""), ("low", "_low"), ("high", "_high"))


def runs_csv(documents: Sequence[RunDocument]) -> str:
    """The rows under a line of headings: who the run is, then ``ttft_p99``, ``ttft_p99_low``, ``ttft_p99_high`` of every metric.

    The metrics' names are those of the registry, and so are their units (seconds, fractions, per second, US dollars). What is
    unknown is empty, what has no bound is ``inf``.
    """
    names = list(dict.fromkeys(name for document in documents for name in document.metrics))
    target = StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([*_IDENTITY, *(name + ending for name in names for _, ending in _SIDES)])
    for document in documents:
        numbers = [_number(document.metrics.get(name), side) for name in names for side, _ in _SIDES]
        writer.writerow([*(read(document) for read in _IDENTITY.values()), *numbers])
    return target.getvalue()


def _number(part: MetricPart | None, side: Unbounded) -> str:
    if part is None:
        return ""
    value = {"value": part.value, "low": part.low, "high": part.high}[side]
    if value is None:
        return "inf" if side in part.unbounded else ""
    return repr(value)
