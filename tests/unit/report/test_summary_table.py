"""The session's summary at 80 and 120 columns."""

from __future__ import annotations

from functools import cache
from io import StringIO

import pytest
from rich.console import Console

from pytest_llmperf.errors import ConfigError, UnitError
from pytest_llmperf.report.document import RunDocument
from pytest_llmperf.report.results_v2 import SteadinessPart
from pytest_llmperf.report.tables import DEFAULT_KEYS, render_text, summary_table, warmup_lines
from tests.unit.report.runs import answered, cell, judged, run_of, workload

MIG = cell("h100-mig-3g.40gb", variant="no-prefix-cache")
H100X4 = cell("h100", 4)


@cache
def documents() -> tuple[RunDocument, ...]:
    return (
        judged(run_of(answered(300), run_id="a")),
        judged(run_of(answered(1200, scale=1.8, failures=2), run_id="b", test="test_no_regression")),
        judged(run_of(answered(300, scale=9, tokens=200), run_id="c", of=MIG)),
        judged(run_of(answered(10), run_id="d", of=MIG, profile="poisson 4/s"), {"ttft": {"p95": "1s"}}),
        judged(run_of(answered(300), run_id="e", simulated=False)),
        judged(run_of(answered(0, failures=20), run_id="f", of=H100X4)),
        judged(run_of(answered(300), run_id="g", of=H100X4, doing=workload("summarization"), invalid=("late",))),
    )


def text(width: int, **options: object) -> str:
    return render_text(summary_table(documents(), width, **options), width)  # type: ignore[arg-type]


AT_80 = """\
                          TTFT s     TPOT ms       E2E s
cell            reqs   p50/95/99   p50/95/99   p50/95/99 tok/s err% verdict
gke_h100_standalone_llama-3.1-8b (SIMULATED)
 test_meets_sla  300 .19/.29/.30    20/20/20 .23/.33/.34  29.8    0 PASS
 test_no_regression
                1202 .37/.54/.54    36/36/36 .44/.61/.61  29.9 0.17 FAIL
gke_h100-mig-3g.40gb_standalone_llama-3.1-8b_no-prefix-cache (SIMULATED)
 test_meets_sla poisson 10/s
                 300 1.8/2.6/2.7 180/180/180    38/38/39   745    0 FAIL
 test_meets_sla poisson 4/s
                  10 .14/.19/.19    20/20/20 .18/.23/.23     3    0 INCONCLUSIVE
gke_h100_standalone_llama-3.1-8b
 test_meets_sla  300 .19/.29/.30    20/20/20 .23/.33/.34  29.8    0 PASS
gke_h100x4_standalone_llama-3.1-8b (SIMULATED)
 test_meets_sla interactive-chat
                  20 inf/inf/inf inf/inf/inf inf/inf/inf     0  100 FAIL
 test_meets_sla summarization
                 300 .19/.29/.30    20/20/20 .23/.33/.34  29.8    0 INVALID
"""

AT_120 = """\
                                             TTFT s      TPOT ms        E2E s
cell                              reqs    p50/95/99    p50/95/99    p50/95/99  tok/s  err%  verdict
gke_h100_standalone_llama-3.1-8b (SIMULATED)
 test_meets_sla                    300  .19/.29/.30     20/20/20  .23/.33/.34   29.8     0  PASS
 test_no_regression               1202  .37/.54/.54     36/36/36  .44/.61/.61   29.9  0.17  FAIL
gke_h100-mig-3g.40gb_standalone_llama-3.1-8b_no-prefix-cache (SIMULATED)
 test_meets_sla poisson 10/s       300  1.8/2.6/2.7  180/180/180     38/38/39    745     0  FAIL
 test_meets_sla poisson 4/s         10  .14/.19/.19     20/20/20  .18/.23/.23      3     0  INCONCLUSIVE
gke_h100_standalone_llama-3.1-8b
 test_meets_sla                    300  .19/.29/.30     20/20/20  .23/.33/.34   29.8     0  PASS
gke_h100x4_standalone_llama-3.1-8b (SIMULATED)
 test_meets_sla interactive-chat    20  inf/inf/inf  inf/inf/inf  inf/inf/inf      0   100  FAIL
 test_meets_sla summarization      300  .19/.29/.30     20/20/20  .23/.33/.34   29.8     0  INVALID
"""

