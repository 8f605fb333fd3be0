"""A load is driven for real, judged, stored, summarised and reported, alone and under xdist."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import jsonschema
import numpy as np
import pytest

from pytest_llmperf.deploy.sim import SimDeployment, SimTarget
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.report.requests_file import read_requests
from pytest_llmperf.report.results_v2 import RunDocument
from pytest_llmperf.report.stats import stats_text

Sessions = Callable[..., pytest.RunResult]
SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "results-2.json"

SUITE = """
import pytest
from pytest_llmperf import concurrency, poisson

pytestmark = pytest.mark.llmperf(workload="classification", sla={sla})

def test_meets_sla(load, sla):
    run = load(poisson("40/s"), "2s", warmup="500ms")
    assert run.meets(sla)

def test_frame(load):
    run = load(concurrency(4), requests=40, warmup="0s")
    frame = run.requests
    assert len(frame) == 40 and set(frame["outcome"]) == {{"OK"}}
    assert run["ttft_p50"] == pytest.approx(frame["ttft_s"].median(), rel=0.2)
"""


def suite(pytester: pytest.Pytester, sla: str) -> None:
    pytester.makepyfile(test_suite=SUITE.format(sla=sla))


def results(pytester: pytest.Pytester) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((pytester.path / "out.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return document


@pytest.mark.parametrize("workers", [(), ("-n", "2", "--dist", "loadgroup")], ids=["alone", "xdist"])
def test_pass(pytester: pytest.Pytester, llmperf: Sessions, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SHA", "0123abcd")
    commit = committed(pytester.path)
    suite(pytester, '{"ttft": {"p50": "500ms"}, "error_rate": "1%"}')
    result = llmperf("-k", "h100 or l40s", "--llmperf-json=out.json", "--llmperf-requests-csv", "--alluredir=allure", *workers)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)
    runs = results(pytester)["runs"]
    assert len(runs) == 4
    assert {run["simulated"] for run in runs} == {True}
    assert sorted(str(run["verdict"]) for run in runs) == ["None", "None", "PASS", "PASS"]
    for run in runs:
        check_directory(pytester.path / ".llmperf" / "runs" / run["run_id"], run)
        check_configuration(run["configuration"])
        assert run["configuration"]["commit"] == commit
    assert "SIMULATED" in result.stdout.str()
    assert max(len(line) for line in result.outlines if "gke_" in line or "PASS" in line) <= 80
    check_allure(pytester.path / "allure", runs)


def committed(folder: Path) -> str:
    """The commit of a repository that is made there."""
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def check_directory(folder: Path, run: dict[str, Any]) -> None:
    """What lies beside a run's document is what it names, and says the same."""
    assert json.loads((folder / "run.json").read_text()) == run
    assert {path.name for path in folder.iterdir()} == {"run.json", *run["artifacts"].values()}
    assert {"requests", "requests_csv", "stats"} <= set(run["artifacts"])
    requests = read_requests(folder / run["artifacts"]["requests"], ["outcome", "ttft_s", "scheduled_s"])
    opened_s = run["timing"]["window_end_s"] - run["timing"]["window_s"]
    counted = (requests["outcome"] == "OK") & (requests["scheduled_s"] > opened_s - 1e-6)
    assert counted.sum() == run["counts"]["ok"]
    median = np.sort(requests["ttft_s"][counted])[(counted.sum() - 1) // 2]
    assert run["metrics"]["ttft_p50"]["value"] == pytest.approx(median)
    assert len((folder / run["artifacts"]["requests_csv"]).read_text().splitlines()) == len(counted) + 1
    assert stats_text(RunDocument.model_validate(run)) == (folder / run["artifacts"]["stats"]).read_text()
    series = run["series"]
    *whole, last = series["sent_per_s"]
    assert sum(whole) * series["step_s"] + last * series["last_step_s"] == pytest.approx(len(counted), abs=1e-3)


def check_configuration(part: dict[str, Any]) -> None:
    assert (part["settings"]["policy"], part["settings"]["requests_csv"], part["settings"]["storage"]) == (
        "measured",
        "yes",
        ".llmperf",
    )
    assert part["environment"]["GITHUB_SHA"] == "0123abcd"
    assert part["gpu"].endswith("(simulated)")
    assert "--tensor-parallel-size=1" in part["engine_arguments"]
    assert part["dirty"] is False


def check_allure(folder: Path, runs: list[dict[str, Any]]) -> None:
    tests = [json.loads(path.read_text()) for path in folder.glob("*-result.json")]
    assert len(tests) == 4
    attached = [
        json.loads((folder / a["source"]).read_text()) for test in tests for a in test["attachments"] if a["name"] == "run.json"
    ]
    assert {document["run_id"] for document in attached} == {run["run_id"] for run in runs}
    labels = {(label["name"], label["value"]) for test in tests for label in test["labels"]}
    assert ("epic", "llama-3.1-8b") in labels
    assert ("feature", "classification") in labels
    assert "simulated" in (folder / "environment.properties").read_text().lower()


def test_an_sla_miss_fails_with_a_table(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, '{"ttft": {"p50": "1ms"}, "error_rate": "1%"}')
    result = llmperf("-k", "h100 and meets", "--llmperf-json=out.json", "--alluredir=allure", "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.search(r"E\s+.*TTFT p50.*<= 1ms.*FAIL", text)
    assert re.search(r"E\s+.*error rate.*<= 1%.*PASS", text)
    (run,) = results(pytester)["runs"]
    assert run["verdict"] == "FAIL"
    (test,) = [json.loads(path.read_text()) for path in (pytester.path / "allure").glob("*-result.json")]
    assert test["status"] == "failed"
    assert "TTFT p50" in (pytester.path / "junit.xml").read_text()


def test_ctrl_c_keeps_what_was_measured(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # as in a CI, where progress must be seen all the same
    pytester.makepyfile(
        test_suite="import pytest\nfrom pytest_llmperf import constant\n\n"
        "@pytest.mark.llmperf(workload='classification')\n"
        "def test_long(load):\n    load(constant('20/s'), '60s', warmup='0s')\n"
    )
    command = [sys.executable, "-m", "pytest", "-k", "h100", "--llmperf-json=out.json"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True, start_new_session=True) as session:
        assert session.stdout is not None
        # The line that tells of the deployment is the last before the load.
        ready = next(line for line in session.stdout if "ready after" in line)
        assert "SIMULATED" in ready
        Event().wait(3.0)  # so long the load has run when it is interrupted; nothing tells of single requests
        session.send_signal(signal.SIGINT)
        rest = session.stdout.read()
        assert session.wait(30) == pytest.ExitCode.INTERRUPTED, rest
    (path,) = (pytester.path / ".llmperf" / "runs").glob("*/run.json")
    (run,) = results(pytester)["runs"]
    assert json.loads(path.read_text()) == run
    assert run["timing"]["interrupted"] is True
    assert run["counts"]["ok"] > 20


def test_too_few_samples_are_inconclusive_and_do_not_pass(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, '{"ttft": {"p99": "10s"}}')
    result = llmperf("-k", "h100 and meets")
    result.assert_outcomes(failed=1)
    assert re.search(r"needs \d+ more", result.stdout.str())


def test_the_command_line_overrides_the_sla(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, '{"ttft": {"p50": "10s"}}')
    llmperf("-k", "h100 and meets", "--llmperf-sla=ttft: {p50: 1ms}").assert_outcomes(failed=1)


@pytest.fixture(scope="module")
def server() -> Iterator[SimDeployment]:
    catalog = load_catalog([builtin_directory()])
    cell = expand(catalog.matrix_named("default"), catalog)[0]
    deployment = SimTarget(ready_timeout_s=30.0).deploy(cell, print)
    yield deployment
    deployment.close()


def test_endpoint(pytester: pytest.Pytester, llmperf: Sessions, server: SimDeployment) -> None:
    """A server started by somebody else is loaded, says that it is a simulator, and still runs afterwards."""
    suite(pytester, '{"ttft": {"p50": "500ms"}}')
    target = ("--llmperf-target=endpoint", f"--llmperf-url={server.endpoint.base_url}")
    result = llmperf("-k", "h100 and meets", "--llmperf-json=out.json", *target)
    result.assert_outcomes(passed=1)
    (run,) = results(pytester)["runs"]
    assert run["simulated"] is True
    assert run["deployment"]["target"] == "endpoint"
    assert all("SIMULATED" in line for line in result.outlines if " ready after " in line or ": loaded for " in line)
    assert server.process.poll() is None


def test_one_endpoint_is_one_cell(pytester: pytest.Pytester, llmperf: Sessions, server: SimDeployment) -> None:
    suite(pytester, '{"ttft": {"p50": "500ms"}}')
    result = llmperf("--llmperf-target=endpoint", f"--llmperf-url={server.endpoint.base_url}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "one endpoint serves one cell" in result.stderr.str()


def test_endpoint_that_is_down(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, '{"ttft": {"p50": "500ms"}}')
    # Port 9 of loopback: nothing listens there.
    target = ("--llmperf-target=endpoint", "--llmperf-url=http://127.0.0.1:9", "--llmperf-ready-timeout=1s")
    result = llmperf("-k", "h100 and meets", *target)
    result.assert_outcomes(errors=1)
    assert "did not become ready" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_the_token_is_never_shown(
    pytester: pytest.Pytester, llmperf: Sessions, server: SimDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite(pytester, '{"ttft": {"p50": "1ms"}}')
    monkeypatch.setenv("MY_TOKEN", "sk-very-secret-value")
    target = ("--llmperf-target=endpoint", f"--llmperf-url={server.endpoint.base_url}", "--llmperf-api-key-env=MY_TOKEN")
    result = llmperf("-k", "h100 and meets", "--llmperf-json=out.json", "--alluredir=allure", "-vv", "--showlocals", *target)
    result.assert_outcomes(failed=1)
    assert "sk-very-secret-value" not in result.stdout.str() + result.stderr.str()
    written = [path for path in pytester.path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"sk-very-secret-value" in path.read_bytes()]


def test_selection(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    suite(pytester, '{"ttft": {"p50": "1ms"}}')
    listed = llmperf("--collect-only", "-q", "-k", "a100 and meets").stdout.str()
    assert "test_suite.py::test_meets_sla[gke_a100-80gb_standalone_llama-3.1-8b]" in listed
    assert "h100" not in listed
    by_mark = llmperf("--collect-only", "-q", "-m", "llmperf(workload='classification')", "-k", "h100").stdout.str()
    assert "test_suite.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]" in by_mark
    one = llmperf("--collect-only", "-q", "test_suite.py::test_frame[eks_l40s_standalone_llama-3.1-8b]").stdout.str()
    assert "1 test collected" in one
