"""The process target: every cell is an engine on this machine, started by a command and ended with all that descends from it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from typing import IO

import httpx

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint, Phase, Progress, version_in
from pytest_llmperf.deploy.engine_command import HOST, EngineCommand, find_program, parse_command
from pytest_llmperf.deploy.gpu import NO_GPU, gpu_here
from pytest_llmperf.deploy.readiness import ANSWER_S, Answer, await_ready, timeout_hint
from pytest_llmperf.deploy.secrets import api_key_of, masked, secret_values
from pytest_llmperf.deploy.supervised import Supervised
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import masked_text

LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 16_384
PORT_ATTEMPTS = 3
PORT_IS_TAKEN = "address already in use"
EXPECTED_END_S = 5.0
"""How long an engine that has stopped serving may take to end, so that its end can be told."""
DYING_S = 0.5
"""The same, of one that broke a connection while it was started."""
_CREDENTIAL_HINT = "Its key is read from the command's --api-key, else from the variable VLLM_API_KEY: give it in one of them."


@dataclass
class ProcessDeployment:
    """One engine. ``close`` ends it; if this process dies first, its supervisor sees that and ends it."""

    cell: Cell
    endpoint: Endpoint
    info: DeploymentInfo
    process: Supervised = field(repr=False)
    log: EngineLog = field(repr=False)
    port: ReservedPort = field(repr=False)

    def log_tail(self) -> str:
        """The engine's last lines; empty once it is closed."""
        return self.log.tail()

    def lost(self) -> str | None:
        """How the engine ended or that it serves no more. An engine that is slow is not lost."""
        if (reason := self.process.death()) is not None:
            return reason
        try:
            answer = httpx.get(f"{self.endpoint.base_url}/health", timeout=ANSWER_S, trust_env=False)
        except httpx.TimeoutException:
            return None
        except httpx.TransportError as error:
            reason = f"{self.endpoint.base_url} cannot be reached any more ({error})"
        else:
            # A service of another kind need not have the path, and says so as it likes.
            if not (answer.is_server_error and self.endpoint.openai):
                return None
            reason = f"its /health answers {answer.status_code}"
        # An engine whose core has died answers so for a moment and ends; how it ended says more.
        end = self.process.death(EXPECTED_END_S)
        return f"{reason}, then {end}" if end is not None else reason

    def close(self) -> None:
        """End the engine and all its processes. Raises ``DeployError`` when they will not go."""
        with ExitStack() as undo:
            undo.callback(self.port.close)
            undo.callback(self.log.close)
            self.process.end()


@dataclass(frozen=True)
class ProcessTarget:
    """``--llmperf-target=process [--llmperf-engine-command=COMMAND]``.

    ``log_directory`` is where the engines' logs are kept; without one, a log lives as long as its deployment.
    """

    command: str | None
    ready_timeout_s: float
    name: str = "process"
    log_directory: Path | None = None
    ready_paths: tuple[str, ...] = ()
    """Of a service that only templates ask (``api: http``): where it must answer. Empty: the OpenAI-compatible API."""

    def check(self) -> None:
        """Raises ``ConfigError`` for a command with a placeholder that does not exist, no port, or no program of its name."""
        find_program(parse_command(self.command).words[0])

    def check_cells(self, cells: Sequence[Cell]) -> None:
        """Nothing more is known of a cell before it is deployed."""

    def deploy(self, cell: Cell, progress: Progress) -> ProcessDeployment:
        """Start the engine and wait for its first completion. Raises ``DeployError`` with the engine's log."""
        command = parse_command(self.command)
        with ExitStack() as undo:
            log = undo.enter_context(EngineLog(cell, self.log_directory))
            try:
                deployment = self._on_a_free_port(cell, command, log, progress)
            except DeployError as error:
                raise DeployError(f"{cell.id}: {error.what}", state=error.state, hint=error.hint, log_tail=log.tail()) from None
            undo.pop_all()
        return deployment

    def end(self) -> str:
        """Nothing is held beside the deployments."""
        return ""

    def _on_a_free_port(self, cell: Cell, command: EngineCommand, log: EngineLog, progress: Progress) -> ProcessDeployment:
        deadline = monotonic() + self.ready_timeout_s
        for _ in range(PORT_ATTEMPTS - 1):
            before = log.size
            try:
                return self._start(cell, command, log, progress, deadline)
            except _EndedError:
                # An engine that lives has its port, whatever else it says is in use.
                if PORT_IS_TAKEN not in log.tail(before).lower() or monotonic() >= deadline:
                    raise
                # A program that is no engine of ours took the port first.
        return self._start(cell, command, log, progress, deadline)

    def _start(
        self, cell: Cell, command: EngineCommand, log: EngineLog, progress: Progress, deadline: float
    ) -> ProcessDeployment:
        started = monotonic()
        with ExitStack() as undo:
            port = undo.enter_context(ReservedPort())
            words = command.filled(cell, port.number)
            program, beside = find_program(words[0])
            environment = _with_path(cell.variant.env, beside)
            secrets = secret_values(words, {**os.environ, **environment})
            engine = Supervised((program, *words[1:]), environment, secrets, log.file)
            undo.callback(engine.end)
            process_s = monotonic() - started
            answer = self._ready(engine, port, cell, api_key_of(words, {**os.environ, **environment}), progress, deadline)
            if (reason := engine.death()) is not None:  # then it was another server that answered at the port
                raise _EndedError(f"the engine ended while it was started: {reason}")
            undo.pop_all()
        # What a simulator started so stands for is not the machine's.
        gpu = NO_GPU if answer.endpoint.simulated else gpu_here()
        info = DeploymentInfo(
            target=self.name,
            simulated=answer.endpoint.simulated,
            engine=answer.engine,
            engine_version=version_in(answer.engine),
            engine_arguments=_documented(_arguments(words), {}, secrets),
            gpu=gpu.name,
            driver=gpu.driver,
            command=_documented(words, cell.variant.env, secrets),
            phases=(
                Phase("process", process_s),
                Phase("cold start", answer.ready_s),
                *answer.completion_phase,
            ),
        )
        return ProcessDeployment(cell, answer.endpoint, info, engine, log, port)

    def _ready(
        self, engine: Supervised, port: ReservedPort, cell: Cell, api_key: str | None, progress: Progress, deadline: float
    ) -> Answer:
        left_s = deadline - monotonic()
        try:
            return await_ready(
                f"http://{HOST}:{port.number}",
                model=cell.model.name,
                api_key=api_key,
                timeout_s=left_s,
                progress=progress,
                lost=engine.death,
                ready_paths=self.ready_paths,
                credential_hint=_CREDENTIAL_HINT,
            )
        except DeployError as error:
            # All attempts together have the time that was given.
            hint = timeout_hint(self.ready_timeout_s) if error.hint == timeout_hint(left_s) else error.hint
            if (end := engine.death(DYING_S)) is None:
                raise DeployError(error.what, state=error.state, hint=hint) from None
            what = error.what if end in error.what else f"{error.what}; {end}"
            raise _EndedError(what, state=error.state, hint=hint) from None


