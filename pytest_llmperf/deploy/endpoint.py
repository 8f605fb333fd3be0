"""The endpoint target: a server that somebody else runs. Nothing is stood up, nothing is taken down."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint, Phase, Progress, version_in
from pytest_llmperf.deploy.headers import check_headers
from pytest_llmperf.deploy.readiness import await_ready, client_of
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.records import Cell

_CREDENTIAL_HINT = (
    "Put its Bearer token into the variable that --llmperf-api-key-env names (LLMPERF_API_KEY); any other header is given by "
    "--llmperf-header 'Name=env:VARIABLE'."
)
_PORTS = range(1, 2**16)
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


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
            with client_of(self.endpoint) as client:
                client.get("/health")
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
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None
    verify: bool = True
    ready_paths: tuple[str, ...] = ()
    """Of a service that only templates ask (``api: http``): where it must answer. Empty: the OpenAI-compatible API."""

    def check(self) -> None:
        """Raises ``ConfigError`` for a URL that cannot be one or carries a credential, for a token or header that HTTP cannot
        carry, and for certificates that cannot be read.

        No credential is shown: what was meant to be a secret may stand in the wrong place.
        """
        _check_url(self.url, Where(option="--llmperf-url"))
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError(
                "the token holds a character that an HTTP header cannot carry",
                where=Where(option="--llmperf-api-key-env"),
                hint="Often it is a line break at its end.",
            )
        check_headers(self.headers, has_api_key=self.api_key is not None, where=Where(option="--llmperf-header"))
        _check_trust(self.ca_file, self.verify)

    def check_cells(self, cells: Sequence[Cell]) -> None:
        """Nothing more is known of a cell before it is deployed."""

    def deploy(self, cell: Cell, progress: Progress) -> EndpointDeployment:
        """See that the server answers. Raises ``DeployError``."""
        answer = await_ready(
            self.url.rstrip("/"),
            model=self.served_model,
            api_key=self.api_key,
            timeout_s=self.ready_timeout_s,
            progress=progress,
            accepted=(cell.model.name, cell.model.repository, cell.model.repository.rpartition("/")[2]),
            headers=self.headers,
            ca_file=self.ca_file,
            verify=self.verify,
            ready_paths=self.ready_paths,
            credential_hint=_CREDENTIAL_HINT,
        )
        info = DeploymentInfo(
            target=self.name,
            simulated=answer.endpoint.simulated,
            engine=answer.engine,
            engine_version=version_in(answer.engine),
            phases=(Phase("ready", answer.ready_s), *answer.completion_phase),
        )
        return EndpointDeployment(cell, answer.endpoint, info)

    def end(self) -> str:
        """Nothing is held."""
        return ""


def _check_trust(ca_file: str | None, verify: bool) -> None:
    if ca_file is None:
        return
    where = Where(option="--llmperf-ca-file")
    if not verify:
        raise ConfigError("--llmperf-insecure trusts any certificate, so that no file of authorities is of use", where=where)
    try:
        ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        hint = "It begins with -----BEGIN CERTIFICATE-----."
        raise ConfigError(f"the file {ca_file!r} holds no certificate in PEM form", where=where, hint=hint) from None
    except OSError as error:
        raise ConfigError(f"the file {ca_file!r} cannot be read: {error.strerror}", where=where) from None


def _check_url(text: str, where: Where) -> None:
    if "@" in text:
        raise ConfigError("the URL holds a credential", where=where, hint="Put the token into LLMPERF_API_KEY instead.")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"no URL: {error}", where=where, hint="Write http://HOST:PORT.") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError("no http(s) URL with a host", where=where, hint="Write http://HOST:PORT.")
    # An address in brackets has been checked; a name's letters beyond ASCII are encoded by now.
    if ":" not in url.host and not _HOST_NAME.fullmatch(url.raw_host.decode("ascii")):
        hint = "It is made of letters, digits, '-', '_' and '.'."
        raise ConfigError("what stands for the host in the URL is no host's name", where=where, hint=hint)
    if url.port is not None and url.port not in _PORTS:
        raise ConfigError(f"the URL's port {url.port} is not between 1 and {_PORTS[-1]}", where=where)
    if url.query or url.fragment:
        raise ConfigError("the URL goes on after its path", where=where, hint="Give the server's root, without ? and #.")
    if url.path.rstrip("/").endswith("/v1"):
        raise ConfigError("the URL ends in /v1", where=where, hint="Give the server's root; /v1 is added.")
