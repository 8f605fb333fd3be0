"""A session's runs are saved, and a later session is held against them: on real simulators, some of them slowed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.plugin.baseline_sessions import (
    CELL,
    FIXTURE,
    GATE,
    REPEATED,
    STALL,
    Sessions,
    change,
    refused,
    results,
    stored,
    write,
)


def own_environment() -> dict[str, str]:
    """This process's, without what speaks to a pytest."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LLMPERF_", "PYTEST_"))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``SUITE`` was run once and saved as ``main``."""
    folder = tmp_path_factory.mktemp("saved")
    write(folder)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--llmperf-save=main"]
    done = subprocess.run(command, cwd=folder, env=own_environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "saved as baseline 0001_main: 2 of 2 runs" in done.stdout
    return folder


@pytest.fixture
def baseline(pytester: pytest.Pytester, saved: Path) -> Path:
    """A copy of that folder, in which the test's sessions run."""
    shutil.copytree(saved, pytester.path, dirs_exist_ok=True)
    shutil.rmtree(pytester.path / ".llmperf" / "runs")
    return pytester.path


def test_the_same_server_passes_and_a_slower_one_fails_its_test(baseline: Path, llmperf: Sessions) -> None:
    same = llmperf("--llmperf-compare=main", GATE, "--llmperf-json=out.json")
    assert same.ret == pytest.ExitCode.OK
    same.assert_outcomes(passed=2)
    runs = results(baseline)["runs"]
    assert [run["fingerprint"]["hardware"] for run in runs] == ["h100", "h100"]
    assert {run["comparison"]["baseline"] for run in runs} == {"0001_main"}
    assert {change(run, "tpot_p50")["verdict"] for run in runs} <= {"unchanged", "noise", "improved"}
    assert stored(baseline) == runs

    slower = llmperf(
        "--llmperf-compare=main",
        GATE,
        "--llmperf-matrix=slow",
        "--llmperf-json=out.json",
        "--junitxml=junit.xml",
        "--alluredir=a",
    )
    assert slower.ret == pytest.ExitCode.TESTS_FAILED
    slower.assert_outcomes(passed=1, failed=1)
    strict, lenient = results(baseline)["runs"]
    regressed = change(strict, "tpot_p50")
    assert (strict["verdict"], strict["comparison"]["verdict"]) == ("PASS", "regressed")
    assert (regressed["verdict"], regressed["gated"], regressed["tolerance"]) == ("regressed", True, "10%")
    assert 1.1 < regressed["low"] < regressed["ratio"] < 1.6
    assert change(lenient, "tpot_p50")["tolerance"] == "100%"
    # The environment may differ, and is shown.
    assert strict["comparison"]["differences"]["env LLMPERF_SIM_SLOWDOWN"] == "unset -> 1.3"
    assert "env LLMPERF_SIM_SLOWDOWN: unset -> 1.3" in slower.stdout.str()
    check_reports(baseline)
    assert re.search(rf"{CELL}_slowed\]: .*TPOT p50 \+\d+(\.\d)?%", slower.stdout.str().replace("\n    ", " "))


def check_reports(folder: Path) -> None:
    """The test that regressed is red in JUnit and in Allure, with the table; the other one is not."""
    cases = {str(case.get("name")): case for case in ElementTree.parse(folder / "junit.xml").iter("testcase")}
    (red,) = [name for name, case in cases.items() if case.find("failure") is not None]
    assert len(cases) == 2
    assert red.startswith("test_strict[")
    failure = cases[red].find("failure")
    assert failure is not None
    text = f"{failure.get('message')}{failure.text}"
    assert "baseline 0001_main: REGRESSED (SIMULATED: no real server was measured)" in text
    assert re.search(r"TPOT p50 .*\+\d.* 10% +regressed", text)
    statuses = {}
    for path in (folder / "a").glob("*-result.json"):
        test = json.loads(path.read_text())
        statuses[test["name"].partition(" on ")[0]] = test["status"]
    assert statuses == {"Labels: strict": "failed", "Labels: lenient": "passed"}


def test_what_was_measured_under_other_conditions_is_refused_before_anything_is_deployed(
    baseline: Path, llmperf: Sessions
) -> None:
    compare = ("--llmperf-compare=main", GATE)
    gpu = refused(llmperf(*compare, "--llmperf-matrix=other-gpu"), baseline)
    assert "llmperf: --llmperf-compare: baseline '0001_main' cannot be compared with test_suite.py::test_strict[eks_l40s_" in gpu
    assert "hardware: h100 -> l40s" in gpu
    assert f"The nearest run it has is of cell {CELL}." in gpu
    # Also without a gate, and by workers.
    assert "hardware: h100 -> l40s" in refused(llmperf("--llmperf-compare", "--llmperf-matrix=other-gpu"), baseline)
    spread = llmperf(*compare, "--llmperf-matrix=other-gpu", "-n", "2", "--dist", "loadgroup")
    assert spread.ret == pytest.ExitCode.USAGE_ERROR
    assert "hardware: h100 -> l40s" in spread.stdout.str()
    assert not stored(baseline)
    arguments = refused(llmperf(*compare, "--llmperf-matrix=small-batch"), baseline)
    assert "engine max-num-seqs: unset -> 64" in arguments
    workloads = baseline / "fixtures" / "workloads.yaml"
    workloads.write_text(workloads.read_text().replace("mean: 24", "mean: 48"))
    assert "output: fixed 24 -> fixed 48" in refused(llmperf(*compare), baseline)
    target = ("--llmperf-target=endpoint", "--llmperf-url=http://127.0.0.1:9")
    assert "target: sim -> endpoint" in refused(llmperf(*compare, *target), baseline)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--llmperf-compare=mian"], ["--llmperf-compare: unknown saved session 'mian'", "Did you mean 'main'?", "0001_main"]),
        (["--llmperf-compare=gone.json"], ["there is no results file 'gone.json'"]),
        (["--llmperf-compare", "suites/"], ["'suites/' is a path", "write --llmperf-compare=latest"]),
        (
            ["--llmperf-compare=main", "--llmperf-compare-fail=tpot_p5O:10%"],
            ["--llmperf-compare-fail: tpot_p5O:10%", "not 'p5O'"],
        ),
        (["--llmperf-compare=main", "--llmperf-compare-fail=tpott_p50:10%"], ["--llmperf-compare-fail: tpott_p50:10%", "tpot"]),
        (["--llmperf-compare-fail=10%"], ["--llmperf-compare-fail: '10%' is no tolerance", "Write METRIC:TOLERANCE"]),
        (["--llmperf-compare-fail=tpot_p50:5"], ["--llmperf-compare-fail: tpot_p50:5: '5' has no unit"]),
        ([GATE, "--llmperf-compare-fail=tpot_p50:5%"], ["tpot_p50 has two tolerances, 10% and 5%"]),
        (["--llmperf-save=a/b"], ["--llmperf-save: 'a/b' cannot name a saved session", "Write 'a-b', say."]),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], problem: list[str], baseline: Path, llmperf: Sessions) -> None:
    error = refused(llmperf(*arguments), baseline)
    for part in problem:
        assert part in error
    assert "Traceback" not in error


