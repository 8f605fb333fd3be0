"""The session's files for Allure."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pytest_llmperf.report.allure_metrics import samples_of
from pytest_llmperf.report.allure_session import CATEGORIES, environment_properties, session_files
from pytest_llmperf.report.ci_run import ci_run
from pytest_llmperf.report.document import run_document, session_document
from pytest_llmperf.report.results_v2 import RunDocument, SessionDocument
from tests.unit.report.runs import answered, cell, judged, run_of
from tests.unit.report.test_ci_run import GITHUB

TABLE = "metric  required\nTTFT p50  <= 1s  100ms  PASS\nE2E p99  <= 1s  9s  FAIL"
SLA_MISS = "pytest_llmperf.plugin.load.SlaMissError: SLA chat (at acceptable): "


def session_of(*runs: RunDocument) -> SessionDocument:
    return session_document(runs, created=0.0, arguments=[], target="sim", simulated=True)


@pytest.mark.parametrize(
    ("status", "message", "category"),
    [
        ("failed", f"{SLA_MISS}FAIL (SIMULATED: no real server was measured)\n{TABLE}", "SLA miss"),
        ("failed", f"{SLA_MISS}\nFAIL\n{TABLE}", "SLA miss"),
        ("failed", f"pytest_llmperf.plugin.asserted.ExperimentMissError: FAIL: below\n{TABLE}", "SLA miss"),
        ("failed", f"{SLA_MISS}INVALID\n{TABLE}", "Invalid measurement"),
        ("failed", "Failed: INVALID, and nothing judged it: poisson 4/s: late", "Invalid measurement"),
        ("skipped", "Skipped: INVALID: late", "Invalid measurement"),
        ("failed", f"{SLA_MISS}INCONCLUSIVE\n{TABLE}", "Inconclusive"),
        ("skipped", "Skipped: INCONCLUSIVE: 20 requests", "Inconclusive"),
        ("broken", "pytest_llmperf.errors.DeployError: gke_h100: no image\n  log tail:", "Deployment fault"),
        ("failed", "AssertionError: assert 3 < 2", "Product defect"),
        ("failed", f"pytest_llmperf.plugin.baseline.RegressionError: worse\n{TABLE}", "Product defect"),
        ("broken", "KeyError: 'x'", None),
        ("skipped", "Skipped: gke_t4: the model does not fit", None),
    ],
)
def test_a_cause_is_one_category(status: str, message: str, category: str | None) -> None:
    """In Allure 3, where an expression is searched, and in Allure 2, where it has to match the whole message."""
    files = session_files(session_of(), None, "h")
    searched = [each.name for each in CATEGORIES if status in each.statuses and re.search(each.message, message)]
    matched = [
        each["name"]
        for each in json.loads(files["categories.json"])
        if status in each["matchedStatuses"] and re.fullmatch(each["messageRegex"], message)
    ]
    assert searched == matched == ([category] if category else [])


def test_the_configuration_tells_every_metric_that_is_sampled() -> None:
    runs = [judged(run_of(answered(300))), judged(run_of(answered(300), of=cell("l40s"), run_id="b"))]
    files = session_files(session_of(*runs), None, ".llmperf/history.jsonl")
    configuration: dict[str, Any] = json.loads(files["allurerc.json"])
    samples = json.loads(files["llmperf-perf.json"])
    told = configuration["performance"]
    assert {sample["key"] for sample in samples} == set(told["metrics"])
    assert {metric["group"] for metric in told["metrics"].values()} == set(told["groups"])
    assert len({sample["id"] for sample in samples}) == len(samples)
    p99 = "gke_h100_standalone_llama-3.1-8b/interactive-chat/suites/test_chat.py::test_meets_sla/ttft_p99"
    group = "gke_h100_standalone_llama-3.1-8b/interactive-chat"
    assert told["metrics"][p99] == {
        "title": "TTFT p99 of suites/test_chat\u2024py::test_meets_sla",
        "unit": "ms",
        "better": "lower",
        "group": group,
    }
    assert told["groups"][group] == {"title": "Interactive chat on gke_h100_standalone_llama-3\u20241-8b (SIMULATED)"}
    assert configuration["historyPath"] == ".llmperf/history.jsonl"
    (sample,) = [sample for sample in samples if sample["key"] == p99]
    measured = runs[0].metrics["ttft_p99"].value
    assert measured is not None
    assert sample["value"] == pytest.approx(1000 * measured, rel=1e-5)
    assert sample["stop"] - sample["start"] == 30_000


def test_what_shows_nothing_by_itself_is_no_sample() -> None:
    untrusted = run_document(run_of(answered(20), invalid=("late",)), None)
    labelled = run_document(run_of(answered(20)), None).model_copy(update={"label": "4/s"})
    assert list(samples_of([untrusted, labelled])) == []
    assert "llmperf-perf.json" not in session_files(session_of(untrusted), None, "h")


def test_a_tests_second_load_has_a_history_of_its_own() -> None:
    second = run_document(run_of(answered(20)), None).model_copy(update={"ordinal": 2})
    assert all("::test_meets_sla#2/" in sample.key for sample in samples_of([second]))


CELL = "gke_h100_standalone_llama-3.1-8b"


def sampled_of(*node_ids: str) -> tuple[set[str], set[str]]:
    """The keys and the titles of one metric of runs of these tests."""
    run = run_document(run_of(answered(20)), None)
    samples = list(samples_of(run.model_copy(update={"node_id": node_id}) for node_id in node_ids))
    keys = {sample.key for sample in samples if sample.key.endswith("/ttft_p50")}
    return keys, {sample.title for sample in samples if sample.title.startswith("TTFT p50")}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"test_a.py::test_rate[{CELL}-5/s]", f"test_a.py::test_rate[{CELL}-60/s]"),
        (f"test_a.py::test_rate[{CELL}]", f"test_b.py::test_rate[{CELL}]"),
        (f"test_a.py::TestA::test_rate[{CELL}]", f"test_a.py::TestB::test_rate[{CELL}]"),
    ],
)
def test_tests_that_differ_in_anything_have_histories_of_their_own(one: str, other: str) -> None:
    keys, titles = sampled_of(one, other)
    assert len(keys) == len(titles) == 2


def test_repetitions_share_a_history_and_nothing_else_does() -> None:
    keys, titles = sampled_of(*(f"test_a.py::test_rate[{CELL}-run{i}of3-5/s]" for i in (1, 2, 3)))
    assert keys == {f"{CELL}/interactive-chat/test_a.py::test_rate[5/s]/ttft_p50"}
    assert titles == {"TTFT p50 of test_a\u2024py::test_rate[5/s]"}


def test_what_is_unknown_or_without_bound_is_no_sample() -> None:
    failed = run_document(run_of(answered(1, failures=300)), None)
    names = {sample.key.rpartition("/")[2] for sample in samples_of([failed])}
    assert "ttft_p99" not in names
    assert "error_rate" in names


def test_the_executor_is_told_in_a_ci_alone() -> None:
    assert "executor.json" not in session_files(session_of(), None, "h")
    told = json.loads(session_files(session_of(), ci_run(GITHUB), "h")["executor.json"])
    assert told == {
        "name": "GitHub Actions",
        "type": "github",
        "url": "https://github.com/acme/llm/actions",
        "buildOrder": 5,
        "buildName": "nightly #5",
        "buildUrl": "https://github.com/acme/llm/actions/runs/77",
    }


def test_the_environment_lists_what_the_session_ran_on() -> None:
    properties = environment_properties(session_of(judged(run_of(answered(20))), judged(run_of(answered(20), of=cell("l40s")))))
    assert properties["Simulated"] == "yes"
    assert properties["Engine"] == "vLLM 0.32.0"
    assert properties["Cells"] == "gke_h100_standalone_llama-3.1-8b, gke_l40s_standalone_llama-3.1-8b"
    assert all("\n" not in value and value for value in properties.values())


def test_a_session_without_runs_has_an_environment_too() -> None:
    assert environment_properties(session_of())["Cells"] == "-"
