"""``python -m tests.cluster``, as a person uses it: each command is a process of its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.binaries import VARIABLE, kube_binaries

pytestmark = pytest.mark.usefixtures("able_machine")

ROOT = Path(__file__).parents[2]
Command = Callable[[str], str]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs one of the commands, apart from any cluster that really was brought up by hand."""
    environment = os.environ | {VARIABLE: str(kube_binaries()), "XDG_CACHE_HOME": str(tmp_path)}

    def run(what: str) -> str:
        words = [sys.executable, "-m", "tests.cluster", what]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_stands_after_the_command_that_brought_it_up(command: Command, tmp_path: Path) -> None:
    up = command("up")
    assert "up after" in up
    exports = "\n".join(line for line in up.splitlines() if line.startswith("export "))
    nodes = subprocess.run(["sh", "-c", f"{exports}\nkubectl get nodes"], capture_output=True, text=True, check=True).stdout
    assert " Ready " in nodes
    again = command("up")
    assert "up after" not in again
    assert exports in again
    assert "kubelet: process" in command("status")
    assert "down after" in command("down")
    assert command("status") == "no cluster\n"
    assert command("down") == "no cluster to bring down\n"
    assert list((tmp_path / "pytest-llmperf" / "cluster" / "nodes").iterdir()) == []


def test_one_whose_node_died_is_removed(command: Command) -> None:
    command("up")
    (line,) = (line for line in command("status").splitlines() if "node: process" in line)
    node = os.pidfd_open(int(line.split()[2]))
    try:
        signal.pidfd_send_signal(node, signal.SIGKILL)
        assert select.select([node], [], [], 10)[0]
    finally:
        os.close(node)
    assert "removed what a dead process had left" in command("down")
    assert command("status") == "no cluster\n"
