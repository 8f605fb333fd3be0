"""How many processes drive a load: by the plan where nobody says, shared out under xdist, and stated in the results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from pytest_llmperf.load.cores import available_cores
from tests.plugin.baseline_sessions import results

Sessions = Callable[..., pytest.RunResult]

SUITE = """
import pytest
from pytest_llmperf import concurrency

@pytest.mark.llmperf(workload="short")
def test_many_users(load):
    run = load(concurrency(600), requests=600, warmup="0s", label="part")
    assert run["error_rate"] == 0
"""
WORKLOADS = "short: {title: Short, input: {mean: 8}, output: {mean: 2}}\n"
ANY_CLIENT = "--llmperf-trust=lateness_p99:1m,loop_lag_p99:1m,cpu_share:100%,busy_share:0%"


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_suite=SUITE)
    (pytester.mkdir("fixtures") / "workloads.yaml").write_text(WORKLOADS)
    return pytester


def runs(suite: pytest.Pytester) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = results(suite.path)["runs"]
    return found


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_the_cores_are_shared_by_what_runs_side_by_side(suite: pytest.Pytester, llmperf: Sessions, side_by_side: int) -> None:
    xdist = ("-n", str(side_by_side), "--dist", "loadgroup") if side_by_side > 1 else ()
    result = llmperf("-k", "h100 or l40s", "--llmperf-json=out.json", ANY_CLIENT, *xdist)
    result.assert_outcomes(passed=2)
    workers = min(2, available_cores(sharing=side_by_side))
    for run in runs(suite):
        assert (run["counts"]["total"], run["counts"]["ok"], run["errors"]) == (600, 600, {})
        client = run["client"]
        assert client["started_workers"] == len(client["workers"]) == workers
        assert sum(worker["requests"] for worker in client["workers"]) == 600
        short_of = [note for note in client["notes"] if note.startswith("1 of 2 load workers that the plan asks for")]
        assert len(short_of) == (workers == 1)
    assert len({run["cell"]["id"] for run in runs(suite)}) == 2


def test_whoever_names_a_number_gets_it(suite: pytest.Pytester, llmperf: Sessions) -> None:
    llmperf("-k", "h100", "--llmperf-json=out.json", "--llmperf-workers=3", ANY_CLIENT).assert_outcomes(passed=1)
    (run,) = runs(suite)
    assert run["client"]["started_workers"] == 3 != os.cpu_count()


def test_limits_that_were_loosened_are_stated_wherever_a_verdict_is_read(suite: pytest.Pytester, llmperf: Sessions) -> None:
    result = llmperf("-k", "h100", "--llmperf-json=out.json", "--alluredir=allure", ANY_CLIENT)
    (run,) = runs(suite)
    assert run["client"]["limits"] == {
        "lateness_p99": 60.0, "loop_lag_p99": 60.0, "cpu_share": 1.0, "sent_share": 0.999, "busy_share": 0.0
    }  # fmt: skip
    said = " ".join(result.stdout.str().split())
    assert "trust limits loosened, so that INVALID says less: lateness_p99:1m (default 50ms), loop_lag_p99:1m" in said
    assert run["client"]["loosened"][:2] == ["lateness_p99:1m (default 50ms)", "loop_lag_p99:1m (default 50ms)"]
    (test,) = [json.loads(path.read_text()) for path in (suite.path / "allure").glob("*-result.json")]
    assert "**Trust limits loosened" in test["description"]


def test_limits_that_were_tightened_make_a_run_invalid_which_the_summary_explains(
    suite: pytest.Pytester, llmperf: Sessions
) -> None:
    result = llmperf("-k", "h100", "--llmperf-json=out.json", "--llmperf-trust=lateness_p99:1ns", "--llmperf-invalid=skip")
    result.assert_outcomes(skipped=1)
    (run,) = runs(suite)
    assert run["verdict"] == "INVALID"
    assert run["client"]["loosened"] == []
    lines = result.stdout.str().splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.endswith("client is not trusted")]
    assert lines[place + 1].startswith("  worker 0 sent its requests late: p99 ")
    assert max(map(len, lines[place : place + 3])) <= 80
