"""An API server that is restarted while a session runs does not end the session."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from time import sleep

import pytest

from tests.cluster.components import API_PORT
from tests.cluster.k8s_pytest import PytestSessions, Running
from tests.cluster.k8s_sessions import left_of

SUITE = """
from pathlib import Path
import pytest
from pytest_llmperf import constant

@pytest.mark.llmperf(workload="interactive-chat")
def test_one(load):
    load(constant("2/s"), "1s", warmup="0s")
    Path("loading").touch()
    run = load(constant("2/s"), "8s", warmup="0s")
    assert run["error_rate"] == 0

@pytest.mark.llmperf(workload="interactive-chat")
def test_two(load):
    run = load(constant("2/s"), "1s", warmup="0s")
    assert run["error_rate"] == 0
"""


@pytest.fixture
def running(sessions: PytestSessions) -> Iterator[Running]:
    sessions.write(test_suite=SUITE)
    # By the Service's address, which leads to this machine: what is loaded through the API server goes with it.
    running = sessions.start("--llmperf-reach=service")
    yield running
    running.kill()


def test_while_a_load_runs(sessions: PytestSessions, running: Running) -> None:
    running.await_true("a load goes on", (sessions.folder / "loading").exists)
    restart(sessions)
    assert running.end() == pytest.ExitCode.OK, running.said
    assert " failed" not in running.said
    assert left_of(sessions.cluster) == [], running.said


def test_while_pods_become_ready(sessions: PytestSessions, running: Running) -> None:
    selector = "--selector=app.kubernetes.io/managed-by=pytest-llmperf"
    running.await_true(
        "there is a pod", lambda: "node1" in sessions.cluster.kubectl("get", "pods", "-A", selector, "--output=wide")
    )
    restart(sessions)
    assert running.end() == pytest.ExitCode.OK, running.said
    assert " failed" not in running.said


def restart(sessions: PytestSessions) -> None:
    """As a crash or an upgrade does."""
    sessions.cluster.stop("kube-apiserver", signal.SIGKILL)
    while is_taken(sessions.cluster.network.node, API_PORT):
        sleep(0.05)  # its threads end after it
    sessions.cluster.start("kube-apiserver")
    sessions.cluster.await_true("the API server is ready again", sessions.cluster.api.is_ready)


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
