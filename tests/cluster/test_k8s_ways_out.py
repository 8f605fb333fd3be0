"""However a session on the cluster ends, nothing of it is left there; and what was measured is kept."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.k8s_pytest import GKE, PytestSessions, Running
from tests.cluster.k8s_sessions import left_of

XDIST = ("-n", "2", "--dist", "loadgroup")
SUITE = """
import os
from pathlib import Path
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="interactive-chat")

def test_measured(load):
    load(constant("5/s"), "1s", warmup="0s")

def test_one(load):
    load(constant("5/s"), "1s", warmup="0s")
    Path("loading").touch()
    load(constant("2/s"), "120s", warmup="0s")

def test_failing(load):
    load(constant("5/s"), "1s", warmup="0s")
    assert not "deliberate"

def test_crashing(deployment):
    os._exit(3)

def test_breaking(deployment):
    pass
"""
# An error in a plugin's hook is pytest's own: it ends the session as a mistake in pytest would.
BREAKING = """
def pytest_runtest_logreport(report):
    if report.when == "call" and "breaking" in report.nodeid:
        raise RuntimeError("deliberate")
"""
# A process that ends itself as `kill -9` would, at a moment that cannot be hit from outside.
DYING = """
import os, signal
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

def dying(method, kind):
    def changed(self, first, *more, **named):
        done = method(self, first, *more, **named)
        if (first["kind"] if isinstance(first, dict) else first.kind) == kind:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return changed

def pytest_configure():
    if os.environ["DIES"] == "applying":
        KubeApi.apply = dying(KubeApi.apply, "Service")
    if os.environ["DIES"] == "deleting":
        KubeApi.delete = dying(KubeApi.delete, "Deployment")
