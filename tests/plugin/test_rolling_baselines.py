"""Every session is held against the one before it and saved as the next: a regression does not become the baseline."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.plugin.baseline_sessions import GATE, STALL, Sessions, refused, results, slow_down, stored, write

ROLL = ("--llmperf-compare=roll", "--llmperf-save=roll")
TWO = """
import pytest
from pytest_llmperf import concurrency

pytestmark = pytest.mark.llmperf(workload="labels")

@pytest.mark.llmperf(tolerance={"tpot_p50": "10%"})
def test_gated(load):
    load(concurrency(4), "1s")

def test_other(load):
    load(concurrency(4), "500ms")
"""


def test_a_regression_fails_night_after_night(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, TWO)
    repeat = "--llmperf-repeat=2"
    llmperf("--llmperf-save=roll", repeat).assert_outcomes(passed=4)
    slow_down(pytester.path)
    first = llmperf(*ROLL, repeat)
    first.assert_outcomes(passed=3, failed=1)
    # Only the last repetition fails; those before it are as slow.
    assert "saved as baseline 0002_roll: 2 of 4 runs" in first.stdout.str()
    assert "run1of2]: another repetition of its test failed" in first.stdout.str()

    saved = pytester.path / ".llmperf" / "saved"
    (saved / "0004_roll.json").write_bytes((saved / "0002_roll.json").read_bytes())
    (saved / "0003_roll.json").write_text("{")
    second = llmperf(*ROLL, repeat, "--llmperf-json=out.json")
    second.assert_outcomes(passed=3, failed=1, warnings=1)
    assert "GateError: baseline 0001_roll: REGRESSED" in second.stdout.str()
    assert re.search(r"LlmperfWarning: passed over: .*0003_roll\.json: is no results document", second.stdout.str())
    parts = {run["test"]: run["comparison"] for run in with_comparison(pytester)}
    assert {test: part["baseline"] for test, part in parts.items()} == {"test_gated": "0001_roll", "test_other": "0004_roll"}
    assert parts["test_gated"]["note"].startswith("0004_roll has no such run, 0001_roll is the last before it that has")

    # What is chosen by its number stands alone.
    alone = llmperf("--llmperf-compare=4", repeat, "--llmperf-json=out.json")
    alone.assert_outcomes(passed=4)
    parts = {run["test"]: run["comparison"] for run in with_comparison(pytester)}
    assert parts["test_gated"]["verdict"] == "new"


def with_comparison(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    """The runs of the session that were compared, each with its test's name."""
    runs = [run for run in results(pytester.path)["runs"] if run["comparison"] is not None]
    return [{**run, "test": run["node_id"].partition("::")[2].partition("[")[0]} for run in runs]


EVASIVE = """
import os
import pytest
from pytest_llmperf import concurrency

LOAD = concurrency(4), "800ms"
pytestmark = pytest.mark.llmperf(workload="labels", tolerance={"tpot_p50": "10%"})

def skip_the_last(request):
    if "run2of2" in request.node.name and "SKIP_LAST" in os.environ:
        pytest.skip("enough")

@pytest.fixture
def quota(request):
    skip_the_last(request)

def test_skipped(load, request):
    skip_the_last(request)
    load(*LOAD)

def test_skipped_before(quota, load):
    load(*LOAD)

@pytest.mark.llmperf(tolerance={})
def test_holds(load, baseline, request):
    skip_the_last(request)
    assert baseline.holds(load(*LOAD))

def test_late(deployment, request):
    request.getfixturevalue("load")(*LOAD)

@pytest.mark.parametrize("shard", ["1of2", "2of2"])
def test_shard(load, shard):
    load(*LOAD)

@pytest.mark.xfail(reason="known to be slow")
def test_expected(load):
    load(*LOAD)
"""


def test_no_way_around_the_gate(pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pytester.path, EVASIVE)
    first = llmperf("--llmperf-save=roll", "--llmperf-repeat=2")
    assert "saved as baseline 0001_roll: 13 of 13 runs" in first.stdout.str()
    slow_down(pytester.path)
    monkeypatch.setenv("SKIP_LAST", "1")
    slow = llmperf(*ROLL, "--llmperf-repeat=2", "--llmperf-json=out.json", "-rfEx")
    text = slow.stdout.str()
    failed = set(re.findall(r"(?m)^(?:FAILED|ERROR|XFAIL) test_suite\.py::(\w+)", text))
    assert failed == {"test_skipped", "test_skipped_before", "test_holds", "test_late", "test_shard", "test_expected"}
    slow.assert_outcomes(passed=5, failed=5, errors=1, xfailed=1, xpassed=1)
    assert "no baseline is saved: none of 10 runs may be in one" in text
    # One shard is no repetition of the other: each is compared.
    compared = with_comparison(pytester)
    assert [run["test"] for run in compared].count("test_shard") == 2
    assert len({run["run_id"] for run in results(pytester.path)["runs"]}) == len(results(pytester.path)["runs"]) == 10


SILENT = """
import pytest
from pytest_llmperf import concurrency

@pytest.mark.llmperf(workload="labels")
def test_streams(load):
    load(concurrency(4), "800ms")

@pytest.mark.llmperf(workload="silent")
def test_silent(load):
    load(concurrency(4), "800ms")
"""


