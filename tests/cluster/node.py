"""The node as Linux sees it: one process in namespaces of its own, and the programs that run beside it in there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_llmperf.errors import DeployError
from tests.cluster.machine import SEARCH_PATH
from tests.cluster.processes import Process, children, process

INIT = Path(__file__).with_name("init.py")
NAMESPACES = ("--mount", "--net", "--pid")
ENVIRONMENT = {"PATH": SEARCH_PATH, "HOME": "/tmp", "LANG": "C.UTF-8"}
"""All that programs on the node see of the environment: no proxy and no credential of the user's."""
_BIRTH_TIMEOUT_S = 10.0
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Launched:
    """A program on the node, and the process outside that waits for it."""

    process: Process
    waiting: subprocess.Popen[str]

    @property
    def helper(self) -> Process:
        """The process outside."""
        return process(self.waiting.pid)


def make_node(folder: Path, programs: Path) -> Launched:
    """Make the namespaces. The node ends when this process does, unless ``let_stay`` is called."""
    log = (folder / "log" / "init.log").open("w")
    command = ["unshare", *NAMESPACES, "--fork", "--kill-child", sys.executable, "-I", str(INIT), str(folder), str(programs)]
    waiting = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT, text=True, start_new_session=True
    )
    log.close()
    assert waiting.stdout is not None
    if waiting.stdout.readline() != "ready\n":
        waiting.wait()
        raise DeployError("the node's namespaces cannot be made", log_tail=Path(log.name).read_text()[-2000:])
    return Launched(_only_child(waiting), waiting)


def let_stay(node: Launched) -> None:
    """Let the node outlive this process."""
    assert node.waiting.stdin is not None
    node.waiting.stdin.write("stay\n")
    node.waiting.stdin.close()


def launch(init: Process, command: Sequence[str], log: Path) -> Launched:
    """Start a program on the node, in the background."""
    with log.open("a") as output:
        waiting = subprocess.Popen(
            inside(init, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=ENVIRONMENT,
            text=True,
            start_new_session=True,
        )
    try:
        return Launched(_only_child(waiting), waiting)
    except DeployError as error:
        raise DeployError(f"{command[0]} does not start", log_tail=tail(log)) from error


def run(init: Process, command: Sequence[str], given: IO[bytes] | None = None) -> str:
    """Run a program on the node to its end, and give what it said. Raises ``DeployError`` where it fails."""
    done = subprocess.run(
        inside(init, command), stdin=given or subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, check=False
    )
    if done.returncode != 0:
        raise DeployError(f"`{' '.join(command)}` failed on the node", log_tail=done.stderr.decode(errors="replace")[-2000:])
    return done.stdout.decode()


def inside(init: Process, command: Sequence[str]) -> list[str]:
    """The command that runs ``command`` on the node."""
    return ["nsenter", "--target", str(init.pid), *NAMESPACES, "--", *command]


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def await_end(processes: Sequence[Process], timeout_s: float) -> list[Process]:
    """Wait until all have ended; those that have not in time."""
    give_up = time.monotonic() + timeout_s
    return [one for one in processes if not one.ends(give_up - time.monotonic())]


def _only_child(parent: subprocess.Popen[str]) -> Process:
    give_up = time.monotonic() + _BIRTH_TIMEOUT_S
    while time.monotonic() < give_up and parent.poll() is None:
        for child in children(parent.pid):
            return child
        time.sleep(_PAUSE_S)
    raise DeployError(f"process {parent.pid} (`{os.fsdecode(str(parent.args))[:80]}`) started nothing")
