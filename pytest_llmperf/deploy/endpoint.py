"""The endpoint target: a server that somebody else runs. Nothing is stood up, nothing is taken down."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint, Phase, Progress
from pytest_llmperf.deploy.readiness import await_ready
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.records import Cell


@dataclass(frozen=True)
class EndpointDeployment:
    """A cell that is served at a URL."""

    cell: Cell
    endpoint: Endpoint
    info: DeploymentInfo

    def log_tail(self) -> str:
        """Empty: the server's log is not within reach."""
        return ""

    def close(self) -> None:
        """Nothing: the server is not ours."""


@dataclass(frozen=True)
class EndpointTarget:
    """``--llmperf-target=endpoint --llmperf-url=URL``."""

    url: str
    served_model: str | None
    ready_timeout_s: float
    api_key: str | None = field(default=None, repr=False)
    name: str = "endpoint"

    def check(self) -> None:
        """Raises ``ConfigError`` when the URL cannot be one, or carries a secret or a path that belongs elsewhere."""
        where = Where(option="--llmperf-url")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"{parts.scheme or self.url!r} is no http(s) URL", where=where, hint="Write http://HOST:PORT.")
        if parts.password or parts.username:
            raise ConfigError("the URL holds a credential", where=where, hint="Put the token into LLMPERF_API_KEY instead.")
        if parts.path.rstrip("/").endswith("/v1"):
            raise ConfigError("the URL ends in /v1", where=where, hint="Give the server's root; /v1 is added.")

    def deploy(self, cell: Cell, progress: Progress) -> EndpointDeployment:
        """See that the server answers. Raises ``DeployError``."""
        answer = await_ready(
            self.url.rstrip("/"),
            model=self.served_model,
            api_key=self.api_key,
            timeout_s=min(self.ready_timeout_s, 30.0),
            progress=progress,
        )
        info = DeploymentInfo(
            target=self.name,
            simulated=answer.endpoint.simulated,
            engine=answer.engine,
            phases=(Phase("ready", answer.ready_s), Phase("first completion", answer.first_completion_s)),
        )
        return EndpointDeployment(cell, answer.endpoint, info)
