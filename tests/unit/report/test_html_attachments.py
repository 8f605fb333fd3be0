"""The SLA's table and the matrix overview as pages."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from pytest_llmperf.report.document import DeploymentErrorPart, run_document, session_document
from pytest_llmperf.report.overview_html import overview_html
from pytest_llmperf.report.results_v2 import RunDocument
from pytest_llmperf.report.sla_html import sla_html
from tests.unit.report.runs import answered, cell, judged, run_of, workload


class _Table(HTMLParser):
    """The texts of a page's cells, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._within = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self._within = True

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._within:
            self.rows[-1][-1] += data


def renamed(run: RunDocument, name: str) -> RunDocument:
    assert run.sla is not None
    return run.model_copy(update={"sla": run.sla.model_copy(update={"name": name})})


def test_the_sla_table_has_a_line_a_threshold() -> None:
    page = sla_html(judged(run_of(answered(300, scale=9.0))))
    rows = _Table(page).rows
    assert rows[0] == ["metric", "required", "measured", "95 % interval", "verdict", "measured / limit"]
    assert rows[1][0] == "TTFT p50"
    assert rows[1][1] == "<= 250ms"
    assert rows[1][4] == "FAIL"
    assert rows[1][5].endswith("%")
    assert "SIMULATED" in page


def test_what_has_no_bound_and_what_is_unknown_is_said() -> None:
    rows = {row[0]: row for row in _Table(sla_html(judged(run_of(answered(10, failures=290))))).rows}
    assert rows["TTFT p50"][2] == "inf"
    rows = {row[0]: row for row in _Table(sla_html(judged(run_of([])))).rows}
    assert rows["TTFT p50"][2:4] == ["-", "-"]


def test_names_are_escaped() -> None:
    page = sla_html(renamed(judged(run_of(answered(20))), "<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_without_an_sla_has_no_table() -> None:
    with pytest.raises(ValueError, match="no SLA"):
        sla_html(run_document(run_of(answered(20)), None))


def test_the_overview_is_cells_by_workloads() -> None:
    chat, sums = workload(), workload("summarization")
    runs = [
        judged(run_of(answered(300, scale=9.0), doing=chat)),
        run_document(run_of(answered(300), doing=sums, run_id="b", test="test_sums"), None),
        judged(run_of(answered(300, scale=9.0), doing=chat, of=cell("l40s"), run_id="c")),
        *(judged(run_of(answered(9), run_id=f"e{n}")).model_copy(update={"label": f"{n}/s"}) for n in range(3)),
    ]
    errors = [DeploymentErrorPart(cell_id="gke_a100_standalone_m", target="sim", error="no <image>\n  more")]
    session = session_document(runs, created=0.0, arguments=[], target="sim", simulated=True, deployment_errors=errors)
    page = overview_html(session)
    heading, a100, h100, l40s = _Table(page).rows
    assert heading == ["cell", "Interactive chat", "Summarization"]
    assert a100 == ["gke_a100_standalone_m (SIMULATED)not deployedno <image>", "-", "-"]
    assert h100[1].startswith("FAIL test_meets_slaTTFT p99 ")
    assert h100[1].endswith("test_meets_sla3 runs of an experiment")
    assert h100[2].startswith("- test_sumsTTFT p99 ")
    assert l40s[2] == "-"
    assert "6 runs: 5 <b" in page
    assert "1 not deployed" in page
