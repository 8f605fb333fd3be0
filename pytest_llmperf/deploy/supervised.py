"""A process that runs under the supervisor, as the session sees it: started, told apart from dead, ended."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import IO
from uuid import uuid4

from pytest_llmperf.deploy.supervisor import IS_LINUX, descendants, processes
from pytest_llmperf.errors import DeployError

GRACE_S = 20.0
"""Between SIGTERM and SIGKILL: an engine has GPU memory and shared memory to give back."""
KILL_S = 10.0
START_S = 30.0
MARKER = "PYTEST_LLMPERF_ENGINE"
"""A variable of every process of an engine, by which it is known when its supervisor is not there to tell."""
_PROGRAM = Path(__file__).with_name("supervisor.py")
_POLL_S = 0.02


class Supervised:
    """One command and everything that descends from it. Whatever ends this process, all of that is ended too."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        secrets: Sequence[str],
        log: IO[bytes],
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        """Start it. Raises ``DeployError`` where it cannot be run."""
        self._grace_s = grace_s
        self._heard = b""
        self._messages: dict[str, object] = {}
        self._mark = uuid4().hex
        # -I: nothing of the user's environment changes the supervisor, and the engine gets that environment, with its marker.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        marked = {**environment, MARKER: self._mark}
        order = {"command": list(command), "environment": marked, "secrets": list(secrets), "grace_s": grace_s}
        try:
            self._order(json.dumps(order).encode() + b"\n", command[0])
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int | None:
        """The first process of the command, and its group; None where it never ran."""
        pid = self._messages.get("pid")
        return pid if isinstance(pid, int) else None

    def death(self, wait_s: float = 0.0) -> str | None:
        """How it ended, or None while it runs; ``wait_s`` is how long to wait for an end that is expected."""
        self._listen("status", wait_s)
        status = self._messages.get("status")
        if isinstance(status, int):
            return ended_by(status)
        if (code := self._supervisor.poll()) is not None:
            return f"the process that looked after it has gone ({ended_by(code)})"
        return None

    def end(self) -> None:
        """End it and see that nothing of it is left. Raises ``DeployError`` where something is. Safe to call twice."""
        _close(self._supervisor.stdin)
        try:
            self._supervisor.wait(self._grace_s + KILL_S + START_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        self._listen("left", 0.0)
        _close(self._supervisor.stdout)
        if "left" not in self._messages:
            # A supervisor that was killed has told nothing, and what it looked after may go on.
            self._messages["left"] = self._killed()
        left = self._messages["left"]
        if isinstance(left, list) and left:
            named = " ".join(map(str, left))
            raise DeployError(f"processes of the engine do not end: {named}", hint=f"End them by hand: kill -9 -- {named}")

    def _order(self, line: bytes, program: str) -> None:
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        os.set_blocking(self._supervisor.stdout.fileno(), False)
        try:
            self._supervisor.stdin.write(line)
            self._supervisor.stdin.flush()
        except BrokenPipeError:
            raise DeployError("the engine's supervisor did not start") from None
        self._listen("pid", START_S)
        if (error := self._messages.get("error")) is not None:
            raise DeployError(f"{program} cannot be run: {error}")
        if self.pid is None:
            raise DeployError("the engine's supervisor did not start")

    def _listen(self, wanted: str, seconds: float) -> None:
        """Read what the supervisor has said, until it has said ``wanted`` or ``seconds`` have passed."""
        stdout = self._supervisor.stdout
        assert stdout is not None
        if stdout.closed:
            return
        deadline = monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while wanted not in self._messages and "error" not in self._messages:
                if not selector.select(max(0.0, deadline - monotonic())):
                    return
                if not (data := os.read(stdout.fileno(), 65_536)):
                    return
                *lines, self._heard = (self._heard + data).split(b"\n")
                for line in lines:
                    self._messages.update(json.loads(line))

    def _killed(self) -> list[int]:
        """Kill all that is left of the engine; and what is left even then. A negative number is a group."""
        deadline = monotonic() + KILL_S
        while left := self._left():
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if monotonic() >= deadline:
                break
            sleep(_POLL_S)  # they are not our children: there is nothing to wait on
        return left

    def _left(self) -> list[int]:
        """The engine's group, the processes with its marker and those below them; where /proc does not tell, its group as one."""
        if IS_LINUX:
            known = processes()
            own = [pid for pid, (_, group) in known.items() if group == self.pid or _is_marked(pid, self._mark)]
            return sorted({*own, *(below for pid in own for below in descendants(pid))})
        if self.pid is None:
            return []
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return []
        except PermissionError:
            pass  # there is one, and it is not ours
        return [-self.pid]


def _is_marked(pid: int, mark: str) -> bool:
    """Whether a process was started with the marker in its environment; one whose environment cannot be read was not."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARKER}={mark}".encode() in environment.split(b"\0")


def ended_by(code: int) -> str:
    """How a process ended, from the code that ``subprocess`` gives it."""
    if code >= 0:
        return f"its process ended with status {code}"
    try:
        return f"its process was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was killed by signal {-code}"


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is None:
        return
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was still to be written cannot be any more