BY_TEST_AT_80 = """\
                          TTFT s     TPOT ms       E2E s
test            reqs   p50/95/99   p50/95/99   p50/95/99 tok/s err% verdict
test_meets_sla
 gke_h100_standalone_llama-3.1-8b
                 300 .19/.29/.30    20/20/20 .23/.33/.34  29.8    0 PASS
test_meets_sla (SIMULATED)
 gke_h100-mig-3g.40gb_standalone_llama-3.1-8b_no-prefix-cache poisson 10/s
                 300 1.8/2.6/2.7 180/180/180    38/38/39   745    0 FAIL
 gke_h100-mig-3g.40gb_standalone_llama-3.1-8b_no-prefix-cache poisson 4/s
                  10 .14/.19/.19    20/20/20 .18/.23/.23     3    0 INCONCLUSIVE
 gke_h100_standalone_llama-3.1-8b
                 300 .19/.29/.30    20/20/20 .23/.33/.34  29.8    0 PASS
 gke_h100x4_standalone_llama-3.1-8b poisson 10/s interactive-chat
                  20 inf/inf/inf inf/inf/inf inf/inf/inf     0  100 FAIL
 gke_h100x4_standalone_llama-3.1-8b poisson 10/s summarization
                 300 .19/.29/.30    20/20/20 .23/.33/.34  29.8    0 INVALID
test_no_regression (SIMULATED)
 gke_h100_standalone_llama-3.1-8b
                1202 .37/.54/.54    36/36/36 .44/.61/.61  29.9 0.17 FAIL
"""


def test_at_80_columns() -> None:
    assert text(80) == AT_80


def test_at_120_columns() -> None:
    assert text(120) == AT_120


def test_by_test_at_80_columns() -> None:
    assert text(80, group_by="test", sort="name") == BY_TEST_AT_80


@pytest.mark.parametrize("width", [60, 79, 80, 100, 120, 200])
@pytest.mark.parametrize("group_by", ["cell", "workload", "test", "hardware", "model"])
def test_nothing_is_wider_than_the_terminal_and_no_name_is_cut(width: int, group_by: str) -> None:
    table = text(width, group_by=group_by)
    assert max(map(len, table.splitlines())) <= width
    unfolded = " ".join(table.split())
    for document in documents():
        assert document.test in unfolded
        assert document.cell.id in unfolded


def test_a_name_longer_than_the_terminal_goes_on_below() -> None:
    table = text(40)
    assert max(map(len, table.splitlines())) <= 40
    assert MIG.id in table.replace("\n ", "").replace("\n", "")


@pytest.mark.parametrize("group_by", ["cell", "workload", "test", "hardware", "model"])
def test_simulated_and_measured_runs_never_stand_under_one_heading(group_by: str) -> None:
    real, simulated = judged(run_of(answered(60), simulated=False)), judged(run_of(answered(60)))
    table = render_text(summary_table([real, simulated], 80, group_by=group_by), 80)
    headings = [line for line in table.splitlines()[2:] if not line.startswith(" ")]
    assert len(headings) == 2
    assert [heading.endswith("(SIMULATED)") for heading in headings] == [False, True]


def test_runs_are_in_the_order_given_or_by_name_or_best_first() -> None:
    def order(sort: str | None) -> list[str]:
        runs = [
            judged(run_of(answered(60, scale=scale), test=test), {"ttft": {"p50": "9s"}})
            for test, scale in [("test_b", 2.0), ("test_c", 1.0), ("test_a", 3.0)]
        ]
        lines = render_text(summary_table(runs, 80, sort=sort), 80).splitlines()
        return [line.split()[0] for line in lines if line.startswith(" test_")]

    assert order(None) == ["test_b", "test_c", "test_a"]
    assert order("name") == ["test_a", "test_b", "test_c"]
    assert order("ttft_p99") == ["test_c", "test_b", "test_a"]
    assert order("output_tokens_per_s")[0] in {"test_c", "test_b"}