def test_workers_refuse_as_one_process_does(baseline: Path, llmperf: Sessions) -> None:
    workers = ("-n", "3", "--dist", "loadgroup", "--llmperf-matrix=three")
    (path,) = (baseline / ".llmperf" / "saved").iterdir()
    (path.parent / "0002_damaged.json").write_bytes(path.read_bytes()[:1000])
    for arguments, problem in (
        (("--llmperf-compare=mian",), "--llmperf-compare: unknown saved session 'mian'"),
        (("--llmperf-compare",), "0002_damaged.json: is no results document: Invalid JSON"),
    ):
        result = llmperf(*arguments, *workers)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert (result.stdout.str() + result.stderr.str()).count(problem) == 1
    assert not stored(baseline)


def test_without_a_saved_session(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, REPEATED)
    none = llmperf("-k", "without_a_load", "--llmperf-save=main")
    none.assert_outcomes(passed=1, deselected=1)
    assert "no baseline is saved: no test made a run" in none.outlines
    error = refused(llmperf("--llmperf-compare"), pytester.path)
    assert "no session is saved in" in error
    assert "Save one first: pytest --llmperf-save=NAME." in error


PROFILE = """
import pytest

@pytest.mark.llmperf(workload="labels")
def test_it(load, profile):
    load(profile)
"""


def test_a_changed_profile_is_refused(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, PROFILE)
    assert llmperf("--llmperf-autosave").ret == pytest.ExitCode.OK
    (document,) = (pytester.path / ".llmperf" / "saved").iterdir()
    assert re.fullmatch(r"0001_(\w{8}-)?\d{8}T\d{6}Z(-dirty)?\.json", document.name)
    profiles = pytester.path / "fixtures" / "profiles.yaml"
    profiles.write_text(profiles.read_text().replace("20/s", "30/s"))
    error = llmperf("--llmperf-compare")
    assert error.ret == pytest.ExitCode.USAGE_ERROR
    assert "profile: constant 20/s -> constant 30/s" in error.stderr.str()
    assert len(stored(pytester.path)) == 1


