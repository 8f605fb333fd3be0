"""The protocol every target keeps: a cell -> a ready endpoint -> nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Protocol

from pytest_llmperf.errors import DeployError

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell

UNKNOWN_ENGINE = "unknown"
"""``DeploymentInfo.engine`` of a server that does not say what it is."""
Progress = Callable[[str], None]
"""Called with a short phrase each time the state of a deployment changes."""


def say_nothing(_phrase: str) -> None:
    """The progress of what nobody wants to hear of."""


@dataclass(frozen=True)
class Endpoint:
    """A server: ``base_url`` without ``/v1`` (``http://127.0.0.1:8000``) and the model's served name.

    ``api_key`` is sent as a Bearer token, ``headers`` (name, value) with every request; neither is ever shown: they are left
    out of ``repr`` and of every document.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    simulated: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None
    """A file of certificates to trust instead of the system's."""
    verify: bool = True
    """Whether a TLS certificate is checked."""
    stream_usage: bool = True
    """Whether the server takes ``stream_options`` and says in a stream how many tokens it holds."""
    continuous_usage: bool = True
    """Whether it says so in every event, where it is asked to (``continuous_usage_stats``)."""
    openai: bool = True
    """Whether it has an OpenAI-compatible API; without one ``model`` is as the user named it, or empty."""


@dataclass(frozen=True)
class Phase:
    """One stretch of a deployment's way to readiness."""

    name: str
    seconds: float


@dataclass(frozen=True)
class DeploymentInfo:
    """What results document about a deployment: how it was made, what answered."""

    target: str
    simulated: bool
    engine: str
    """What the server says it is: ``vLLM 0.32.0``."""
    command: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()
    ready_at: float = field(default_factory=time, compare=False)
    """Seconds since the epoch when it had answered, which ended the last phase: whoever has seen that makes this record."""
    engine_version: str | None = None
    engine_arguments: tuple[str, ...] = ()
    """What follows the engine's own name in its command, or what the simulator takes for it; without secrets."""
    image: str | None = None
    image_digest: str | None = None
    gpu: str | None = None
    """The accelerator as the machine or the node names it; a simulated one says so."""
    driver: str | None = None
    manifests: tuple[str, ...] = ()
    """What was applied, as YAML documents without secrets."""
    notes: tuple[str, ...] = ()
    """What whoever reads a run of it must know of the way to it: each is among the notes of the run's client."""
    pods_ready_at: float | None = None
    """On Kubernetes: seconds since the epoch when its pods were seen to be ready. What passes from then to the first request is
    the client's doing."""


def version_in(engine: str) -> str | None:
    """``vLLM 0.32.0`` -> ``0.32.0``; None for an engine that did not say."""
    version = engine.removeprefix("vLLM ").removeprefix("simulator ")
    return version if version and version != UNKNOWN_ENGINE else None


class Deployment(Protocol):
    """A running deployment of a cell."""

    @property
    def cell(self) -> Cell: ...

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def info(self) -> DeploymentInfo: ...

    def log_tail(self) -> str:
        """The engine's last log lines, for a failing test's report; empty where there is no log to reach."""
        ...

    def lost(self) -> str | None:
        """Why it cannot answer any more, or None while it can: a process that ended, a server that is gone."""
        ...

    def close(self) -> None:
        """Take the deployment down and see that it is gone. Safe to call twice. Raises ``DeployError`` when it is not."""
        ...


class Target(Protocol):
    """Where a session runs its cells: ``sim``, ``process``, ``endpoint``, ``kubernetes``."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Whatever can be known to be wrong before a test runs. Raises ``ConfigError``."""
        ...

    def check_cells(self, cells: Sequence[Cell]) -> None:
        """The same of the cells that are about to run, once they are known; it may ask a cluster. Raises ``LlmperfError``."""
        ...

    def deploy(self, cell: Cell, progress: Progress) -> Deployment:
        """Stand the cell up and wait until it has answered. Raises ``DeployError`` and leaves nothing behind."""
        ...

    def end(self) -> str:
        """Give back what was held for the session itself, now that its deployments are closed. Safe to call twice.

        What is left standing, as it was asked for, and how to remove it; empty otherwise. Raises ``DeployError``.
        """
        ...


def check_standing(deployment: Deployment) -> None:
    """Raises ``DeployError`` for a deployment that is lost, so that nobody takes its silence for a measurement."""
    if (reason := deployment.lost()) is not None:
        raise DeployError(
            f"{deployment.cell.id}: the deployment was lost: {reason}",
            hint="What was measured until then is kept; pytest's --lf runs what has failed again.",
            log_tail=deployment.log_tail(),
        )
