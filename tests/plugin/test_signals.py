"""Real sessions that are signalled: what was set up is torn down, whoever gets the signal and however often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONFTEST = """
import os, time
from pathlib import Path
import pytest
from pytest_llmperf.plugin.terminate import listen, termination_of

def pytest_sessionstart(session):
    listen(session)

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    termination_of(session.config).end()

@pytest.fixture(scope="session")
def deployed(request):
    name = os.environ.get("PYTEST_XDIST_WORKER", "main")
    Path(f"up-{name}").touch()
    yield
    with termination_of(request.config).undisturbed():
        print(f"closing {name}", flush=True)
        Path(f"closing-{name}").touch()
        while not Path("close").exists():
            time.sleep(0.02)
        Path(f"down-{name}").touch()
"""
SUITE = """
import time
import pytest

@pytest.mark.parametrize("number", range(2))
def test_long(deployed, number):
    time.sleep(60)
"""
HEARING = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Who runs these tests under ``nohup``, or in a shell's background, has signals ignored, and its children inherit that."""
Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def started(pytester: pytest.Pytester) -> Started:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_suite=SUITE)

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HEARING, "-m", "pytest", "-p", "no:cacheprovider", *options]
        return subprocess.Popen(
            command, cwd=pytester.path, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return start


def await_file(session: subprocess.Popen[str], path: Path) -> None:
    while not path.exists():
        assert session.poll() is None, session.communicate()[0]
        signal.sigtimedwait([], 0.02)


def read_until(session: subprocess.Popen[str], expected: str) -> None:
    assert session.stdout is not None
    said = ""
    while expected not in said:
        line = session.stdout.readline()
        assert line, f"it ended before it said {expected!r}:\n{said}"
        said += line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_ends_the_session_and_a_second_does_not_cut_its_teardown_short(
    pytester: pytest.Pytester, started: Started, number: signal.Signals
) -> None:
    with started() as session:
        await_file(session, pytester.path / "up-main")
        session.send_signal(number)
        await_file(session, pytester.path / "closing-main")
        session.send_signal(number)
        read_until(session, "taking down what was deployed")
        (pytester.path / "close").touch()
        out, _ = session.communicate(timeout=60)
    assert session.returncode == pytest.ExitCode.INTERRUPTED
    assert (pytester.path / "down-main").exists()
    assert "no tests ran" in out


def test_a_third_gives_up(pytester: pytest.Pytester, started: Started) -> None:
    with started() as session:
        await_file(session, pytester.path / "up-main")
        session.send_signal(signal.SIGTERM)
        await_file(session, pytester.path / "closing-main")
        for expected in ("taking down what was deployed", "given up: `pytest-llmperf gc`"):
            session.send_signal(signal.SIGTERM)
            read_until(session, expected)
        session.communicate(timeout=60)
    assert session.returncode != 0
    assert not (pytester.path / "down-main").exists()


@pytest.mark.parametrize("to_all", [True, False], ids=["the whole group", "the controller alone"])
def test_workers_of_xdist_tear_down_too(pytester: pytest.Pytester, started: Started, to_all: bool) -> None:
    (pytester.path / "close").touch()
    with started("-n2", "--dist=loadgroup") as session:
        for name in ("up-gw0", "up-gw1"):
            await_file(session, pytester.path / name)
        send = os.killpg if to_all else os.kill
        send(session.pid, signal.SIGTERM)
        out, _ = session.communicate(timeout=60)
    assert session.returncode == pytest.ExitCode.INTERRUPTED, out
    assert (pytester.path / "down-gw0").exists(), out
    assert (pytester.path / "down-gw1").exists(), out
