"""What goes wrong around a test: a deployment that dies, names that clash, no terminal, a teardown that fails."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

Sessions = Callable[..., pytest.RunResult]

HEADER = """
import os
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="classification", sla={"ttft": {"p50": "5s"}})
"""
ONE_CELL = ("-k", "h100")


def suite(pytester: pytest.Pytester, source: str) -> None:
    pytester.makepyfile(test_suite=HEADER + source)


def test_a_lost_deployment_is_an_error_that_says_so(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    """No later test of the cell measures a server that is not there."""
    suite(
        pytester,
        """
def test_loses_it(load, deployment):
    deployment.process.kill()
    deployment.process.wait(10)
    load(constant("20/s"), "1s", warmup="0s")

def test_next(load):
    raise AssertionError("not reached")

def test_last(load):
    raise AssertionError("not reached")
""",
    )
    result = llmperf(*ONE_CELL)
    result.assert_outcomes(failed=1, errors=2)
    lost = "DeployError: gke_h100_standalone_llama-3.1-8b: the deployment was lost: its process was killed by SIGKILL"
    assert result.stdout.str().count(lost) >= 3
    assert "Traceback" not in result.stdout.str()
    assert len(list((pytester.path / ".llmperf" / "runs").glob("*/run.json"))) == 1


def test_a_suites_own_fixtures_of_the_same_names_are_left_alone(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(
        pytester,
        """
@pytest.mark.parametrize("cell", ["A1", "B2"])
def test_sheet(cell):
    assert len(cell) == 2

@pytest.fixture
def profile():
    return "me"

def test_user(profile):
    assert profile == "me"

class TestBiology:
    @pytest.fixture
    def cell(self):
        return "nucleus"

    def test_cell(self, cell):
        assert cell == "nucleus"
""",
    )
    pytester.makepyfile(test_real="def test_real(cell):\n    assert cell.hardware\n")
    llmperf("-k", "sheet or test_cell or user or h100").assert_outcomes(passed=5)


def test_an_sla_without_a_cell(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_sla(sla, workload):\n    assert sla and workload.name == 'classification'\n")
    llmperf().assert_outcomes(passed=1)


def test_without_a_terminal(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_one(load):\n    load(constant('20/s'), '500ms', warmup='0s')\n")
    assert llmperf(*ONE_CELL, "-p", "no:terminal", "--llmperf-json=out.json").ret == pytest.ExitCode.OK
    assert len(json.loads((pytester.path / "out.json").read_text())["runs"]) == 1


def test_quiet_is_quiet(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_one(deployment):\n    assert deployment\n")
    assert llmperf(*ONE_CELL, "-q", "-p", "no:benchmark").outlines[0].split() == [".", "[100%]"]


def test_collecting_keeps_the_last_sessions_results(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_one(cell):\n    assert cell\n")
    (pytester.path / "out.json").write_text("those of the last session")
    llmperf("--collect-only", "--llmperf-json=out.json")
    assert (pytester.path / "out.json").read_text() == "those of the last session"


def test_what_last_failed_is_the_one_cell_of_an_endpoint(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_one(cell):\n    assert 'h100' not in cell.id\n")
    assert llmperf("-p", "cacheprovider").ret == pytest.ExitCode.TESTS_FAILED
    target = ("--llmperf-target=endpoint", "--llmperf-url=http://127.0.0.1:9")
    result = llmperf("-p", "cacheprovider", "--lf", *target)
    result.assert_outcomes(failed=1)


def test_failed_first_keeps_each_cells_tests_together(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_one(cell):\n    pass\n\ndef test_two(cell):\n    assert 'a100' in cell.id\n")
    llmperf("-p", "cacheprovider")
    result = llmperf("-p", "cacheprovider", "--ff", "--collect-only", "-q")
    cells = [line.partition("[")[2] for line in result.outlines if "::" in line]
    assert len(cells) == 6
    assert cells == sorted(cells, key=cells.index)


def test_a_fixture_whose_teardown_fails_keeps_no_deployment_standing(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(
        pytester,
        """
@pytest.fixture
def untidy(deployment):
    yield deployment.process
    raise RuntimeError("teardown")

def test_one(untidy, request):
    request.config.pid = untidy.pid

def test_two(pytestconfig):
    with pytest.raises(ProcessLookupError):
        os.kill(pytestconfig.pid, 0)
""",
    )
    llmperf("-k", "h100 or two").assert_outcomes(passed=2, errors=1)


def test_a_run_that_a_fixture_made_is_in_the_tests_report(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(
        pytester,
        """
@pytest.fixture
def run(load):
    return load(constant("20/s"), "500ms", warmup="0s")

def test_one(run):
    assert run["error_rate"] == 0
""",
    )
    llmperf(*ONE_CELL, "--alluredir=allure").assert_outcomes(passed=1)
    (test,) = [json.loads(path.read_text()) for path in (pytester.path / "allure").glob("*-result.json")]
    assert any(label["value"] == "llama-3.1-8b" for label in test["labels"])


def test_a_token_that_is_named_must_be_there(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, "def test_one(cell):\n    assert cell\n")
    target = ("--llmperf-target=endpoint", "--llmperf-url=http://127.0.0.1:9", "--llmperf-api-key-env=NO_SUCH_TOKEN")
    result = llmperf(*ONE_CELL, *target)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the environment variable 'NO_SUCH_TOKEN' is not set" in result.stderr.str()
