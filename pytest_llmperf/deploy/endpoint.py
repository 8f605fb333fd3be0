"""The endpoint target: a server that somebody else runs. Nothing is stood up, nothing is taken down."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint, Phase, Progress
from pytest_llmperf.deploy.readiness import ANSWER_S, await_ready
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

    def lost(self) -> str | None:
        """Why nobody listens at the URL any more. A server that is slow or answers with an error is not lost."""
        try:
            httpx.get(f"{self.endpoint.base_url}/health", timeout=ANSWER_S, trust_env=False)
        except httpx.ConnectError as error:
            return f"{self.endpoint.base_url} cannot be reached any more ({error})"
        except httpx.RequestError:
            return None
        return None

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
        """Raises ``ConfigError`` for a URL that cannot be one or carries a credential, and a token that HTTP cannot carry.

        Neither is shown: what was meant to be a secret may stand in the wrong place.
        """
        _check_url(self.url, Where(option="--llmperf-url"))
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError(
                "the token holds a character that an HTTP header cannot carry",
                where=Where(option="--llmperf-api-key-env"),
                hint="Often it is a line break at its end.",
            )

    def deploy(self, cell: Cell, progress: Progress) -> EndpointDeployment:
        """See that the server answers. Raises ``DeployError``."""
        answer = await_ready(
            self.url.rstrip("/"),
            model=self.served_model,
            api_key=self.api_key,
            timeout_s=self.ready_timeout_s,
            progress=progress,
            accepted=(cell.model.name, cell.model.repository, cell.model.repository.rpartition("/")[2]),
        )
        info = DeploymentInfo(
            target=self.name,
            simulated=answer.endpoint.simulated,
            engine=answer.engine,
            phases=(Phase("ready", answer.ready_s), Phase("first completion", answer.first_completion_s)),
        )
        return EndpointDeployment(cell, answer.endpoint, info)


def _check_url(text: str, where: Where) -> None:
    if "@" in text:
        raise ConfigError("the URL holds a credential", where=where, hint="Put the token into LLMPERF_API_KEY instead.")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"no URL: {error}", where=where, hint="Write http://HOST:PORT.") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError("no http(s) URL with a host", where=where, hint="Write http://HOST:PORT.")
    if url.query or url.fragment:
        raise ConfigError("the URL goes on after its path", where=where, hint="Give the server's root, without ? and #.")
    if url.path.rstrip("/").endswith("/v1"):
        raise ConfigError("the URL ends in /v1", where=where, hint="Give the server's root; /v1 is added.")
