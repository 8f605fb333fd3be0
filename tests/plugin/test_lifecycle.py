"""One deployment a cell: stood up once, taken down after the cell's last test, whatever ends the session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

Sessions = Callable[..., pytest.RunResult]

# Each test notes the simulator's process id, its cell, and which simulators noted before are still alive.
SUITE = """
import os
from pathlib import Path
import pytest

pytestmark = pytest.mark.llmperf(workload="interactive-chat")
NOTES = Path({notes!r})

def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

def note(deployment):
    NOTES.mkdir(exist_ok=True)
    seen = [line.split() for file in NOTES.iterdir() for line in file.read_text().splitlines()]
    mine = deployment.process.pid
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    others = sum(w == worker and int(pid) != mine and alive(int(pid)) for w, _, pid in seen)
    assert others == 0, "a deployment outlived its cell's last test"
    with (NOTES / worker).open("a") as file:
        file.write(f"{{worker}} {{deployment.cell.id}} {{mine}}\\n")

def test_one(deployment):
    note(deployment)

def test_two(deployment):
    note(deployment)

class TestMore:
    def test_three(self, deployment):
        note(deployment)
"""

MATRIX = """
small:
  platforms: [gke]
  hardware: [h100, l40s, l4]
  methods: [standalone]
  models: [llama-3.2-3b]
"""


@pytest.fixture
def notes(pytester: pytest.Pytester) -> Path:
    folder = pytester.path / "notes"
    pytester.makepyfile(test_suite=SUITE.format(notes=str(folder)))
    (pytester.path / "fixtures").mkdir()
    (pytester.path / "fixtures" / "matrix.yaml").write_text(MATRIX)
    return folder


def noted(folder: Path) -> list[tuple[str, str, int]]:
    lines = [line.split() for file in folder.iterdir() for line in file.read_text().splitlines()]
    return [(worker, cell, int(pid)) for worker, cell, pid in lines]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        if condition():
            return True
    return condition()


def test_each_cell_has_one_deployment(llmperf: Sessions, notes: Path) -> None:
    result = llmperf("--llmperf-matrix=small")
    result.assert_outcomes(passed=9)
    rows = noted(notes)
    assert [cell for _, cell, _ in rows] == sorted((cell for _, cell, _ in rows), key=[c for _, c, _ in rows].index)
    assert len({pid for _, _, pid in rows}) == 3
    assert not any(is_alive(pid) for _, _, pid in rows)


def test_under_xdist_each_cell_stays_on_one_worker(llmperf: Sessions, notes: Path) -> None:
    result = llmperf("--llmperf-matrix=small", "-n", "4", "--dist", "loadgroup")
    result.assert_outcomes(passed=9)
    rows = noted(notes)
    assert len({(worker, cell, pid) for worker, cell, pid in rows}) == 3
    assert not any(is_alive(pid) for _, _, pid in rows)


def test_exit_first_leaves_nothing(pytester: pytest.Pytester, llmperf: Sessions, notes: Path) -> None:
    with (pytester.path / "test_suite.py").open("a") as file:
        file.write("\ndef test_zero(deployment):\n    note(deployment)\n    assert not 'deliberate'\n")
    llmperf("--llmperf-matrix=small", "-x", "-k", "zero").assert_outcomes(failed=1)
    assert not any(is_alive(pid) for _, _, pid in noted(notes))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_session_that_is_ended_leaves_nothing(pytester: pytest.Pytester, notes: Path, stop: signal.Signals) -> None:
    with (pytester.path / "test_suite.py").open("a") as file:
        file.write("\ndef test_zero(deployment):\n    note(deployment)\n    import threading; threading.Event().wait(60)\n")
    command = [sys.executable, "-m", "pytest", "--llmperf-matrix=small", "-k", "zero and h100"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL, start_new_session=True) as session:
        assert wait_until(lambda: notes.is_dir() and any(notes.iterdir()) and bool(noted(notes)), 60)
        session.send_signal(stop)
        session.wait(30)
    assert wait_until(lambda: not any(is_alive(pid) for _, _, pid in noted(notes)), 10)


def test_a_deployment_that_cannot_become_ready_is_an_error_at_setup(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite="def test_one(deployment):\n    assert deployment\n")
    result = llmperf("-k", "h100", "--llmperf-ready-timeout=1ms")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["DeployError: gke_h100_standalone_llama-3.1-8b: *"])
    assert "Traceback" not in result.stdout.str()
    assert "--llmperf-ready-timeout sets more" in result.stdout.str()


def test_a_cell_whose_model_cannot_fit_is_skipped_with_the_reason(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite="def test_one(deployment):\n    assert deployment\n")
    (pytester.path / "fixtures").mkdir()
    (pytester.path / "fixtures" / "matrix.yaml").write_text(
        "big:\n  platforms: [gke]\n  hardware: [l4]\n  methods: [standalone]\n  models: [llama-3.3-70b]\n"
    )
    result = llmperf("--llmperf-matrix=big", "-rs")
    result.assert_outcomes(skipped=1)
    assert "llama-3.3-70b" in result.stdout.str()
    assert "needs 131.5 GiB of weights" in " ".join(result.stdout.str().split())