class _EndedError(DeployError):
    """The engine ended while it was started."""


class ReservedPort:
    """A TCP port that was free a moment ago, and that no other session of ours takes until it is closed.

    The port itself must stay free for the engine. The UDP port of the same number is what is held: exclusive, gone with its
    holder, and no file.
    """

    def __init__(self) -> None:
        while True:
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                self.number: int = probe.getsockname()[1]
            self._held = socket.socket(type=socket.SOCK_DGRAM)
            try:
                self._held.bind((HOST, self.number))
            except OSError:
                self._held.close()
                continue
            return

    def __enter__(self) -> ReservedPort:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        self._held.close()


class EngineLog:
    """The file an engine's output goes to. The supervisor writes it; here it is opened, read from its end and closed."""

    def __init__(self, cell: Cell, directory: Path | None) -> None:
        self.path: Path | None = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self.path = directory / f"{cell.id}_{datetime.now(UTC):%Y%m%d-%H%M%S-%f}_{os.getpid()}.log"
        self.file = _opened(self.path)

    def __enter__(self) -> EngineLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self.file.fileno()).st_size

    def tail(self, start: int = 0) -> str:
        """The last lines without secrets, none before byte ``start``, and where the rest is; empty once it is closed."""
        if self.file.closed:
            return ""
        size = self.size
        # One that is shorter than it was had its middle left out.
        first = max(start if start <= size else 0, size - LOG_TAIL_BYTES)
        # pread: the supervisor writes through the same descriptor, whose position must not move.
        end = os.pread(self.file.fileno(), LOG_TAIL_BYTES, first)
        lines = masked_text("\n".join(end.decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]))
        return "\n".join(filter(None, [lines, f"(the whole log: {self.path})"])) if self.path is not None else lines

    def close(self) -> None:
        """Close it; a file with a name is kept."""
        self.file.close()


def _opened(path: Path | None) -> IO[bytes]:
    """The file; without a path one that has no name, so that nothing is left of it, whatever ends this process."""
    return path.open("x+b") if path is not None else TemporaryFile()


def _with_path(environment: Mapping[str, str], beside: str | None) -> dict[str, str]:
    """The variant's environment; a program found beside Python finds those of its folder too (vLLM looks for ninja)."""
    if beside is None:
        return dict(environment)
    path = environment.get("PATH", os.environ.get("PATH", os.defpath))
    return {**environment, "PATH": os.pathsep.join([beside, path])}


def _arguments(words: tuple[str, ...]) -> tuple[str, ...]:
    """What the engine is told: all that follows its program, and ``serve`` where that is vLLM's."""
    return words[2:] if words[1:2] == ("serve",) else words[1:]


def _documented(words: tuple[str, ...], environment: Mapping[str, str], secrets: tuple[str, ...]) -> tuple[str, ...]:
    """The command as a shell would take it, the variant's environment before it, without secrets."""
    assignments = (f"{name}={value}" for name, value in environment.items())
    return tuple(masked(word, secrets) for word in (*assignments, *words))
