"""How engines of the process target end: they crash, hang, ignore signals and leave children; none of them is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llmperf.deploy import process, supervised
from pytest_llmperf.deploy.base import check_standing
from pytest_llmperf.deploy.process import ProcessDeployment
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.engine_processes import CELL, FAKE, children, deployed, is_gone, pid_of, target


def test_an_engine_that_dies_while_it_starts_is_told_at_once_with_its_status_and_log() -> None:
    before = children()
    with pytest.raises(DeployError) as caught:
        target("--say 'no such model' --exit 7", ready_timeout_s=120.0).deploy(CELL, lambda _: None)
    text = str(caught.value)
    assert f"{CELL.id}: the server ended before it was ready: its process ended with status 7" in text
    assert "no such model" in text
    assert "Waited" not in text
    assert children() == before


def test_an_engine_that_dies_of_its_first_completion_is_told_with_its_status() -> None:
    with pytest.raises(DeployError) as caught:
        target("--die-on-completion").deploy(CELL, lambda _: None)
    assert "the first completion failed" in str(caught.value)
    assert "its process ended with status 3" in str(caught.value)
    assert "CUDA error: out of memory" in caught.value.log_tail


def test_an_engine_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(DeployError, match=r"Waited 1s; --llmperf-ready-timeout sets more\."):
        target(f"--hang --daemon {tmp_path / 'pid'}", ready_timeout_s=1.0).deploy(CELL, lambda _: None)
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert children() == before


def test_an_engine_of_another_model_is_refused_and_ended() -> None:
    before = children()
    with pytest.raises(DeployError, match="does not serve the model"):
        target("--served-model another").deploy(CELL, lambda _: None)
    assert children() == before


def test_a_child_that_left_the_group_goes_with_its_engine(tmp_path: Path) -> None:
    with deployed(target(f"--daemon {tmp_path / 'pid'}")):
        child = int((tmp_path / "pid").read_text())
        assert not is_gone(child)
    assert is_gone(child)


def test_processes_that_ignore_sigterm_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised.Supervised.__init__, "__kwdefaults__", {"grace_s": 0.3})
    with deployed(target(f"--deaf --daemon {tmp_path / 'pid'}")) as deployment:
        child = int((tmp_path / "pid").read_text())
    assert is_gone(pid_of(deployment))
    assert is_gone(child)


def test_a_child_that_outlives_a_crash_is_ended(tmp_path: Path) -> None:
    with deployed(target(f"--daemon {tmp_path / 'pid'}")) as deployment:
        check_standing(deployment)
        os.kill(pid_of(deployment), signal.SIGKILL)
        deployment.process.death(10.0)
        with pytest.raises(DeployError, match=rf"{CELL.id}: the deployment was lost: its process was killed by SIGKILL"):
            check_standing(deployment)
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_an_engine_whose_core_died_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "EXPECTED_END_S", 0.1)
    with subprocess.Popen(["sleep", "600"]) as core:
        try:
            with deployed(target(f"--core {core.pid}")) as deployment:
                assert deployment.lost() is None
                core.kill()
                core.wait()
                assert deployment.lost() == "its /health answers 503"
        finally:
            core.kill()


def test_an_engine_whose_supervisor_was_killed_is_lost_and_leaves_nothing() -> None:
    with deployed(target()) as deployment:
        supervisor = int(Path(f"/proc/{pid_of(deployment)}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        deployment.process._supervisor.wait(10)
        assert deployment.lost() == "the process that looked after it has gone (its process was killed by SIGKILL)"
    assert is_gone(pid_of(deployment))


def killed_supervisor(deployment: ProcessDeployment) -> None:
    os.kill(deployment.process._supervisor.pid, signal.SIGKILL)
    deployment.process._supervisor.wait(10)


def test_a_child_in_a_session_of_its_own_goes_too_when_the_supervisor_was_killed(tmp_path: Path) -> None:
    with deployed(target(f"--deaf --daemon {tmp_path / 'pid'}")) as deployment:
        child = int((tmp_path / "pid").read_text())
        killed_supervisor(deployment)
        assert not is_gone(child)
    assert is_gone(child)
    assert is_gone(pid_of(deployment))


def test_what_does_not_end_without_a_supervisor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "KILL_S", 0.0)  # nothing has ended by then
    deployment = target(f"--daemon {tmp_path / 'pid'}").deploy(CELL, lambda _: None)
    child = int((tmp_path / "pid").read_text())
    killed_supervisor(deployment)
    with pytest.raises(DeployError, match=rf"^processes of the engine do not end: (\d+ )*{child}\b"):
        deployment.close()


SESSION = """
import os, sys
from pytest_llmperf.deploy.process import ProcessTarget
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
catalog = load_catalog([builtin_directory()])
cell = expand(catalog.matrix_named("default"), catalog)[0]
deployment = ProcessTarget(command=sys.argv[1], ready_timeout_s=30.0).deploy(cell, lambda _: None)
print(deployment.process.pid, flush=True)
sys.stdin.read()
"""


def test_an_engine_ends_when_its_session_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SESSION, f"{FAKE} --daemon {tmp_path / 'pid'}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        engine = int(session.stdout.readline())
        child = int((tmp_path / "pid").read_text())
        watched = [os.pidfd_open(pid) for pid in (engine, child)]
        session.kill()
    for descriptor in watched:
        assert wait_for_end(descriptor, 30.0)
    assert is_gone(engine)
    assert is_gone(child)


def wait_for_end(pidfd: int, seconds: float) -> bool:
    """Whether the process ended within that time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)
