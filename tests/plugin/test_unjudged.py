"""An INVALID run passes no test: not where nothing judged it either, be it a run of ``load`` or a point of a sweep."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from tests.plugin.baseline_sessions import STALL, stored, write

Sessions = Callable[..., pytest.RunResult]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds a load worker in /proc")

SUITE = (
    STALL
    + """
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="labels", sla={"e2e": {"p50": "5s"}})

@pytest.fixture
def stall(deployment):
    threading.Thread(target=stop_the_worker_for_a_second, args=(deployment.endpoint.base_url,)).start()

def test_load(stall, load):
    assert load(constant("20/s"), "1500ms", label="stress")["error_rate"] == 0

def test_sweep(stall, sweep):
    assert sweep([constant("20/s")], "1500ms")[-1]["error_rate"] == 0

def test_saved(stall, load, baseline):
    assert baseline.holds(load(constant("20/s"), "1500ms"))

def test_looked_at(stall, load, sla):
    assert load(constant("20/s"), "1500ms").judge(sla).outcome == "INVALID"

def test_failed(stall, load):
    load(constant("20/s"), "1500ms")
    assert 1 == 2, "its own failure"

def test_skipped(stall, load):
    load(constant("20/s"), "1500ms")
    pytest.skip("by itself")

def test_measured_again(stall, compare_variants):
    assert len(compare_variants("default", "default", constant("20/s"), "1s", margin="100%", pairs=3).pairs) == 3

@pytest.fixture
def afterwards(stall, load):
    yield
    load(constant("20/s"), "1500ms", label="late")

def test_torn_down(afterwards):
    pass
"""
)


def test_an_invalid_run_that_nothing_judged_fails_its_test(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, SUITE)
    result = llmperf("--llmperf-save=main", "-rs")
    result.assert_outcomes(failed=4, passed=3, skipped=1, errors=1)
    text = result.stdout.str()
    late = r"worker 0 (sent its requests|read its answers) late"
    unjudged = re.findall(rf"^INVALID, and nothing judged it: (late|stress|constant 20/s): {late}", text, re.MULTILINE)
    assert [label for label, _ in unjudged] == ["late", "stress", "constant 20/s", "constant 20/s"], "errors come first"
    assert text.count("  run.meets(sla) and run.judge(sla) judge a run; ") == 4
    # A test that has failed or skipped keeps its own reason.
    assert "AssertionError: its own failure" in text
    assert re.search(r"SKIPPED \[1\] test_suite.py:\d+: by itself", text)
    invalid = {run["node_id"].partition("[")[0] for run in stored(pytester.path) if run["verdict"] == "INVALID"}
    assert len(invalid) == 8, "every test had an INVALID run, also that whose pair was measured again"


def test_what_is_invalid_may_skip_its_test(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, SUITE)
    result = llmperf("--llmperf-invalid=skip", "-k", "test_sweep", "-rs")
    result.assert_outcomes(skipped=1, deselected=7)
    assert re.search(r"SKIPPED \[1\] .*INVALID, and nothing judged it: constant 20/s: worker 0", result.stdout.str())