INELIGIBLE = (
    STALL
    + """
import pytest
from pytest_llmperf import concurrency, constant
from pytest_llmperf.experiment.sla import parse_sla

pytestmark = pytest.mark.llmperf(workload="labels", sla={"e2e": {"p50": "5s"}})

def test_good(load, sla):
    assert load(concurrency(4), "1s").meets(sla)

def test_slow(load):
    assert load(concurrency(4), "1s").meets(parse_sla("hard", {"e2e": {"p50": "1ms"}}))

def test_broken(load):
    load(concurrency(4), "1s")
    assert 1 == 2

def test_stalled(load, deployment, sla):
    threading.Thread(target=stop_the_worker_for_a_second, args=(deployment.endpoint.base_url,)).start()
    assert load(constant("20/s"), "1500ms").meets(sla)
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="finds a load worker in /proc")
def test_only_runs_that_may_be_a_baseline_are_saved(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    write(pytester.path, INELIGIBLE)
    result = llmperf("--llmperf-save=main", "--llmperf-invalid=skip", "-rs")
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "saved as baseline 0001_main: 1 of 4 runs",
            "  left out test_suite.py::test_slow[[]*]: its verdict is FAIL",
            "  left out test_suite.py::test_broken[[]*]: its test failed",
            "  left out test_suite.py::test_stalled[[]*]: it is INVALID: worker 0 *",
        ]
    )
    assert re.search(r"SKIPPED \[1\] .*INVALID: worker 0 (sent its requests|read its answers) late", result.stdout.str())
    (path,) = (pytester.path / ".llmperf" / "saved").iterdir()
    (run,) = json.loads(path.read_text())["runs"]
    assert run["node_id"].startswith("test_suite.py::test_good[")
    # An INVALID run fails by default, whatever INCONCLUSIVE may do. Without a run there is no baseline.
    nothing = llmperf("-k", "stalled", "--llmperf-save=main", "--llmperf-inconclusive=pass")
    nothing.assert_outcomes(failed=1)
    assert re.search(r"E\s+pytest_llmperf.plugin.load.SlaMissError: .*INVALID", nothing.stdout.str())
    nothing.stdout.fnmatch_lines(
        ["no baseline is saved: none of 1 runs may be in one", "  left out *: it is INVALID: worker 0 *"]
    )
    assert len(list((pytester.path / ".llmperf" / "saved").iterdir())) == 1


OTHERWISE = """
import pytest
from pytest_llmperf import concurrency
from pytest_llmperf.experiment.sla import parse_sla

pytestmark = pytest.mark.llmperf(workload="labels", sla={"e2e": {"p99": "5s"}})

def test_strict(load, sla):
    assert load(concurrency(4), "1500ms").meets(sla)

def test_lenient(load):
    assert load(concurrency(4), "1500ms").meets(parse_sla("hard", {"e2e": {"p50": "1ms"}}))

def test_added(load):
    load(concurrency(4), "500ms")
"""


def test_settings_of_the_ini_and_the_environment_and_tests_that_do_not_pass(
    baseline: Path, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (baseline / "test_suite.py").write_text(OTHERWISE)
    (baseline / "pytest.ini").write_text(
        "[pytest]\nllmperf_compare_fail = tpot_p50:10%, ttft_p50:500%\nllmperf_matrix = slow\nllmperf_inconclusive = skip\n"
    )
    monkeypatch.setenv("LLMPERF_COMPARE", "1")
    monkeypatch.setenv("LLMPERF_SAVE", "next")
    result = llmperf()
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    # At the beginning of a line: CI's summary repeats it behind the test's name.
    assert text.count("\nGateError: baseline 0001_main: REGRESSED") == 1, "INCONCLUSIVE would have skipped the test"
    strict, lenient, added = stored(baseline)
    assert (strict["verdict"], strict["comparison"]["verdict"]) == ("INCONCLUSIVE", "regressed")
    assert [part["metric"] for part in strict["comparison"]["changes"] if part["gated"]] == ["ttft_p50", "tpot_p50"]
    # What missed its SLA fails by that, and is compared all the same.
    assert re.search(r"E\s+e2e p50|E\s+E2E p50 ", text)
    assert (lenient["verdict"], lenient["comparison"]["verdict"]) == ("FAIL", "regressed")
    # A test that the baseline has no run of is new, and passes.
    assert (added["comparison"]["verdict"], added["comparison"]["changes"]) == ("new", [])
    assert "beside baseline 0001_main: 2 regressed, 1 new" in text
    assert "saved as baseline 0002_next: 1 of 3 runs" in text


def test_tolerances_that_make_no_sense_deploy_nothing(baseline: Path, llmperf: Sessions) -> None:
    wrong = {
        '{"tpot_p5O": "10%"}': "not 'p5O'",
        '{"tpot_p50": 0.1}': "the tolerance of 'tpot_p50' is 0.1, not text with a unit",
        '{"tpot_p50": "10"}': "'10' has no unit",
        '"10%"': "'10%' is no mapping of metrics to tolerances",
    }
    for tolerance, problem in wrong.items():
        (baseline / "test_suite.py").write_text(FIXTURE.replace('{"tpot_p50": "10%"}', tolerance))
        # Also where there is nothing to compare with yet.
        error = refused(llmperf("--llmperf-compare" if "p5O" in tolerance else "--llmperf-save=next"), baseline)
        assert problem in error
        assert "test_suite.py:10: marker llmperf" in error
