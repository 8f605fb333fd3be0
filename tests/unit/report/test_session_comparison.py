"""A session beside a baseline: what regressed, what could not be compared, and what was left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.errors import Where
from pytest_llmperf.judge.tolerance import Tolerance, parse_tolerances
from pytest_llmperf.report.results_v2 import RunDocument
from pytest_llmperf.report.session_comparison import SessionComparison, compare_saved
from tests.unit.report.stored import CONDITIONS, measured, save

OTHER = {**CONDITIONS, "engine max-num-seqs": "256"}


def gates(*texts: str) -> dict[str, Tolerance]:
    return parse_tolerances(texts, Where(option="--fail"))


def compared(storage: Path, before: list[RunDocument], now: list[RunDocument], *fail: str) -> SessionComparison:
    return compare_saved(save(storage, "main", *before), save(storage, "pr", *now), gates(*fail))


def test_only_a_gated_metric_regresses_a_session(tmp_path: Path) -> None:
    slow = compared(tmp_path, [measured()], [measured(2.0)])
    assert "REGRESSED" in slow.text()
    assert not slow.regressed
    assert "- nothing was gated (--fail), so the exit status does not tell of what regressed" in slow.text().splitlines()
    assert compared(tmp_path, [measured()], [measured(2.0)], "ttft_p50:10%").regressed
    assert not compared(tmp_path, [measured()], [measured(2.0)], "error_rate:5%").regressed
    assert not compared(tmp_path, [measured(2.0)], [measured()], "ttft_p50:10%").regressed


@pytest.mark.parametrize(
    "now",
    [
        measured(conditions=OTHER),
        measured().model_copy(update={"verdict": "INVALID"}),
        measured(test="test_another"),
        measured().model_copy(update={"label": "8/s"}),
    ],
    ids=["other conditions", "invalid", "no test in common", "only parts of experiments"],
)
def test_what_cannot_be_compared(tmp_path: Path, now: RunDocument) -> None:
    other = compared(tmp_path, [measured()], [now], "ttft_p50:10%")
    assert other.incomparable
    assert not other.regressed


def test_a_gated_metric_that_is_gone_cannot_be_compared(tmp_path: Path) -> None:
    run = measured()
    without = run.model_copy(update={"metrics": {key: part for key, part in run.metrics.items() if key != "ttft_p50"}})
    assert compared(tmp_path, [run], [without], "ttft_p50:10%").incomparable
    assert not compared(tmp_path, [run], [without], "tpot_p95:10%").incomparable


def test_a_new_test_beside_one_that_is_compared_is_told_and_no_more(tmp_path: Path) -> None:
    both = compared(tmp_path, [measured()], [measured(), measured(test="test_another")], "ttft_p50:50%")
    assert not both.incomparable
    assert "pr beside 0001_main: 1 unchanged, 1 new" in both.text()


def test_a_new_cell_beside_one_that_is_compared_is_told_and_no_more(tmp_path: Path) -> None:
    both = compared(tmp_path, [measured()], [measured(), measured(hardware="l40s")], "ttft_p50:50%")
    assert not both.incomparable
    assert "pr beside 0001_main: 1 unchanged, 1 new" in both.text()
    assert compared(tmp_path, [measured()], [measured(hardware="l40s")], "ttft_p50:50%").incomparable


def test_what_neither_session_measured_changes_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, [measured()], [measured()], "ttft_p50:50%", "itl_p99.9:10%")
    assert not found.incomparable
    assert "1 unchanged" in found.text()


def test_what_only_the_baseline_has_is_told(tmp_path: Path) -> None:
    text = compared(tmp_path, [measured(), measured(test="test_gone", run_id="gone")], [measured()]).text()
    assert "- only in 0001_main:\n  suites/test_chat.py::test_gone[gke_h100_standalone_llama-3.1-8b]" in text
    assert "test_meets_sla" not in text.partition("beside")[2]


def test_parts_of_experiments_are_counted(tmp_path: Path) -> None:
    rates = [measured(run_id=rate).model_copy(update={"label": f"{rate}/s"}) for rate in ("2", "4")]
    text = " ".join(compared(tmp_path, [measured()], [measured(), *rates]).text().split())
    assert "- 2 runs of 0002_pr are parts of experiments (capacity, sweep, A/B) and are not compared" in text


def test_it_is_no_wider_than_80_columns(tmp_path: Path) -> None:
    lines = compared(tmp_path, [measured(), measured(hardware="l40s")], [measured(), measured(test="test_b")]).text().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]"
