"""The one-file report: it answers first, loads nothing, and takes every name for text."""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from typing import Literal

import pytest

from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.html import data_uri, html_report
from pytest_llmperf.report.markdown import markdown
from pytest_llmperf.report.results_v2 import (
    BottleneckPart,
    ChangePart,
    CheckPart,
    ComparisonPart,
    CostPart,
    DeploymentErrorPart,
    OutcomeName,
    RunDocument,
    ServerPart,
    ServerTimesPart,
)
from pytest_llmperf.report.stats import stats_text
from tests.unit.report.exported import session as session_of
from tests.unit.report.runs import answered, judged, run_of

HOSTILE = "test_x[<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>]"
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What is in a page: its elements with their attributes, its text, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += data

    def addresses(self) -> list[str]:
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in LOADS]


def shown_run(verdict: OutcomeName | None = "PASS", run_id: str = "0123abcd", **changed: object) -> RunDocument:
    run = judged(run_of(answered(300), run_id=run_id))
    return run.model_copy(update={"verdict": verdict, **changed})


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        (["PASS"], "Yes: the run meets its SLA."),
        (["PASS", "PASS", None], "Yes: all 2 runs meet their SLA."),
        (["PASS", "FAIL", "INVALID"], "No: 1 of 3 runs misses its SLA."),
        (["FAIL", "FAIL"], "No: 2 of 2 runs miss their SLA."),
        (["PASS", "INVALID"], "Not known: 1 of 2 runs has no verdict that can be relied on."),
        (["INCONCLUSIVE", "INVALID"], "Not known: 2 of 2 runs have no verdict that can be relied on."),
        ([None], "Not asked: no run was held against an SLA."),
    ],
)
def test_answer_comes_first(verdicts: list[OutcomeName | None], answer: str) -> None:
    page = Page(html_report([shown_run(verdict, f"run{i}") for i, verdict in enumerate(verdicts)], {}))
    assert answer in page.text
    assert page.text.index(answer) < page.text.index("What changed") < page.text.index("Where the bottleneck is")
    assert page.text.index("What it costs") < page.text.index("Every run")


