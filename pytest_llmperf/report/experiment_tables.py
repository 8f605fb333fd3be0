"""Tables of experiments that take several runs: a capacity's walk, a sweep, two variants. Text of at most 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.judge.text import shown
from pytest_llmperf.metrics import MetricKey, metric_key
from pytest_llmperf.report.tables import how_far
from pytest_llmperf.units import format_duration, format_fraction, format_number, format_rate

if TYPE_CHECKING:
    from pytest_llmperf.judge.capacity import Capacity
    from pytest_llmperf.judge.paired import Comparison
    from pytest_llmperf.judge.verdict import Check, Verdict
    from pytest_llmperf.measure.run import Run

WIDTH = 80
SIMULATED = "(SIMULATED: no real server was measured)"

_SWEEP = tuple(map(metric_key, ("request_rate", "output_tokens_per_s", "ttft_p50", "ttft_p95", "tpot_p50", "e2e_p95")))
_SWEEP_HEADINGS = {"request_rate": "req/s", "output_tokens_per_s": "tok/s"}


def capacity_table(capacity: Capacity, probes: Sequence[tuple[Run, Verdict]]) -> str:
    """The walk of a search, one line a probe in the order made, with the check that is nearest to its limit or farthest beyond.

    ``probes``: the runs and verdicts of ``capacity.probes``, in the same order.
    """
    runs = [run for run, _ in probes]
    sla_name = probes[0][1].sla_name if probes else "-"
    rows = [("rate", "loaded", "requests", "verdict", "nearest its limit")]
    for probe, (run, verdict) in zip(capacity.probes, probes, strict=True):
        loaded = format_duration(run.metrics.window_s)
        rows.append(
            (format_rate(probe.rate_per_s), loaded, f"{run.metrics.counts.ended:,}", verdict.outcome.value, _tightest(verdict))
        )
    found = format_rate(capacity.rate_per_s) if capacity.rate_per_s is not None else "none"
    return "\n".join(
        [
            *_heading(f"Capacity for SLA {sla_name} on {_cells(runs)}: {found}", runs),
            *_wrapped(capacity.reason),
            *_aligned(rows, right={0, 1, 2}),
            *_remarks(runs),
        ]
    )


def sweep_table(runs: Sequence[Run]) -> str:
    """Latency against throughput: one line a point, in the order measured."""
    rows: list[tuple[str, ...]] = [
        ("load", "reqs", *(_SWEEP_HEADINGS.get(key.metric.name, key.title) for key in _SWEEP), "errors")
    ]
    for run in runs:
        metrics = run.metrics
        values = (_bare(key, metrics.estimate(key).value) for key in _SWEEP)
        errors = f"{metrics.counts.failed:,}"
        rows.append((run.identity.profile, f"{metrics.counts.ended:,}", *values, errors))
    columns = set(range(1, len(rows[0])))
    return "\n".join([*_heading(f"Sweep on {_cells(runs)}", runs), *_aligned(rows, right=columns), *_remarks(runs)])


def variants_table(base: str, candidate: str, comparisons: Sequence[Comparison], pairs: Sequence[tuple[Run, Run]]) -> str:
    """Two variants side by side: one line a metric, and what to do where nothing can be told.

    ``pairs``: each pair's runs of the base and of the candidate.
    """
    rows = [("metric", "A", "B", "worse by", "90 % interval", "margin", "pairs", "verdict")]
    for comparison in comparisons:
        verdict, metric = comparison.verdict, comparison.key.metric
        rows.append(
            (
                comparison.key.title,
                shown(metric, comparison.base),
                shown(metric, comparison.candidate),
                _change(verdict.ratio),
                _interval(verdict.low, verdict.high),
                format_fraction(comparison.margin),
                str(verdict.pairs),
                verdict.outcome.value if verdict.outcome is not None else "-",
            )
        )
    notes = [f"{each.key.title}: {each.verdict.note}" for each in comparisons if each.verdict.note]
    runs = [run for pair in pairs for run in pair]
    first = f"A: {base}, B: {candidate}" + (f", under {runs[0].identity.profile}" if runs else "")
    return "\n".join([*_heading(first, runs), *_aligned(rows, right={1, 2, 3, 4, 5, 6}), *_bullets(notes), *_remarks(runs)])


def _heading(title: str, runs: Sequence[Run]) -> list[str]:
    mark = f" {SIMULATED}" if any(run.identity.simulated for run in runs) else ""
    return _wrapped(title + mark)


def _cells(runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(run.identity.cell.id for run in runs)) or "-"


def _tightest(verdict: Verdict) -> str:
    """The check that says most: one that fails or is open before one that passes, and of these the nearest to its limit."""
    if not verdict.checks:
        return "-"
    check = max(verdict.checks, key=lambda each: (each.outcome != "PASS", _strain(each)))
    measured = f"{check.threshold.key.title} {shown(check.threshold.key.metric, check.estimate.value)}"
    return f"{measured}: {check.note if check.outcome == 'INCONCLUSIVE' else how_far(check)}"


def _strain(check: Check) -> float:
    """How much of the limit is used: 1 is at the limit, more is beyond."""
    margin = check.margin
    if math.isnan(margin):
        return -1.0
    if check.threshold.comparator == "<=":
        return margin
    return 1 / margin if margin > 0 else math.inf


def _bare(key: MetricKey, value: float) -> str:
    """A value without the unit that its heading has."""
    return shown(key.metric, value) if key.metric.is_distribution else format_number(value) if math.isfinite(value) else "-"


def _change(ratio: float) -> str:
    if math.isnan(ratio):
        return "-"
    if math.isinf(ratio):
        return "inf"
    return f"{100 * (ratio - 1):+.1f}%"


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{_change(low)}..{_change(high)}"


def _remarks(runs: Iterable[Run]) -> list[str]:
    """What a reader must know of single runs: errors, a client that cannot be trusted, no steady state, an early end."""
    remarks = []
    for run in runs:
        name = run.identity.label or run.identity.profile
        remarks += [f"{name}: INVALID: {reason}" for reason in run.invalid]
        if run.metrics.counts.failed:
            remarks.append(f"{name}: {run.metrics.counts.failed:,} of {run.metrics.counts.ended:,} requests failed")
        if run.steadiness.unstable:
            remarks.append(f"{name}: unstable: {run.steadiness.unstable}")
        if run.stopped is not None:
            remarks.append(f"{name}: ended {format_duration(run.stopped.saved_s)} early: {run.stopped.reason}")
    return _bullets(remarks)


def _bullets(remarks: Iterable[str]) -> list[str]:
    return [
        line
        for remark in dict.fromkeys(remarks)
        for line in textwrap.wrap(remark, WIDTH, initial_indent="- ", subsequent_indent="  ")
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _aligned(rows: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    """Columns side by side; where they are too wide, each row's last cell goes on below, indented."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    lines = []
    for row in rows:
        cells = [text.rjust(widths[i]) if i in right else text.ljust(widths[i]) for i, text in enumerate(row)]
        line = (" " * gap).join(cells).rstrip()
        if len(line) > WIDTH:
            lines += [(" " * gap).join(cells[:-1]).rstrip(), f"    {row[-1]}"]
        else:
            lines.append(line)
    return lines
