"""An API server that is restarted while a session runs does not end the session."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import sleep
from typing import Any

import pytest

from tests.cluster.components import API_PORT
from tests.cluster.k8s_pytest import PytestSessions, Running
from tests.cluster.k8s_sessions import left_of

SUITE = """
from pathlib import Path
from threading import Timer
import pytest
from pytest_llmperf import constant

@pytest.mark.llmperf(workload="interactive-chat")
def test_one(load):
    Timer(3.0, Path("loading").touch).start()
    load(constant("4/s"), "14s", warmup="0s")

@pytest.mark.llmperf(workload="interactive-chat")
def test_two(load):
    load(constant("2/s"), "1s", warmup="0s")
"""


@pytest.fixture
def start(sessions: PytestSessions) -> Iterator[Callable[..., Running]]:
    """Starts sessions, each in a folder of its own; none of them outlives its test."""
    started: list[Running] = []

    def begin(name: str, *more: str) -> Running:
        folder = sessions.folder / name
        folder.mkdir()
        (folder / "fixtures").symlink_to(sessions.folder / "fixtures")
        (folder / "test_suite.py").write_text(SUITE)
        started.append(replace(sessions, folder=folder).start("--llmperf-json=out.json", *more))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


def test_while_loads_run(sessions: PytestSessions, start: Callable[..., Running]) -> None:
    # By the Service's address, which leads to this machine; what is loaded through the API server goes with that.
    direct, forwarded = start("direct", "--llmperf-reach=service"), start("forwarded")
    for one in (direct, forwarded):
        one.await_true("a load goes on", (one.output.parent / "loading").exists)
    restart(sessions)
    for one in (direct, forwarded):
        assert one.end() == pytest.ExitCode.OK, one.said
        assert " failed" not in one.said
    assert left_of(sessions.cluster) == [], direct.said + forwarded.said
    assert error_rates(direct) == [0, 0]
    # Requests that were in flight are lost, and it is told why; those that came meanwhile wait for the way.
    meanwhile, after = error_rates(forwarded)
    assert 0 < meanwhile < 1
    assert after == 0
    assert any("the port-forward lost" in note for note in runs(forwarded)[0]["client"]["notes"])


def test_while_pods_become_ready(sessions: PytestSessions, start: Callable[..., Running]) -> None:
    session = start("ready", "--llmperf-reach=service", "-k", "test_two")
    kubectl = ("get", "pods", "-A", "--selector=app.kubernetes.io/managed-by=pytest-llmperf", "--output=wide")
    session.await_true("there is a pod", lambda: "node1" in sessions.cluster.kubectl(*kubectl))
    restart(sessions)
    assert session.end() == pytest.ExitCode.OK, session.said
    assert " failed" not in session.said
    assert left_of(sessions.cluster) == [], session.said
    assert error_rates(session) == [0]


def runs(session: Running) -> list[dict[str, Any]]:
    """What it has measured; asked here, since in its own process a busy machine would keep it from an answer."""
    found: list[dict[str, Any]] = json.loads((session.output.parent / "out.json").read_text())["runs"]
    return found


def error_rates(session: Running) -> list[float]:
    """Of each of its loads."""
    return [run["metrics"]["error_rate"]["value"] for run in runs(session)]


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