def test_it_loads_nothing_and_forbids_it() -> None:
    page = Page(html_report([shown_run()], {"overview": b"<svg/>", "0123abcd/latency_analysis": b"\x89PNG"}))
    addresses = page.addresses()
    assert len([each for each in addresses if each.startswith("data:image/svg+xml;base64,")]) == 1
    assert len([each for each in addresses if each.startswith("data:image/png;base64,")]) == 1
    assert all(each.startswith(("data:image/", "#")) for each in addresses)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    policies = [attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_style_names_no_address() -> None:
    html = html_report([shown_run()], {})
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html


def test_runs_of_one_cell_are_told_apart_wherever_they_are_listed() -> None:
    of_test = "suites/test_chat.py::test_sla[gke_h100_standalone_llama-3.1-8b-{}]"
    shown = [shown_run(run_id=name, test="test_sla", node_id=of_test.format(name)) for name in ("short", "long")]
    page = html_report(shown, {})
    for i, name in enumerate(("short", "long"), 1):
        lines = [line for line in page.splitlines() if f'href="#run-{i}"' in line]
        # The answers, the bottlenecks, the costs.
        assert len(lines) >= 2
        assert all(f"test_sla[{name}]" in line for line in lines)


def test_links_lead_to_the_runs() -> None:
    page = Page(html_report([shown_run(), shown_run(run_id="other")], {}))
    places = {attributes.get("id") for _, attributes in page.elements}
    links = {each[1:] for each in page.addresses() if each.startswith("#")}
    assert links == {"run-1", "run-2"} <= places


def test_hostile_names_stay_text() -> None:
    plain = shown_run()
    evil = plain.model_copy(
        update={
            "run_id": '"><script>x</script>',
            "node_id": f"a.py::{HOSTILE}",
            "label": "<b>label</b>",
            "errors": {"<script>boom</script>": 3},
            "cell": plain.cell.model_copy(update={"id": "<i>cell</i>"}),
            "bottleneck": BottleneckPart(kind="queueing", evidence="<script>waiting</script>"),
            "configuration": plain.configuration.model_copy(update={"manifests": ("kind: <script>x</script>",)}),
        }
    )
    before = {tag for tag, _ in Page(html_report([plain], {})).elements}
    page = Page(html_report([evil], {}))
    assert {tag for tag, _ in page.elements} <= before | {"details", "summary"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for text in ("<script>alert(1)</script>", "<b>label</b>", "<script>boom</script>", "<i>cell</i>", "<script>waiting</script>"):
        assert text in page.text


@pytest.mark.parametrize(("flags", "banner"), [([True], "no real server was measured"), ([True, False], "1 of 2 runs measured")])
def test_simulated_is_said_above_all_and_at_each_run(flags: list[bool], banner: str) -> None:
    runs = [shown_run(run_id=f"r{i}", simulated=flag) for i, flag in enumerate(flags)]
    page = Page(html_report(runs, {}))
    assert page.text.index("SIMULATED") < page.text.index("Is it fast enough?") or "(SIMULATED)" in page.text
    assert banner in page.text
    marks = [attributes for _, attributes in page.elements if attributes.get("class") == "simulated"]
    assert len(marks) >= 2 * sum(flags)


def test_real_runs_are_not_called_simulated() -> None:
    real = judged(run_of(answered(300), simulated=False))
    assert "SIMULATED" not in html_report([real], {})


def test_run_tells_its_limits_metrics_and_configuration() -> None:
    run = shown_run()
    page = Page(html_report([run], {}))
    assert run.sla is not None
    for check in run.sla.checks:
        assert check.required in page.text
    for text in (
        "95 % interval",
        run.run_id,
        run.node_id,
        run.deployment.engine,
        run.configuration.client_platform,
        "poisson 10/s",
    ):
        assert text in page.text
    assert "hunter2" not in page.text


def test_change_cost_and_bottleneck_are_told_where_they_are_known() -> None:
    change = ChangePart(
        metric="ttft_p99", title="TTFT p99", unit="s", higher_is_better=False, measured=0.3, baseline=0.2, ratio=1.5, low=1.2,
        high=1.8, tolerance="10%", gated=True, verdict="regressed", note="",
    )  # fmt: skip
    cost = CostPart(
        price_per_gpu_hour=2.1, price_per_hour=2.1, source="a price list", date="2025-06-01", per_million_input_tokens=0.1,
        per_million_output_tokens=0.42, per_million_total_tokens=0.08, output_tokens_per_dollar=1e6, requests_per_gpu_hour=9e4,
        joules_per_output_token=0.5,
    )  # fmt: skip
    run = shown_run(
        comparison=ComparisonPart(baseline="0003_main", runs=("a",), verdict="regressed", changes=(change,), differences={}),
        cost=cost,
        bottleneck=BottleneckPart(kind="kv_cache", evidence="97% of the cache was in use"),
        server=ServerPart(
            source="metrics",
            samples=9,
            preemptions=4,
            times={
                "queue": ServerTimesPart(
                    count=900, mean_s=0.1, p50_s=None, p99_s=0.3, resolution_s=0.02, p99_bucket_s=(0.29, 0.31)
                ),
                "decode": ServerTimesPart(count=9, mean_s=0.2, p50_s=0.15, p99_s=0.297, resolution_s=0.3, p99_bucket_s=(0, 0.3)),
            },
        ),
    )
    text = Page(html_report([run], {})).text
    for words in ("regressed beside 0003_main", "TTFT p99 +50% regressed", "$0.42", "KV cache",
                  "h100 $2.10/h (a price list, 2025-06-01)",
                  "97% of the cache was in use", "queue by the server", "mean 100ms, p99 300ms",
                  "decode by the server", "mean 200ms"):  # fmt: skip
        assert words in text
    # Nine requests have no 99th percentile.
    assert "297ms" not in text


def limit(metric: str, comparator: Literal["<=", ">="], limit: float, measured: float | None, **others: object) -> CheckPart:
    key, ratio = metric_key(metric), measured / limit if limit and measured is not None else None
    kept = measured is not None and (measured <= limit if comparator == "<=" else measured >= limit)
    return CheckPart.model_validate(
        {
            "metric": metric, "title": key.title, "unit": key.metric.unit, "required": f"{comparator} {limit:g}",
            "comparator": comparator, "limit": limit, "measured": measured, "low": None, "high": None, "samples": 100,
            "unbounded": ("value",) if measured is None else (), "margin": 1.0 if limit == measured == 0 else ratio,
            "outcome": "PASS" if kept else "FAIL", "note": "", **others,
        }
    )  # fmt: skip


FAST, SLOW, NEVER = (limit("ttft_p99", "<=", 1.0, value) for value in (0.5, 1.5, None))
BUSY, DEAD = (limit("output_tokens_per_s", ">=", 100.0, value) for value in (105.0, 0.0))
NO_ERRORS, ERRORS = (limit("error_rate", "<=", 0.0, value) for value in (0.0, 0.01))


@pytest.mark.parametrize(
    ("checks", "nearest"),
    [
        ((FAST, BUSY), "output tokens/s >= 100: 105% of limit"),
        ((FAST, NO_ERRORS), "TTFT p99 <= 1: 50% of limit"),
        ((NO_ERRORS,), "-"),
        ((SLOW, BUSY), "TTFT p99 <= 1: 1.5x over"),
        ((BUSY, NEVER), "TTFT p99 <= 1: over"),
        ((SLOW, ERRORS), "error rate <= 0: over"),
        ((SLOW, DEAD, NO_ERRORS), "output tokens/s >= 100: 100% short"),
        ((limit("ttft_p50", "<=", 1.0, 0.9, outcome="FAIL"), limit("ttft_p99", "<=", 1.0, 0.95)), "TTFT p50 <= 1: 90% of limit"),
        ((limit("ttft_p99", "<=", 1.0, None, unbounded=(), outcome="INCONCLUSIVE"),), "-"),
    ],
)
def test_what_is_nearest_its_limit_is_what_decides(checks: tuple[CheckPart, ...], nearest: str) -> None:
    run = shown_run()
    assert run.sla is not None
    page = html_report([run.model_copy(update={"sla": run.sla.model_copy(update={"checks": checks})})], {})
    assert f'<td class="load">{escape(nearest)}</td>' in page


def test_without_any_of_them_it_says_so() -> None:
    text = Page(html_report([shown_run(bottleneck=None, cost=None)], {})).text
    for words in ("No run was compared", "Nothing is known of the server's side", "No accelerator has a price"):
        assert words in text


def test_cells_that_never_were_deployed_are_named_beside_the_answer() -> None:
    error = DeploymentErrorPart(cell_id="gke_l40s", target="kubernetes", error="image <pull> failed\n  events: …")
    text = Page(html_report([shown_run()], {}, [error])).text
    assert "Not deployed, so nothing is known of it" in text
    assert "image <pull> failed" in text
    assert text.index("image <pull> failed") < text.index("What changed")


def test_metric_of_a_newer_version_is_shown_as_a_number() -> None:
    run = shown_run()
    assert run.sla is not None
    newer = run.metrics["ttft_p50"].model_copy(update={"title": "Warp", "unit": "warp", "value": 9.25})
    check = run.sla.checks[0].model_copy(update={"metric": "warp_p99", "title": "Warp p99", "measured": 8.75, "outcome": "FAIL"})
    change = ChangePart(
        metric="warp_p50", title="Warp p50", unit="warp", higher_is_better=False, measured=7.75, baseline=7.25, ratio=1.07,
        low=1.0, high=1.1, tolerance="10%", gated=True, verdict="unchanged", note="",
    )  # fmt: skip
    run = run.model_copy(
        update={
            "verdict": "FAIL",
            "metrics": {"warp": newer},
            "sla": run.sla.model_copy(update={"checks": (check,)}),
            "comparison": ComparisonPart(baseline="0001_a", runs=("a",), verdict="unchanged", changes=(change,), differences={}),
        }
    )
    page, summary = Page(html_report([run], {})).text, markdown(session_of([run]))
    for words in ("Warp", "9.25", "Warp p99", "8.75", "7.75", "7.25"):
        assert words in page
    for words in ("Warp p99", "8.75", "7.75", "7.25"):
        assert words in summary
    assert "9.25" in stats_text(run)


def test_pictures_are_told_apart() -> None:
    assert data_uri(b"\x89PNG\r\n").startswith("data:image/png;base64,")
    assert data_uri(b"<?xml ?><svg/>").startswith("data:image/svg+xml;base64,")
