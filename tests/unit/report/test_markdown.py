"""The summary as Markdown: what each run came to, and what a reader must do something about."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_llmperf.report.markdown import escaped, markdown
from pytest_llmperf.report.results_v2 import (
    BottleneckPart,
    ChangePart,
    ComparisonPart,
    DeploymentErrorPart,
    RunDocument,
)
from tests.unit.report.exported import measured, session

COMPARED = ComparisonPart(
    baseline="0001_main",
    runs=("abc",),
    verdict="regressed",
    changes=(
        ChangePart(
            metric="ttft_p50",
            title="TTFT p50",
            unit="s",
            higher_is_better=False,
            measured=0.2,
            baseline=0.1,
            ratio=2.0,
            low=1.8,
            high=2.2,
            tolerance="10%",
            gated=True,
            verdict="regressed",
            note="",
        ),
    ),
    differences={"engine": "vLLM 0.31 -> vLLM 0.32"},
)


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line.startswith("|")]


def section(text: str, heading: str) -> str:
    return text.partition(f"### {heading}")[2].partition("\n### ")[0]


def test_every_run_with_its_verdict_in_a_word_and_its_numbers() -> None:
    run = measured()
    text = markdown(session([run, measured(run_id="two", test="test_slow", scale=3.0)]))
    assert "**No: 1 of 2 runs misses its SLA.** 1 PASS, 1 FAIL." in text
    _, _, passed, failed, *_ = table_rows(text)
    assert passed == [
        "test_meets_sla",
        "gke_h100_standalone_llama-3.1-8b",
        "interactive-chat poisson 10/s",
        "✅ PASS",
        "300ms",
        "20ms",
        "340ms",
        "29.8/s",
        "0%",
        "\\$103.01",
    ]
    assert failed[3] == "❌ FAIL"
    assert "Prices: h100 \\$11.06/h (GCP \\| a third party's list, 2026-11-20)." in text


def test_simulated_is_said_wherever_a_number_is() -> None:
    text = markdown(session([measured(scale=3.0).model_copy(update={"comparison": COMPARED})]))
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert all("SIMULATED" in heading for heading in headings)
    assert "> **SIMULATED**: The numbers come from a simulator; no real server was measured." in text
    mixed = markdown(session([measured(), measured(run_id="two", simulated=False)]))
    assert "The numbers of 1 of 2 runs come from a simulator" in mixed
    assert [cells[1] for cells in table_rows(mixed)[2:]] == [
        "gke_h100_standalone_llama-3.1-8b (SIMULATED)",
        "gke_h100_standalone_llama-3.1-8b",
    ]
    assert "SIMULATED" not in markdown(session([measured(simulated=False)], simulated=False))


def test_a_miss_is_told_in_full() -> None:
    told = section(markdown(session([measured(scale=2.0, failures=1)])), "SLA misses")
    assert (
        "**suites/test_chat.py::test_meets_sla\\[gke_h100_standalone_llama-3.1-8b\\] (SIMULATED)**, SLA interactive-chat:" in told
    )
    heading, _, *rows = table_rows(told)
    assert heading == ["metric", "required", "measured", "95 % interval", "how far", "verdict", "note"]
    assert {row[0]: [*row[1:3], row[4], row[5]] for row in rows} == {
        "TTFT p50": ["<= 250ms", "411ms", "1.6x over", "FAIL"],
        "TTFT p95": ["<= 400ms", "600ms", "1.5x over", "FAIL"],
        "error rate": ["<= 0.1%", "0.249%", "2.5x over", "FAIL"],
    }


def test_what_is_infinite_is_told_as_such() -> None:
    rows = {row[0]: row for row in table_rows(section(markdown(session([measured(failures=400)])), "SLA misses"))}
    assert (rows["TTFT p95"][2], rows["TTFT p95"][4]) == ("inf", "over")


def test_invalid_and_inconclusive_with_their_reasons() -> None:
    invalid = measured(invalid=("worker 0 was 80ms late",))
    undecided = measured(run_id="two", test="test_short", requests=30, sla={"ttft": {"p99": "9s"}})
    text = markdown(session([invalid, undecided]))
    assert "worker 0 was 80ms late" in section(text, "INVALID: the measurement cannot be trusted")
    assert "needs 269 more samples" in section(text, "INCONCLUSIVE: the samples cannot tell")
    assert "### SLA misses" not in text


def test_cells_that_never_came_up() -> None:
    error = DeploymentErrorPart(cell_id="gke_l40s_x", target="process", error="no <memory>\n  log tail:\n    *oom* | killed")
    text = markdown(session([], [error]))
    assert "1 cell not deployed" in text
    assert "**gke_l40s_x** (target process): no &lt;memory>" in text
    # Indented as code, a log stays as it is.
    assert "\n        *oom* | killed\n" in text


def test_beside_the_baseline() -> None:
    told = section(markdown(session([measured().model_copy(update={"comparison": COMPARED})])), "Beside baseline 0001_main")
    (row,) = table_rows(told)[2:]
    assert row[1:] == ["TTFT p50", "100ms", "200ms", "+100%", "+80..+120%", "10%", "regressed"]
    assert ": regressed (engine: vLLM 0.31 -> vLLM 0.32)" in told


def test_bottlenecks() -> None:
    part = BottleneckPart(kind="kv_cache", evidence="usage 99% | 12 preemptions")
    (row,) = table_rows(section(markdown(session([measured().model_copy(update={"bottleneck": part})])), "Bottlenecks"))[2:]
    assert row[1:] == ["KV cache", "usage 99% \\| 12 preemptions"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<script>x</script> <= 1s", "&lt;script>x&lt;/script> <= 1s"),
        ("&lt; R&D", "&amp;lt; R&D"),
        ("*b* _i_ a_b `c` [l](u) $x$ ~s~", "\\*b\\* \\_i\\_ a_b \\`c\\` \\[l\\](u) \\$x\\$ \\~s\\~"),
        ("test__init__ a__b __c__", "test\\_\\_init\\_\\_ a\\_\\_b \\_\\_c\\_\\_"),
        ("two\n\n# lines", "two # lines"),
        ("\\|", "\\\\\\|"),
    ],
)
def test_text_stays_text(text: str, shown: str) -> None:
    assert escaped(text) == shown


@given(st.text("_*a1 é.-", min_size=1).filter(lambda text: text.split() != []))
def test_underscores_and_stars_are_read_as_themselves(text: str) -> None:
    plain = " ".join(text.split())
    # Behind a letter: at a line's beginning a dash would be a list.
    assert MarkdownIt("commonmark").renderInline(f"x{escaped(text)}x") == f"x{plain}x"


def test_parametrised_tests_are_told_apart() -> None:
    runs = [of_parameter("short"), of_parameter("long")]
    assert [row[0] for row in table_rows(markdown(session(runs)))[2:4]] == [
        "test_meets_sla\\[short\\]",
        "test_meets_sla\\[long\\]",
    ]


def of_parameter(name: str, **changed: object) -> RunDocument:
    """A run of a test with a parameter of its own behind the cell."""
    run = measured(run_id=name)
    return run.model_copy(update={"node_id": f"{run.node_id[:-1]}-{name}]", **changed})


def hostile(run: RunDocument) -> RunDocument:
    return run.model_copy(update={"profile": "a | b\n| c <img src=x>"})


def test_what_is_rendered_is_the_text_that_was_meant() -> None:
    rendered = MarkdownIt("commonmark").enable("table").render(markdown(session([hostile(measured(scale=2.0))])))
    assert "<td>interactive-chat a | b | c &lt;img src=x&gt;</td>" in rendered
    assert "<td>&lt;= 250ms</td>" in rendered
    assert "<strong>suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b] (SIMULATED)</strong>" in rendered
    assert "<img" not in rendered


def test_no_name_breaks_a_table() -> None:
    rows = table_rows(markdown(session([hostile(measured())])))
    assert len({len(row) for row in rows}) == 1
    assert rows[2][2] == "interactive-chat a \\| b \\| c &lt;img src=x>"
