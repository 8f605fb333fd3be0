"""The ``baseline`` fixture, repetitions, and tests and cells that a baseline does not have; on real simulators."""

from __future__ import annotations

import json
import re

import pytest

from tests.plugin.baseline_sessions import FIXTURE, GATE, REPEATED, Sessions, results, stored, write


def test_the_baseline_fixture(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, FIXTURE)
    without = llmperf("-rs")
    without.assert_outcomes(skipped=3)
    assert "no baseline: save one with --llmperf-save=NAME" in without.stdout.str()
    assert "ready after" not in without.stdout.str()
    llmperf("--llmperf-save=main").assert_outcomes(passed=3)
    slower = llmperf("--llmperf-compare", "--llmperf-matrix=slow")
    slower.assert_outcomes(passed=1, failed=2)
    text = slower.stdout.str()
    assert re.search(r"E\s+pytest_llmperf\.plugin\.baseline\.RegressionError: baseline 0001_main: REGRESSED", text)
    assert re.search(r"E\s+TPOT p50 .*\+\d.* 10% +regressed", text)
    assert text.count(">   ") == 2, "the line of the test is shown"


@pytest.mark.parametrize(
    ("matrix", "workers"),
    [("default", ()), ("three", ("-n", "3", "--dist", "loadgroup"))],
    ids=["one cell", "three cells on three workers"],
)
def test_repetitions_are_compared_together(
    matrix: str, workers: tuple[str, ...], pytester: pytest.Pytester, llmperf: Sessions
) -> None:
    write(pytester.path, REPEATED)
    cells = 1 if matrix == "default" else 3
    repeat = ("--llmperf-repeat=3", f"--llmperf-matrix={matrix}", "--llmperf-json=out.json", *workers)
    first = llmperf("--llmperf-save=main", *repeat)
    first.assert_outcomes(passed=4 * cells)
    assert f"saved as baseline 0001_main: {3 * cells} of {3 * cells} runs" in first.stdout.str()
    assert sorted(run["node_id"].rpartition("-")[2] for run in results(pytester.path)["runs"]) == sorted(
        ["run1of3]", "run2of3]", "run3of3]"] * cells
    )
    seeds = {run["seed"] for run in results(pytester.path)["runs"]}
    assert len(seeds) == 3 * cells, "no two repetitions share their requests"

    slower = ("--llmperf-matrix=slow",) if matrix == "default" else ()
    second = llmperf("--llmperf-compare", "--llmperf-compare-fail=tpot_p50:10%", *repeat, *slower, "-rf")
    second.assert_outcomes(passed=4 * cells - len(slower), failed=len(slower))
    if slower:
        second.stdout.re_match_lines([r"- compared: 3 runs of this session with 3 runs of the baseline", r"FAILED .*-run3of3\]"])
    runs = results(pytester.path)["runs"]
    assert len(runs) == 3 * cells
    (document,) = [json.loads(path.read_text()) for path in (pytester.path / ".llmperf" / "saved").iterdir()]
    hardware = {run["run_id"]: run["cell"]["hardware"] for run in document["runs"]}
    assert [run["comparison"] for run in runs if not run["node_id"].endswith("3of3]")] == [None] * 2 * cells
    for run in (run for run in runs if run["node_id"].endswith("3of3]")):
        compared = run["comparison"]
        assert (compared["repeats"], len(compared["runs"])) == (3, 3)
        assert {hardware[run_id] for run_id in compared["runs"]} == {run["cell"]["hardware"]}


def test_the_last_selected_repetition_decides(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, REPEATED)
    llmperf("--llmperf-save=main", "--llmperf-repeat=2").assert_outcomes(passed=3)
    slower = llmperf("--llmperf-compare", GATE, "--llmperf-repeat=2", "--llmperf-matrix=slow", "-k", "1of2")
    slower.assert_outcomes(failed=1, deselected=2)
    assert "GateError: baseline 0001_main: REGRESSED" in slower.stdout.str()


def test_a_cell_that_the_baseline_lacks_is_new_beside_others_and_refused_alone(
    pytester: pytest.Pytester, llmperf: Sessions
) -> None:
    write(pytester.path, REPEATED)
    llmperf("--llmperf-save=main", "--llmperf-matrix=three", "-k", "h100 and test_it").assert_outcomes(passed=1, deselected=5)
    error = refused_after(llmperf("--llmperf-compare", GATE, "--llmperf-matrix=three", "-k", "h200 and test_it"), pytester)
    assert "hardware: h100 -> h200" in error
    both = llmperf("--llmperf-compare", GATE, "--llmperf-matrix=three", "-k", "h200 or h100", "--llmperf-json=out.json")
    both.assert_outcomes(passed=4, deselected=2)
    verdicts = {run["cell"]["hardware"]: run["comparison"]["verdict"] for run in results(pytester.path)["runs"]}
    assert verdicts["h200"] == "new"
    assert verdicts["h100"] in {"unchanged", "noise", "improved"}


def refused_after(result: pytest.RunResult, pytester: pytest.Pytester) -> str:
    """The usage error of a session that deployed nothing, although one before it measured a run."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ready after" not in result.stdout.str()
    assert len(stored(pytester.path)) == 1
    return result.stderr.str()


def test_a_baseline_that_says_nothing_of_what_is_asked_is_refused(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, REPEATED)
    llmperf("--llmperf-save=main").assert_outcomes(passed=2)
    error = refused_after(llmperf("--llmperf-compare", "--llmperf-compare-fail=ttft_p99.9:5%"), pytester)
    assert "--llmperf-compare-fail: unknown metric of baseline '0001_main' 'ttft_p99.9'" in error
    assert "Did you mean 'ttft_p99'?" in error
    (pytester.path / "test_suite.py").rename(pytester.path / "test_moved.py")
    error = refused_after(llmperf("--llmperf-compare", GATE), pytester)
    assert "baseline '0001_main' has none of the selected tests, such as test_moved.py::test_it" in error
    assert "It has test_suite.py::test_it." in error