"""


@pytest.fixture
def suite(sessions: PytestSessions) -> PytestSessions:
    sessions.write(test_suite=SUITE)
    return sessions


@pytest.fixture
def start(suite: PytestSessions) -> Iterator[Callable[..., Running]]:
    """Starts sessions, none of which outlives its test; with ``own`` each in a namespace that it makes."""
    started: list[Running] = []

    def begin(*more: str, own: bool = False, **environment: str) -> Running:
        sessions = replace(suite, namespace=None) if own else suite
        started.append(sessions.start(*more, **environment))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


def loading(suite: PytestSessions, session: Running) -> None:
    """Wait until one load was measured and the next goes on."""
    session.await_true("a load goes on", (suite.folder / "loading").exists)


def waiting(suite: PytestSessions, session: Running) -> None:
    """Wait until pods are waited for."""
    kubectl = ("get", "pods", "--all-namespaces", "--selector=app.kubernetes.io/managed-by=pytest-llmperf", "--output=wide")
    session.await_true("there is a pod", lambda: "node1" in suite.cluster.kubectl(*kubectl))


def kept_session(said: str) -> str:
    """The session that the command which is told would remove."""
    (found,) = re.findall(r"^kept in the namespace .*`pytest-llmperf gc .*--session=(\w+)", said, re.MULTILINE)
    return str(found)


def document(file: Path) -> int:
    """How many runs a document of a session has."""
    return len(json.loads(file.read_text())["runs"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal(suite: PytestSessions, start: Callable[..., Running], number: signal.Signals) -> None:
    session = start("-k", "test_one", "--llmperf-json=out.json", own=number == signal.SIGINT)
    loading(suite, session)
    session.process.send_signal(number)
    assert session.end() == pytest.ExitCode.INTERRUPTED
    assert left_of(suite.cluster) == []
    # The load that goes on may have begun by then.
    assert document(suite.folder / "out.json") == len(suite.runs()) >= 1


def test_a_signal_to_all_processes_under_xdist(suite: PytestSessions, start: Callable[..., Running]) -> None:
    session = start("-k", "test_one", *XDIST)
    loading(suite, session)
    os.killpg(session.process.pid, signal.SIGINT)
    assert session.end() == pytest.ExitCode.INTERRUPTED
    assert left_of(suite.cluster) == []


def test_a_signal_to_the_controller_alone(suite: PytestSessions, start: Callable[..., Running]) -> None:
    session = start("-k", "test_one", *XDIST)
    loading(suite, session)
    session.process.send_signal(signal.SIGTERM)
    assert session.end() == pytest.ExitCode.INTERRUPTED
    assert left_of(suite.cluster) == []


def test_the_first_failure(suite: PytestSessions) -> None:
    ended = suite.run("-x", "-k", "failing or crashing")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "1 failed" in ended.stdout
    assert left_of(suite.cluster) == []


def test_an_internal_error(suite: PytestSessions) -> None:
    suite.write(conftest=BREAKING)
    ended = suite.run("-k", "breaking")
    assert ended.returncode == pytest.ExitCode.INTERNAL_ERROR, ended.stdout
    assert "INTERNALERROR" in ended.stdout
    assert left_of(suite.cluster) == []


def test_a_workers_crash(suite: PytestSessions) -> None:
    one_worker = ("-n", "1", *XDIST[2:], "--max-worker-restart=1")
    ended = replace(suite, namespace=None).run("-k", "crashing or measured", *one_worker)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "crashed while running" in ended.stdout
    assert left_of(suite.cluster) == []
    assert len(suite.runs()) == 1


@pytest.mark.parametrize("phase", ["applying", "waiting", "loading", "deleting"])
def test_killed_and_collected(suite: PytestSessions, start: Callable[..., Running], phase: str) -> None:
    suite.write(conftest=DYING)
    session = start(
        "-k", "test_measured" if phase == "deleting" else "test_one", own=phase in {"applying", "loading"}, DIES=phase
    )
    match phase:
        case "waiting":
            waiting(suite, session)
            session.process.kill()
        case "loading":
            loading(suite, session)
            session.process.kill()
    assert session.end() == -signal.SIGKILL, session.said
    assert left_of(suite.cluster) != []
    runs = len(suite.runs())
    assert runs == (1 if phase in {"loading", "deleting"} else 0)
    collected = suite.gc()
    assert collected.returncode == 0, collected.stdout
    assert left_of(suite.cluster) == []
    assert len(suite.runs()) == runs


def test_what_a_killed_session_left_the_next_one_removes(suite: PytestSessions, start: Callable[..., Running]) -> None:
    session = start("-k", "test_one")
    waiting(suite, session)
    session.process.kill()
    session.end()
    assert left_of(suite.cluster) != []
    assert suite.run("-k", "test_measured").returncode == pytest.ExitCode.OK
    assert left_of(suite.cluster) == []


def test_what_is_kept_stays_until_it_is_collected(suite: PytestSessions) -> None:
    ended = suite.run("-k", "test_measured", "--llmperf-keep")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    session = kept_session(ended.stdout)
    assert any("/Deployment/" in one for one in left_of(suite.cluster))
    assert suite.gc().returncode == 0
    assert any("/Pod/" in one for one in left_of(suite.cluster)), "what is kept is nobody's to remove without being asked"
    collected = suite.gc(f"--session={session}")
    assert collected.returncode == 0, collected.stdout
    assert left_of(suite.cluster) == []


def test_what_a_crashed_worker_had_deployed_is_kept_too(suite: PytestSessions) -> None:
    ended = suite.run("-k", "crashing", "-n", "1", *XDIST[2:], "--max-worker-restart=1", "--llmperf-keep")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "crashed while running" in ended.stdout
    session = kept_session(ended.stdout)
    assert any("/Pod/" in one for one in left_of(suite.cluster))
    assert suite.gc().returncode == 0
    assert any("/Pod/" in one for one in left_of(suite.cluster)), "what is kept is nobody's to remove without being asked"
    collected = suite.gc(f"--session={session}")
    assert collected.returncode == 0, collected.stdout
    assert left_of(suite.cluster) == []


def test_a_kept_session_is_told_in_the_cells_name(suite: PytestSessions) -> None:
    ended = suite.run("-k", "test_measured", *XDIST, "--llmperf-keep")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert f"  {GKE}: ready after " in ended.stdout
    assert suite.gc(f"--session={kept_session(ended.stdout)}").returncode == 0
