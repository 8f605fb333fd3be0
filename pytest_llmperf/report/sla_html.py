"""A run's verdict as a table in HTML: a line a threshold, coloured by outcome."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pytest_llmperf.report.html_page import number_cell, page, simulated_mark, table, text_cell, verdict
from pytest_llmperf.report.part_text import interval_text, measured_text, share_text

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import CheckPart, RunDocument, SlaPart

_HEADING = ("metric", "required", "measured", "95 % interval", "verdict", "measured / limit")


def sla_html(run: RunDocument) -> str:
    """The page. Raises ``ValueError`` for a run that no SLA was held against."""
    sla = run.sla
    if sla is None:
        raise ValueError(f"run {run.run_id} was held against no SLA")
    title = f"SLA {sla.name}: {sla.outcome}{simulated_mark(run.simulated)}"
    heading = f"<h1>SLA {escape(sla.name)}{escape(_terms(sla))}: {verdict(sla.outcome)}{simulated_mark(run.simulated)}</h1>"
    place = f"<p>{escape(run.workload.title)} at {escape(run.profile)} on {escape(run.cell.id)}</p>"
    rows = [_row(check) for check in sla.checks]
    remarks = [*sla.reasons, *(f"{check.title}: {check.note}" for check in sla.checks if check.note)]
    listed = f"<ul>{''.join(f'<li>{escape(remark)}</li>' for remark in dict.fromkeys(remarks))}</ul>" if remarks else ""
    return page(title, heading + place + table(_HEADING, rows) + listed)


def _terms(sla: SlaPart) -> str:
    """How the verdict was reached, where that is not as always."""
    terms = [f"at {sla.gate}"] if sla.gate != "target" else []
    terms += [sla.policy] if sla.policy != "measured" else []
    return f" ({', '.join(terms)})" if terms else ""


def _row(check: CheckPart) -> tuple[str, ...]:
    grade = f" ({escape(check.grade)})" if check.grade else ""
    return (
        text_cell(check.title),
        text_cell(check.required),
        number_cell(measured_text(check)),
        number_cell(interval_text(check)),
        f"<td>{verdict(check.outcome)}{grade}</td>",
        number_cell(share_text(check)),
    )
