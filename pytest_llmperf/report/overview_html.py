"""A session at a glance, as a page in HTML: cells by workloads, each test's verdict and its 99th percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.html_page import page, simulated_mark, table, verdict
from pytest_llmperf.report.part_text import metric_text

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument, SessionDocument

_P99S = tuple(metric_key(name, "p99") for name in ("ttft", "tpot", "e2e"))


def overview_html(session: SessionDocument) -> str:
    """The page. The runs of an experiment (they have labels) are counted, and not listed."""
    workloads = {run.workload.name: run.workload.title for run in session.runs}
    errors = {error.cell_id: error.error for error in session.deployment_errors}
    cell_ids = sorted({run.cell.id for run in session.runs} | set(errors))
    rows = []
    for cell_id in cell_ids:
        runs = [run for run in session.runs if run.cell.id == cell_id]
        heading = f"<th>{escape(cell_id)}{simulated_mark(session.simulated)}{_not_deployed(errors.get(cell_id))}</th>"
        rows.append((heading, *(_cell([run for run in runs if run.workload.name == name]) for name in workloads)))
    title = f"Cells by workloads{simulated_mark(session.simulated)}"
    return page(title, f"<h1>{title}</h1>{_tally(session)}{table(('cell', *workloads.values()), rows)}")


def _tally(session: SessionDocument) -> str:
    outcomes = [run.verdict for run in session.runs if run.verdict is not None]
    counted = ", ".join(f"{outcomes.count(outcome)} {verdict(outcome)}" for outcome in sorted(set(outcomes), key=str))
    said = f"{len(session.runs)} runs" + (f": {counted}" if counted else "")
    failed = len(session.deployment_errors)
    return f"<p>{said}{f'; {failed} not deployed' if failed else ''}</p>"


def _not_deployed(error: str | None) -> str:
    if error is None:
        return ""
    return f'<br><b class="FAIL">not deployed</b><br><small>{escape(error.partition(chr(10))[0])}</small>'


def _cell(runs: Sequence[RunDocument]) -> str:
    alone = [run for run in runs if not run.label]
    parts = [_run(run) for run in alone]
    tests = dict.fromkeys(run.test for run in runs if run.label)
    for test in tests:
        count = sum(run.test == test for run in runs if run.label)
        parts.append(f"<div>{escape(test)}<br><small>{count} runs of an experiment</small></div>")
    return f"<td>{''.join(parts) or '-'}</td>"


def _run(run: RunDocument) -> str:
    shown = [f"{key.title} {metric_text(run, key.name)}" for key in _P99S if key.name in run.metrics]
    again = f" #{run.ordinal}" if run.ordinal > 1 else ""
    heading = f"{verdict(run.verdict)} <small>{escape(run.test)}{again}</small>"
    return f"<div>{heading}<br>{escape(', '.join(shown))}</div>"
