"""The sim target: every cell is a simulator process on this machine, shaped by the cell's records."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint, Phase, Progress
from pytest_llmperf.deploy.readiness import await_ready, timeout_hint
from pytest_llmperf.deploy.simspec import sim_spec
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.records import Cell

LOG_TAIL_LINES = 20
END_TIMEOUT_S = 5.0


@dataclass
class SimDeployment:
    """One simulator process. ``close`` ends it; if this process dies first, the simulator sees that and ends itself."""

    cell: Cell
    endpoint: Endpoint
    info: DeploymentInfo
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path = field(repr=False)

    def log_tail(self) -> str:
        """The simulator's last lines."""
        return _tail(self.log)

    def close(self) -> None:
        """End the process and wait for it. Raises ``DeployError`` when it will not go."""
        _end(self.process)
        self.log.unlink(missing_ok=True)


@dataclass(frozen=True)
class SimTarget:
    """``--llmperf-target=sim``, the default."""

    ready_timeout_s: float
    seed: int = 0
    name: str = "sim"

    def check(self) -> None:
        """Nothing can be wrong before a cell is known."""

    def deploy(self, cell: Cell, progress: Progress) -> SimDeployment:
        """Start the simulator and wait for its first completion. Raises ``DeployError`` with the simulator's log."""
        started = monotonic()
        spec = sim_spec(cell, self.seed)
        command = (sys.executable, "-m", "pytest_llmperf.sim", "--spec", "-", "--port", "0", "--parent-pid", str(os.getpid()))
        handle, log_name = tempfile.mkstemp(prefix="llmperf-sim-", suffix=".log")
        log = Path(log_name)
        with os.fdopen(handle, "wb") as log_file:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True
            )
        try:
            port = _port_of(process, spec.to_json(), started + self.ready_timeout_s)
            listening_s = monotonic() - started
            answer = await_ready(
                f"http://127.0.0.1:{port}",
                model=cell.model.name,
                api_key=None,
                timeout_s=self.ready_timeout_s,
                progress=progress,
                alive=lambda: _death(process),
            )
        except BaseException as error:
            _end(process)
            tail = _tail(log)
            log.unlink(missing_ok=True)
            if isinstance(error, DeployError):
                raise DeployError(
                    f"{cell.id}: {error.what}",
                    state=error.state,
                    hint=error.hint or timeout_hint(self.ready_timeout_s),
                    log_tail=tail,
                ) from None
            raise
        info = DeploymentInfo(
            target=self.name,
            simulated=True,
            engine=answer.engine,
            command=command[1:],
            phases=(
                Phase("process", listening_s),
                Phase("cold start", answer.ready_s),
                Phase("first completion", answer.first_completion_s),
            ),
        )
        return SimDeployment(cell, answer.endpoint, info, process, log)


def _port_of(process: subprocess.Popen[bytes], spec: str, deadline: float) -> int:
    """Hand the spec over and read the line the simulator prints once it listens."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(spec.encode())
        process.stdin.close()
    except BrokenPipeError:
        raise DeployError(f"the simulator did not start: {_death(process, wait=True)}") from None
    line = _line_before(process.stdout, deadline)
    if not line:
        raise DeployError(f"the simulator did not start: {_death(process, wait=True)}")
    return int(json.loads(line)["port"])


def _line_before(stream: IO[bytes], deadline: float) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline() if selector.select(max(0.0, deadline - monotonic())) else b""


def _death(process: subprocess.Popen[bytes], wait: bool = False) -> str | None:
    if wait:
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it said nothing"
    code = process.poll()
    return None if code is None else f"its process ended with status {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for stop in (process.terminate, process.kill):
        if process.poll() is None:
            stop()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        break
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        raise DeployError(f"the simulator (process {process.pid}) does not end")


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_TAIL_LINES:])