def test_a_metric_that_no_run_of_a_test_has_cannot_be_gated(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, SILENT)
    llmperf("--llmperf-save=both").assert_outcomes(passed=2)
    llmperf("--llmperf-save=silent", "-k", "silent").assert_outcomes(passed=1, deselected=1)
    gate = "--llmperf-compare-fail=ttft_p50:100%"
    llmperf("--llmperf-compare=both", gate).assert_outcomes(passed=2)
    for path in (pytester.path / ".llmperf" / "runs").glob("*/*"):
        path.unlink()
    none = refused(llmperf("--llmperf-compare=silent", gate, "-k", "silent"), pytester.path)
    assert "--llmperf-compare-fail: no run of baseline '0002_silent' that could be compared has a value of TTFT p50" in none
    suite = (pytester.path / "test_suite.py").read_text()
    (pytester.path / "test_suite.py").write_text(suite.replace('"silent")', '"silent", tolerance={"ttft_p50": "5%"})'))
    marked = refused(llmperf("--llmperf-compare=both"), pytester.path)
    assert re.search(r"test_suite\.py:\d+: marker llmperf: no run of baseline '0001_both' .* has a value of TTFT p50", marked)


STALLED = (
    STALL
    + """
import pytest
from pytest_llmperf import constant

@pytest.mark.llmperf(workload="labels", tolerance={"tpot_p50": "10%"})
def test_stalled(load, deployment):
    if "STALLED" in os.environ:
        threading.Thread(target=stop_the_worker_for_a_second, args=(deployment.endpoint.base_url,)).start()
    load(constant("20/s"), "1500ms")

@pytest.mark.llmperf(workload="labels")
def test_stalled_and_held(load, baseline, deployment):
    if "STALLED" in os.environ:
        threading.Thread(target=stop_the_worker_for_a_second, args=(deployment.endpoint.base_url,)).start()
    assert baseline.holds(load(constant("20/s"), "1500ms"))
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="finds a load worker in /proc")
def test_an_invalid_run_is_treated_as_the_session_says(
    pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(pytester.path, STALLED)
    llmperf("--llmperf-save=main").assert_outcomes(passed=2)
    monkeypatch.setenv("STALLED", "1")
    skipped = llmperf("--llmperf-compare=main", "--llmperf-invalid=skip", "-rs")
    skipped.assert_outcomes(skipped=2)
    failed = llmperf("--llmperf-compare=main", "--llmperf-json=out.json")
    failed.assert_outcomes(failed=2)
    assert "GateError: INVALID: worker 0 " in failed.stdout.str()
    assert "RegressionError: INVALID: worker 0 " in failed.stdout.str()
    # A baseline of such runs is known to be of no use.
    for path in (pytester.path / ".llmperf" / "runs").glob("*/*"):
        path.unlink()
    error = refused(llmperf("--llmperf-compare=out.json", GATE), pytester.path)
    assert "baseline 'out.json' cannot be compared with test_suite.py::test_stalled[" in error
    assert ": its run is INVALID: worker 0 " in error
    document = json.loads((pytester.path / "out.json").read_text())
    assert [run["comparison"]["verdict"] for run in document["runs"]] == ["incomparable"] * 2
    assert not stored(pytester.path)


LATE = """
import pytest
from pytest_llmperf import concurrency

@pytest.mark.llmperf(workload="labels")
def test_shown(load):
    load(concurrency(4), "500ms")

@pytest.mark.llmperf(workload="silent", tolerance={"e2e_p50": "10%"})
def test_changed(load):
    load(concurrency(4), "500ms")

@pytest.fixture
def afterwards(load):
    yield
    load(concurrency(4), "800ms")

@pytest.mark.llmperf(workload="labels", tolerance={"tpot_p50": "10%"})
def test_late(afterwards):
    pass
"""


def test_an_older_run_that_does_not_fit_fails_its_own_test_and_a_teardown_is_no_way_around_the_gate(
    pytester: pytest.Pytester, llmperf: Sessions
) -> None:
    write(pytester.path, LATE)
    first = llmperf("--llmperf-save=roll")
    assert "saved as baseline 0001_roll: 3 of 3 runs" in first.stdout.str()
    llmperf(*ROLL, "-k", "shown").assert_outcomes(passed=1, deselected=2)
    slow_down(pytester.path)
    workloads = pytester.path / "fixtures" / "workloads.yaml"
    labels, silent, changed = workloads.read_text().partition("silent:")
    workloads.write_text(labels + silent + changed.replace("mean: 24", "mean: 30"))
    third = llmperf(*ROLL)
    third.assert_outcomes(passed=2, failed=1, errors=1)
    text = third.stdout.str()
    assert "GateError: baseline 0001_roll: INCOMPARABLE" in text
    assert "output: fixed 24 -> fixed 30" in text
    assert re.search(r"ERROR at teardown of test_late\[.*\n(.*\n)?GateError: baseline 0001_roll: REGRESSED", text)
    assert "saved as baseline 0003_roll: 1 of 3 runs" in text