def test_a_run_without_the_value_comes_last() -> None:
    runs = [judged(run_of([], test="test_empty")), judged(run_of(answered(60), test="test_full"))]
    table = render_text(summary_table(runs, 80, sort="ttft_p99"), 80)
    assert table.index("test_full") < table.index("test_empty")


def test_the_runs_of_an_experiment_are_told_apart_by_their_labels() -> None:
    pair = [judged(run_of(answered(10), run_id=arm)).model_copy(update={"label": f"{arm} 1 of 8"}) for arm in "AB"]
    plain = judged(run_of(answered(10), run_id="c"))
    lines = render_text(summary_table([*pair, plain], 120), 120).splitlines()[3:]
    assert [line.partition("  ")[0].strip() for line in lines] == [
        "test_meets_sla A 1 of 8",
        "test_meets_sla B 1 of 8",
        "test_meets_sla",
    ]


def test_a_longer_warmup_is_told() -> None:
    cut = judged(run_of(answered(10))).model_copy(update={"steadiness": SteadinessPart(extra_warmup_s=26.0, unstable="")})
    told = list(warmup_lines([*documents(), cut], 80))
    assert " ".join(line.strip() for line in told) == (
        "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]: warm-up lengthened by 26s, "
        "since TPOT had not settled before"
    )
    assert max(map(len, told)) <= 80


def test_runs_that_are_alike_are_numbered() -> None:
    runs = [judged(run_of(answered(60), run_id=str(i))) for i in range(2)]
    table = render_text(summary_table(runs, 120), 120)
    assert " test_meets_sla #1 " in table
    assert " test_meets_sla #2 " in table


def test_columns_are_what_was_asked_for_with_neighbours_together() -> None:
    table = render_text(summary_table(documents()[:1], 80, columns=["itl_p50", "itl_max", "goodput"]), 80)
    assert table.splitlines()[0].split() == ["ITL", "ms"]
    assert table.splitlines()[1].split() == ["cell", "reqs", "p50/max", "goodput", "%"]
    assert table.splitlines()[3].split() == ["test_meets_sla", "300", "20/20", "100", "PASS"]


def test_columns_that_do_not_fit_follow_below() -> None:
    table = render_text(summary_table(documents()[:2], 80, columns=[*DEFAULT_KEYS, "goodput", "itl_p99", "cost_per_mtok"]), 80)
    assert max(map(len, table.splitlines())) <= 80
    assert table.count("test_meets_sla") == 2
    assert "$19.60" in table


def test_a_metric_that_no_document_holds_is_a_dash() -> None:
    table = render_text(summary_table(documents()[:1], 80, columns=["itl_p12"]), 80)
    assert table.splitlines()[-1].split() == ["test_meets_sla", "300", "-", "PASS"]


def test_mistakes_are_named() -> None:
    with pytest.raises(UnitError, match="did you mean 'ttft'"):
        summary_table(documents(), 80, columns=["tfft_p99"])
    with pytest.raises(UnitError):
        summary_table(documents(), 80, sort="speed")
    with pytest.raises(ConfigError, match="unknown grouping 'gpu'"):
        summary_table(documents(), 80, group_by="gpu")


def test_no_runs_is_said() -> None:
    assert render_text(summary_table([], 80), 80) == "no runs\n"


def test_a_terminal_gets_colours_and_the_same_text() -> None:
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    with console.capture() as captured:
        console.print(summary_table(documents(), 80))
    coloured = captured.get()
    assert "\x1b[32mPASS" in coloured
    assert "\x1b[1;31mFAIL" in coloured
