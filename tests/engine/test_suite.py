"""One suite, on a real vLLM that the process target starts and on the simulator; and what a crash of the engine leaves."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.deploy.supervisor import descendants
from tests.engine.conftest import CATALOG_DIRECTORY

SMALL = """
import pytest
from pytest_llmperf import concurrency, poisson

pytestmark = pytest.mark.llmperf(workload="small")

def test_meets_sla(load, sla):
    run = load(poisson("3/s"), "15s")
    assert run.meets(sla)

def test_every_request_is_there(load):
    run = load(concurrency(2), requests=12, warmup="0s")
    frame = run.requests
    assert len(frame) == 12 and set(frame["outcome"]) == {"OK"}
    assert (frame["output_tokens"] == frame["planned_output_tokens"]).all()
"""
CRASH = """
import os
from pathlib import Path
from signal import SIGKILL
from threading import Timer

import pytest
from pytest_llmperf import poisson
from pytest_llmperf.deploy.supervisor import descendants

pytestmark = pytest.mark.llmperf(workload="small")

def kill_the_core(deployment):
    processes = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(os.getpid())}
    Path("engine.pids").write_text(" ".join(map(str, descendants(deployment.process.pid))))
    (core,) = [pid for pid, name in processes.items() if name.startswith("VLLM::EngineCore")]
    os.kill(core, SIGKILL)

def test_crash(load, deployment):
    timer = Timer(4.0, kill_the_core, [deployment])
    timer.start()
    try:
        load(poisson("4/s"), "10s")
    finally:
        timer.join()

def test_after_the_crash(load):
    load(poisson("4/s"), "1s")
"""
# What is tested is not the machine: on two cores that the engine needs for itself the client may be late.
TRUSTING = "--llmperf-trust=lateness_p99:30s,loop_lag_p99:30s,cpu_share:100%,busy_share:1%"


@dataclass(frozen=True)
class Session:
    """A session of pytest that has ended."""

    result: pytest.RunResult
    text: str
    document: dict[str, Any]
    left: list[int]
    """Processes below this one that were not there before."""


def session(pytester: pytest.Pytester, *arguments: str) -> Session:
    before = set(descendants(os.getpid()))
    for name in [name for name in os.environ if name.startswith(("LLMPERF_", "PYTEST_"))]:
        pytester._monkeypatch.delenv(name)
    pytester._monkeypatch.setenv("COLUMNS", "120")
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", f"--llmperf-catalog={CATALOG_DIRECTORY}", "--llmperf-json=out.json", TRUSTING),
        *arguments,
        timeout=600,
    )
    return Session(
        result=result,
        text=result.stdout.str() + result.stderr.str(),
        document=json.loads((pytester.path / "out.json").read_text()),
        left=[pid for pid in descendants(os.getpid()) if pid not in before],
    )


def test_on_vllm_until_its_core_is_killed(pytester: pytest.Pytester, engine_command: str) -> None:
    pytester.makepyfile(test_a_small=SMALL, test_b_crash=CRASH)
    ran = session(
        pytester, "--llmperf-target=process", f"--llmperf-engine-command={engine_command}", "--llmperf-ready-timeout=300s"
    )
    ran.result.assert_outcomes(passed=2, failed=1, errors=1)
    assert "SIMULATED" not in ran.text
    runs = {run["node_id"].partition("::")[2].partition("[")[0]: run for run in ran.document["runs"]}
    assert set(runs) == {"test_meets_sla", "test_every_request_is_there", "test_crash"}
    for run in runs.values():
        assert run["deployment"]["target"] == "process"
        assert run["deployment"]["engine"] == "vLLM 0.32.0"
        assert not run["deployment"]["simulated"]
    assert runs["test_meets_sla"]["verdict"] == "PASS"
    # The crash: what was measured is kept, the test fails by the engine's end, and the next one does not start.
    assert runs["test_crash"]["errors"]
    assert ran.text.count("the deployment was lost: its process ended with status") >= 2
    assert "EngineDeadError" in ran.text
    assert not ran.left
    assert not [pid for pid in (pytester.path / "engine.pids").read_text().split() if Path(f"/proc/{pid}").exists()]


def test_on_the_simulator(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a_small=SMALL)
    ran = session(pytester)
    ran.result.assert_outcomes(passed=2)
    assert "SIMULATED" in ran.text
    verdicts = [run["verdict"] for run in ran.document["runs"] if run["verdict"]]
    assert verdicts == ["PASS"]
    assert all(run["deployment"]["simulated"] for run in ran.document["runs"])
    assert not ran.left
