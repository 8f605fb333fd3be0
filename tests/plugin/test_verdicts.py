"""Verdicts of real loads: under both policies, settled while the load runs, graded, and what becomes of a test without one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

Sessions = Callable[..., pytest.RunResult]

MATRIX = """
default: {platforms: [gke], hardware: [h100], models: [llama-3.1-8b]}
"""
# Ten such documents a second are more than three times what one H100 can take.
WORKLOADS = """
documents:
  title: Documents
  input: {mean: 6000}
  output: {mean: 256}
  warmup: 1s
labels:
  title: Labels
  input: {mean: 128}
  output: {mean: 8}
  warmup: 500ms
flags:
  title: Flags, answered so soon that one hardly meets another
  input: {mean: 64}
  output: {mean: 2}
  warmup: 500ms
"""
SETTLED = """
import pytest
from pytest_llmperf import poisson

@pytest.mark.llmperf(workload="documents", sla={"ttft": {"p99": "500ms"}})
def test_overloaded(load, sla):
    assert load(poisson("10/s"), "120s", until=sla).meets(sla)

@pytest.mark.llmperf(workload="flags", sla={"ttft": {"p50": "3s"}})
def test_calm(load, sla):
    assert load(poisson("100/s"), "90s", until=sla).meets(sla)
"""
JUDGED = """
import pytest
from pytest_llmperf import constant, poisson

@pytest.fixture
def baseline():
    return "the suite's own: no reason to skip a test that uses it"

@pytest.mark.llmperf(workload="labels", sla={"ttft": {"p99": "3s"}})
def test_few(load, sla, baseline):
    assert load(poisson("20/s"), "1s").meets(sla)

@pytest.mark.llmperf(workload="labels", sla={"e2e": {"p50": {"target": "1ms", "acceptable": "3s", "poor": "5s"}}})
def test_graded(load, sla):
    assert load(constant("20/s"), "1s", until=sla).meets(sla)

@pytest.mark.llmperf(workload="labels", sla={"e2e": {"p50": {"target": "1ms", "acceptable": "2ms", "poor": "5s"}}})
def test_poor(load, sla):
    assert load(constant("20/s"), "1s").meets(sla)
"""


def write(pytester: pytest.Pytester, suite: str) -> None:
    pytester.makepyfile(test_suite=suite)
    folder = pytester.mkdir("fixtures")
    (folder / "matrix.yaml").write_text(MATRIX)
    (folder / "workloads.yaml").write_text(WORKLOADS)


def runs_by_test(pytester: pytest.Pytester) -> dict[str, dict[str, Any]]:
    """The session's runs, which are the same on disk, by the name of their test."""
    runs = json.loads((pytester.path / "out.json").read_text())["runs"]
    for run in runs:
        assert json.loads((pytester.path / ".llmperf" / "runs" / run["run_id"] / "run.json").read_text()) == run
    return {run["node_id"].partition("::")[2].partition("[")[0]: run for run in runs}


def check_overloaded(run: dict[str, Any], policy: str) -> None:
    """It failed within ten seconds, and every request that was sent by then was finished and counted."""
    stopped, counts = run["stopped"], run["counts"]
    assert (run["verdict"], run["sla"]["policy"], stopped["outcome"]) == ("FAIL", policy, "FAIL")
    assert stopped["at_s"] - run["workload"]["warmup_s"] <= 10
    assert stopped["saved_s"] > 100
    assert re.fullmatch(r"TTFT p99 <= 500ms: \d+ of \d+ requests are beyond the limit, \d+x as many as may be", stopped["reason"])
    assert counts["cancelled"] == counts["failed"] == 0
    assert counts["total"] == counts["ok"] > 0
    assert run["client"]["planned_requests"] == run["client"]["sent_requests"] == counts["total"] + counts["warmup"]
    assert run["client"]["distrust"] == []


