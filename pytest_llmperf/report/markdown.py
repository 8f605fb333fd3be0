"""A session as Markdown: what a pull request, a job's summary page or a chat shows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import METRICS
from pytest_llmperf.report.answers import bottleneck_name, fast_enough, verdict_counts
from pytest_llmperf.report.comparison import invalid_reasons, title_of
from pytest_llmperf.report.comparison_table import change_row
from pytest_llmperf.report.part_text import far_text, interval_text, measured_text, metric_text, price_texts
from pytest_llmperf.report.rows import load_texts, test_labels

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument, SessionDocument

_SIGNS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "INVALID": "⛔"}
_KEYS = {
    "ttft_p99": "TTFT p99",
    "tpot_p99": "TPOT p99",
    "e2e_p99": "E2E p99",
    "output_tokens_per_s": "output tokens/s",
    "error_rate": "error rate",
    "cost_per_mtok": METRICS["cost_per_mtok"].title,
}
"""The columns of the table of runs, and their headings."""
_SPECIAL = re.compile(r"[\\`*\[\]|$~]|(?<![^\W_])_|_(?![^\W_])")
"""What would be markup: of underscores all but those between letters or digits."""
_HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
"""What would begin a tag or an entity: ``<= 1s`` does not."""
_SIMULATED = "SIMULATED"

Row = tuple[str, ...]


def markdown(session: SessionDocument) -> str:
    """The summary: what came out of each run, what missed its limits and by how far, what could not be measured and why."""
    sections = (
        _head(session),
        _runs(session),
        _misses(session.runs),
        _open(session.runs),
        _deployment_errors(session),
        _comparison(session.runs),
        _bottlenecks(session.runs),
    )
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def escaped(text: str) -> str:
    """Plain text that stays as it is, also within a table: no markup, no HTML, no second column, no formula."""
    marked = _SPECIAL.sub(lambda found: f"\\{found[0]}", " ".join(text.split()))
    return _HTML.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", marked)


def _head(session: SessionDocument) -> Iterator[str]:
    yield "## LLM performance" + (f" ({_SIMULATED})" if session.simulated else "")
    yield ""
    simulated = sum(run.simulated for run in session.runs)
    if session.simulated:
        which = "The numbers" if simulated == len(session.runs) else f"The numbers of {simulated} of {len(session.runs)} runs"
        yield f"> **{_SIMULATED}**: {which} come from a simulator; no real server was measured."
        yield ""
    errors = len(session.deployment_errors)
    counted = [f"{count} {verdict}" for verdict, count in verdict_counts(session.runs).items()]
    counted += [f"{errors} {'cell' if errors == 1 else 'cells'} not deployed"] if errors else []
    yield f"**{escaped(fast_enough(session.runs))}** {', '.join(counted)}."
    yield ""
    commit = f", commit `{session.commit[:10]}`{' (with changes)' if session.dirty else ''}" if session.commit else ""
    yield f"Target {escaped(session.target)}{commit}, {escaped(session.created)}."


def _runs(session: SessionDocument) -> Iterator[str]:
    if not session.runs:
        return
    yield f"### Runs{_mark(session.runs)}"
    yield ""
    headings = ("test", "cell", "load", "verdict", *(escaped(title) for title in _KEYS.values()))
    named = zip(session.runs, test_labels(session.runs), load_texts(session.runs), strict=True)
    rows = (_run(run, label, load, session.runs) for run, label, load in named)
    yield from _table(headings, rows, numbers=len(_KEYS))
    if prices := price_texts(session.runs):
        yield ""
        yield f"Prices: {escaped('; '.join(prices))}."


def _mark(runs: Sequence[RunDocument]) -> str:
    return f" ({_SIMULATED})" if runs and all(run.simulated for run in runs) else ""


def _run(run: RunDocument, label: str, load: str, runs: Sequence[RunDocument]) -> Row:
    # Where all are simulated the heading says so.
    mark = f" ({_SIMULATED})" if run.simulated and not _mark(runs) else ""
    return (
        escaped(label),
        escaped(run.cell.id) + mark,
        escaped(f"{run.workload.name} {load}"),
        _verdict(run.verdict),
        *(escaped(metric_text(run, key)) for key in _KEYS),
    )


def _verdict(verdict: str | None) -> str:
    return f"{_SIGNS[verdict]} {verdict}" if verdict is not None else "not judged"


def _misses(runs: Sequence[RunDocument]) -> Iterator[str]:
    failed = [run for run in runs if run.verdict == "FAIL" and run.sla is not None]
    if not failed:
        return
    yield f"### SLA misses{_mark(failed)}"
    for run in failed:
        yield ""
        yield from _miss(run)


def _miss(run: RunDocument) -> Iterator[str]:
    if run.sla is None:
        return
    yield f"**{_title(run)}**, SLA {escaped(run.sla.name)}:"
    yield ""
    missed = [check for check in run.sla.checks if check.outcome != "PASS"]
    rows = (
        (
            check.title,
            check.required,
            measured_text(check),
            interval_text(check),
            far_text(check),
            f"{check.outcome}{f' ({check.grade})' if check.grade else ''}",
            check.note,
        )
        for check in missed
    )
    if missed:
        yield from _table(("metric", "required", "measured", "95 % interval", "how far", "verdict", "note"), map(_plain, rows))
    else:
        yield from _listed(run.sla.reasons)


def _title(run: RunDocument) -> str:
    """The run as others name it, with SIMULATED where it is."""
    return escaped(title_of(run)) + (f" ({_SIMULATED})" if run.simulated else "")


def _open(runs: Sequence[RunDocument]) -> Iterator[str]:
    invalid = [(run, invalid_reasons(run)) for run in runs if run.verdict == "INVALID"]
    undecided = [(run, run.sla.reasons) for run in runs if run.verdict == "INCONCLUSIVE" and run.sla is not None]
    kinds = (("INVALID: the measurement cannot be trusted", invalid), ("INCONCLUSIVE: the samples cannot tell", undecided))
    told = False
    for heading, found in kinds:
        if found:
            yield from ([""] if told else [])
            yield f"### {heading}"
            yield ""
            yield from (f"* **{_title(run)}**: {escaped('; '.join(reasons) or 'no reason is known')}" for run, reasons in found)
            told = True


def _deployment_errors(session: SessionDocument) -> Iterator[str]:
    if not session.deployment_errors:
        return
    yield "### Not deployed"
    for error in session.deployment_errors:
        what, _, more = error.error.partition("\n")
        yield ""
        yield f"**{escaped(error.cell_id)}** (target {escaped(error.target)}): {escaped(what)}"
        if more.strip():
            yield ""
            # Indented code takes anything as it is.
            yield from (f"    {line}" for line in more.strip("\n").splitlines())


def _comparison(runs: Sequence[RunDocument]) -> Iterator[str]:
    compared = [(run, run.comparison) for run in runs if run.comparison is not None]
    if not compared:
        return
    baselines = ", ".join(dict.fromkeys(part.baseline for _, part in compared))
    yield f"### Beside baseline {escaped(baselines)}{_mark([run for run, _ in compared])}"
    yield ""
    rows = [
        (_title(run), *map(escaped, change_row(change)))
        for run, part in compared
        for change in part.changes
        if change.gated or change.verdict in ("regressed", "improved")
    ]
    if rows:
        yield from _table(("test", "metric", "baseline", "measured", "change", "90 % interval", "allowed", "verdict"), rows)
        yield ""
    for run, part in compared:
        differing = "; ".join(f"{field}: {change}" for field, change in part.differences.items())
        remark = "; ".join(filter(None, (part.note, differing)))
        yield f"* **{_title(run)}**: {part.verdict}{f' ({escaped(remark)})' if remark else ''}"


def _bottlenecks(runs: Sequence[RunDocument]) -> Iterator[str]:
    known = [(run, run.bottleneck) for run in runs if run.bottleneck is not None and run.bottleneck.kind != "unknown"]
    if not known:
        return
    yield f"### Bottlenecks{_mark([run for run, _ in known])}"
    yield ""
    rows = ((_title(run), escaped(bottleneck_name(part)), escaped(part.evidence)) for run, part in known)
    yield from _table(("test", "waited for", "evidence"), rows)


def _listed(items: Sequence[str]) -> Iterator[str]:
    yield from (f"* {escaped(item)}" for item in items)


def _plain(row: Row) -> Row:
    return tuple(map(escaped, row))


def _table(headings: Row, rows: Iterator[Row] | Sequence[Row], numbers: int = 0) -> Iterator[str]:
    """Rows of Markdown that is escaped already; the last ``numbers`` columns are numbers, and stand to the right."""
    yield _line(headings)
    yield _line(tuple("---:" if len(headings) - i <= numbers else "---" for i in range(len(headings))))
    yield from map(_line, rows)


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"
