"""The sim target: every cell is a simulator process on this machine, shaped by the cell's records."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from time import monotonic
from typing import IO

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint, Phase, Progress, version_in
from pytest_llmperf.deploy.readiness import await_ready, timeout_hint
from pytest_llmperf.deploy.simspec import arguments_of, sim_spec
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import masked_text

LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16_384
END_TIMEOUT_S = 5.0


@dataclass
class SimDeployment:
    """One simulator process. ``close`` ends it; if this process dies first, the simulator sees that and ends itself."""

    cell: Cell
    endpoint: Endpoint
    info: DeploymentInfo
    process: subprocess.Popen[bytes] = field(repr=False)
    log: IO[bytes] = field(repr=False)

    def log_tail(self) -> str:
        """The simulator's last lines; empty once it is closed."""
        return _tail(self.log)

    def lost(self) -> str | None:
        """How the process ended, if it did."""
        return _death(self.process)

    def close(self) -> None:
        """End the process and wait for it. Raises ``DeployError`` when it will not go."""
        _end(self.process)
        self.log.close()


@dataclass(frozen=True)
class SimTarget:
    """``--llmperf-target=sim``, the default."""

    ready_timeout_s: float
    seed: int = 0
    name: str = "sim"

    def check(self) -> None:
        """Nothing can be wrong before a cell is known."""

    def check_cells(self, cells: Sequence[Cell]) -> None:
        """Nothing more is known of a cell before it is deployed."""

    def deploy(self, cell: Cell, progress: Progress) -> SimDeployment:
        """Start the simulator and wait for its first completion. Raises ``DeployError`` with the simulator's log."""
        started = monotonic()
        spec = sim_spec(cell, self.seed)
        # -P: a file of the user's working directory must not shadow a module of the simulator.
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "pytest_llmperf.sim", "--spec", "-", "--port", "0")
        command += ("--parent-pid", str(os.getpid()))
        with ExitStack() as undo:
            log = undo.enter_context(TemporaryFile())  # it has no name: nothing is left of it, whatever ends this process
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
            undo.callback(_end, process)
            try:
                port = _port_of(process, spec.to_json(), self.ready_timeout_s)
                listening_s = monotonic() - started
                answer = await_ready(
                    f"http://127.0.0.1:{port}",
                    model=cell.model.name,
                    api_key=None,
                    timeout_s=self.ready_timeout_s,
                    progress=progress,
                    lost=lambda: _death(process),
                )
            except DeployError as error:
                raise DeployError(f"{cell.id}: {error.what}", state=error.state, hint=error.hint, log_tail=_tail(log)) from None
            undo.pop_all()
        info = DeploymentInfo(
            target=self.name,
            simulated=True,
            engine=answer.engine,
            engine_version=version_in(answer.engine),
            engine_arguments=arguments_of(spec.engine),
            gpu=_simulated_gpu(cell),
            command=_by_hand(cell, self.seed),
            phases=(
                Phase("process", listening_s),
                Phase("cold start", answer.ready_s),
                *answer.completion_phase,
            ),
        )
        return SimDeployment(cell, answer.endpoint, info, process, log)

    def end(self) -> str:
        """Nothing is held beside the deployments."""
        return ""


def _by_hand(cell: Cell, seed: int) -> tuple[str, ...]:
    """The command that serves the same simulation to any client."""
    named = ("--hardware", cell.hardware.id, "--model", cell.model.name, "--variant", cell.variant.name)
    return ("pytest-llmperf", "sim", *named, "--seed", str(seed))


def _simulated_gpu(cell: Cell) -> str:
    """``NVIDIA H100 80GB (simulated)``; ``4 x ...`` where the cell has several."""
    count = f"{cell.hardware.count} x " if cell.hardware.count > 1 else ""
    return f"{count}{cell.hardware.title} (simulated)"


def _port_of(process: subprocess.Popen[bytes], spec: str, timeout_s: float) -> int:
    """Hand the spec over and read the line the simulator prints once it listens."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(spec.encode())
        process.stdin.close()
    except BrokenPipeError:
        raise DeployError(f"the simulator did not start: {_last_word(process)}") from None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout_s):
            raise DeployError("the simulator did not start: it said nothing", hint=timeout_hint(timeout_s))
    line = process.stdout.readline()
    if not line:
        raise DeployError(f"the simulator did not start: {_last_word(process)}")
    return int(json.loads(line)["port"])


def _last_word(process: subprocess.Popen[bytes]) -> str:
    """How a process ended whose output has."""
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "it closed its output"
    return _death(process) or ""


def _death(process: subprocess.Popen[bytes]) -> str | None:
    code = process.poll()
    if code is None:
        return None
    return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with status {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for stop in (process.terminate, process.kill):
        stop()  # does nothing once the process is known to have ended
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        break
    else:
        raise DeployError(f"the simulator (process {process.pid}) does not end")
    if process.stdout is not None:
        process.stdout.close()


def _tail(log: IO[bytes]) -> str:
    if log.closed:
        return ""
    # pread: the simulator writes through the same descriptor, whose position must not move.
    size = os.fstat(log.fileno()).st_size
    end = os.pread(log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))
    return masked_text("\n".join(end.decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]))