def test_an_overloaded_cell_fails_within_ten_seconds(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester, SETTLED)
    result = llmperf("-k", "overloaded", "--llmperf-json=out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    check_overloaded(runs_by_test(pytester)["test_overloaded"], "measured")
    result.stdout.re_match_lines(
        [
            r"  FAIL was settled after \d+(\.\d+)?s: TTFT p99 <= 500ms: \d+ of \d+ requests are beyond the limit",
            r"E .*SLA inline: FAIL \(SIMULATED: no real server was measured\)",
            r"1 of 1 loads ended early, their verdict settled: 1m\d+s of load saved",
        ]
    )


def test_certain_settles_fail_and_pass(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester, SETTLED)
    result = llmperf("--llmperf-policy=certain", "--llmperf-json=out.json")
    result.assert_outcomes(passed=1, failed=1)
    runs = runs_by_test(pytester)
    check_overloaded(runs["test_overloaded"], "certain")
    calm = runs["test_calm"]
    assert (calm["verdict"], calm["sla"]["policy"], calm["stopped"]["outcome"]) == ("PASS", "certain", "PASS")
    assert calm["stopped"]["reason"].startswith("every limit is kept: TTFT p50 <= 3s, e-value above 1,000,000 (needs 20): ")
    assert calm["stopped"]["saved_s"] > 0
    assert calm["counts"]["cancelled"] == 0
    assert calm["counts"]["total"] == calm["counts"]["ok"]
    assert "2 of 2 loads ended early, their verdict settled: " in result.stdout.str()
    assert "SLA inline (certain): FAIL" in result.stdout.str()


def test_what_is_neither_pass_nor_fail_and_what_lies_between(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester, JUDGED)
    strict = llmperf("--llmperf-json=out.json")
    strict.assert_outcomes(failed=3)
    runs = runs_by_test(pytester)
    assert {name: run["verdict"] for name, run in runs.items()} == {
        "test_few": "INCONCLUSIVE",
        "test_graded": "FAIL",
        "test_poor": "FAIL",
    }
    assert re.search(r"TTFT p99: needs 2\d\d more samples \(\d\d of 299\)", strict.stdout.str())
    assert graded(runs["test_graded"]) == ("target", "FAIL", "acceptable", 0.001)
    # The gate is an option, as is what INCONCLUSIVE does; the verdict stays what it is.
    gate = ("--llmperf-gate=acceptable", "--llmperf-json=out.json")
    skipping = llmperf("--llmperf-inconclusive=skip", "-rs", *gate)
    assert skipping.ret == pytest.ExitCode.TESTS_FAILED
    skipping.assert_outcomes(passed=1, skipped=1, failed=1)
    assert re.search(r"SKIPPED \[1\] .*INCONCLUSIVE: TTFT p99: needs 2\d\d more samples", skipping.stdout.str())
    runs = runs_by_test(pytester)
    assert graded(runs["test_graded"]) == ("acceptable", "PASS", "acceptable", 3.0)
    assert graded(runs["test_poor"]) == ("acceptable", "FAIL", "poor", 0.002)
    assert runs["test_graded"]["stopped"] is None, "'measured' settles no PASS: it takes the whole load"
    assert re.search(r"E\s+E2E p50 .* FAIL \(poor\)", skipping.stdout.str())
    passing = llmperf("--llmperf-inconclusive=pass", "-k", "few", *gate)
    assert passing.ret == pytest.ExitCode.OK
    passing.assert_outcomes(passed=1, deselected=2, warnings=1)
    assert "LlmperfWarning: SLA inline: INCONCLUSIVE (SIMULATED" in passing.stdout.str()
    assert runs_by_test(pytester)["test_few"]["verdict"] == "INCONCLUSIVE"


def graded(run: dict[str, Any]) -> tuple[str, str, str, float]:
    """The gate, the verdict, the grade that was reached, and the limit that was asked for."""
    (check,) = run["sla"]["checks"]
    return run["sla"]["gate"], run["verdict"], check["grade"], check["limit"]


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--llmperf-policy=sure", "--llmperf-policy: unknown policy 'sure'"),
        ("--llmperf-invalid=pass", "--llmperf-invalid: unknown treatment of INVALID 'pass'"),
        ("--llmperf-gate=poor", "--llmperf-gate: unknown gate 'poor'"),
    ],
)
def test_settings_that_do_not_exist(argument: str, problem: str, llmperf: Sessions) -> None:
    result = llmperf(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert problem in result.stderr.str()
