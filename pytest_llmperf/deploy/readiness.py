"""Is a server ready? ``/health``, ``/v1/models``, then completions: what a load needs, asked for in that order.

A service that only workloads' templates speak to is ready when it answers at their paths (``ready_paths``): nothing else is
known of it. Where that is not said, a server without ``/v1/models`` is taken for such a service. What it lacks is told when a
workload asks for it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any

import httpx

from pytest_llmperf.deploy.base import UNKNOWN_ENGINE, Endpoint, Phase, Progress
from pytest_llmperf.deploy.headers import credentials, without_secrets
from pytest_llmperf.errors import DeployError
from pytest_llmperf.secrets import Hidden
from pytest_llmperf.units import format_duration

POLL_S = 0.05
ANSWER_S = 5.0
"""How long one question waits for its answer; a server that starts is then asked again."""
SIMULATED_HEADER = "x-llmperf-simulated"

_NO_SUCH_PATH = {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED}
_NOT_UNDERSTOOD = {httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY}
_NOT_THERE_YET = {httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT}
"""What is said before a service that is not up: by what stands before it, or by itself while it starts."""
_OTHER_KIND = "A service that is not OpenAI-compatible is for tests whose workloads are all of 'api: http'."


@dataclass(frozen=True)
class Answer:
    """What a ready server said of itself."""

    endpoint: Endpoint
    engine: str
    ready_s: float
    """From the first question to the list of models; of a service of another kind, to its answer."""
    first_completion_s: float | None
    """None of a server without an OpenAI-compatible API."""

    @property
    def completion_phase(self) -> tuple[Phase, ...]:
        """The way from the list of models to the first completion, where there was one."""
        return () if self.first_completion_s is None else (Phase("first completion", self.first_completion_s),)


def await_ready(
    base_url: str,
    *,
    model: str | None,
    api_key: str | None,
    timeout_s: float,
    progress: Progress,
    lost: Callable[[], str | None] = lambda: None,
    accepted: Sequence[str] = (),
    headers: tuple[tuple[str, str], ...] = (),
    ca_file: str | None = None,
    verify: bool = True,
    ready_paths: Sequence[str] = (),
    credential_hint: str | None = None,
) -> Answer:
    """Wait until the server answers a completion, or at ``ready_paths`` where there are some. ``lost`` returns why it never
    will, or None.

    ``model`` None takes the first of ``/v1/models``, or of those ``accepted`` where some are named. Raises ``DeployError`` with
    the last state seen: at once when ``lost`` says so or an answer is final (401, unknown model, a certificate that nobody
    trusts), else after ``timeout_s``. ``credential_hint`` says where the credential comes from.
    """
    endpoint = Endpoint(base_url.rstrip("/"), model or "", api_key, headers=headers, ca_file=ca_file, verify=verify)
    started = monotonic()
    deadline = started + timeout_s
    with client_of(endpoint) as client:
        asking = _Asking(client, endpoint, deadline, progress, lost)
        try:
            if ready_paths:
                return _service(asking, ready_paths, model, accepted)
            # Whatever it says: servers that are not vLLM may have no /health or guard it. What counts then is /v1/models.
            asking.answer("/health")
            models = asking.answer("/v1/models")
            ready_s = monotonic() - started
            endpoint = replace(endpoint, simulated=SIMULATED_HEADER in models.headers)
            lists_none = models.status_code in _NO_SUCH_PATH or _is_a_page(models)
            if lists_none and model is None:
                progress(f"no OpenAI-compatible API: /v1/models answers {models.status_code} and lists no models")
                return Answer(replace(endpoint, openai=False), asking.version(), ready_s, None)
            name = model if lists_none and model is not None else _model_in(asking, models, model, accepted, credential_hint)
            progress("first completion")
            asked = monotonic()
            path = asking.complete_once(name, may_lack=lists_none)
        except TimeoutError as error:
            raise DeployError(f"{base_url} did not become ready", state=str(error), hint=timeout_hint(timeout_s)) from None
        first_completion_s = monotonic() - asked if path is not None else None
        endpoint = replace(endpoint, model=name, openai=path is not None)
        if path is not None:
            usage, continuous = asking.takes_usage(path, name)
            endpoint = replace(endpoint, stream_usage=usage, continuous_usage=continuous)
        return Answer(endpoint, asking.engine(endpoint.simulated), ready_s, first_completion_s)


def client_of(endpoint: Endpoint) -> httpx.Client:
    """Speaks to an endpoint as its load will: with its credentials, trusting whom it trusts."""
    return httpx.Client(**_client_settings(endpoint))


def async_client_of(endpoint: Endpoint) -> httpx.AsyncClient:
    """As ``client_of``, for an event loop."""
    return httpx.AsyncClient(**_client_settings(endpoint))


def _client_settings(endpoint: Endpoint) -> dict[str, Any]:
    headers: dict[str, str] = {"Authorization": Hidden(f"Bearer {endpoint.api_key}")} if endpoint.api_key else {}
    headers |= dict(endpoint.headers)
    verify = ssl.create_default_context(cafile=endpoint.ca_file) if endpoint.verify else False
    return {
        "base_url": endpoint.base_url,
        "headers": headers,
        "timeout": ANSWER_S,
        "trust_env": False,
        "verify": verify,
    }


def _service(asking: _Asking, paths: Sequence[str], model: str | None, accepted: Sequence[str]) -> Answer:
    """Wait for a service that only templates speak to. Raises ``DeployError``, at the deadline ``TimeoutError``."""
    started = monotonic()
    answers = [asking.answer(path, of_service=True) for path in paths]
    ready_s = monotonic() - started
    # Only for the template that wants a model's name; most of these services have no such path.
    listed = asking.models()
    name = model or next((name for name in listed if name in accepted), listed[0] if listed else "")
    simulated = SIMULATED_HEADER in answers[0].headers
    endpoint = replace(asking.endpoint, model=name, simulated=simulated, openai=bool(listed))
    return Answer(endpoint, asking.engine(simulated) if listed else asking.version(), ready_s, None)


@dataclass(frozen=True)
class _Asking:
    """The questions to one server, until the ``deadline``."""

    client: httpx.Client
    endpoint: Endpoint
    deadline: float
    progress: Progress
    lost: Callable[[], str | None]

    def answer(self, path: str, *, of_service: bool = False) -> httpx.Response:
        """The first answer that is not the server's own trouble: 5xx; of a service of another kind only ``_NOT_THERE_YET``.

        Raises ``TimeoutError`` with the last state seen.
        """
        state = f"{path}: not asked yet"
        while True:
            if (reason := self.lost()) is not None:
                raise DeployError(f"the server ended before it was ready: {reason}", state=state)
            if (left_s := self.deadline - monotonic()) <= 0:
                raise TimeoutError(state)
            try:
                answer = self._beginning(path, left_s) if of_service else self.client.get(path, timeout=min(left_s, ANSWER_S))
            except httpx.RequestError as error:
                if (untrusted := _untrusted(self.endpoint, error)) is not None:
                    raise untrusted from None
                state = f"{path}: {self._reason(error)}"
            else:
                if not (answer.status_code in _NOT_THERE_YET if of_service else answer.is_server_error):
                    return answer
                state = f"{path}: {answer.status_code} {self.shown(answer)}".strip()
            self.progress(state)
            # Polling: a plain HTTP server has nothing to watch.
            sleep(max(0.0, min(POLL_S, self.deadline - monotonic())))

    def complete_once(self, model: str, *, may_lack: bool) -> str | None:
        """One token, over completions or, where there are none, chat: the path that answered.

        None where there is neither and the server ``may_lack`` them. Raises ``DeployError``; at the deadline ``TimeoutError``.
        """
        last = ""
        for path in _BODIES:
            try:
                answer = self._complete(path, model)
            except httpx.TimeoutException:
                raise TimeoutError("the first completion was not answered") from None
            except httpx.RequestError as error:
                raise DeployError(f"the first completion failed: {self._reason(error)}") from None
            if answer.is_success:
                return path
            if answer.status_code not in _NO_SUCH_PATH:
                raise DeployError(
                    f"the first completion was answered with {answer.status_code}",
                    state=self.shown(answer),
                    hint=_OTHER_KIND if may_lack else None,
                )
            last = f"{path}: {answer.status_code} {self.shown(answer)}"
        if may_lack:
            return None
        raise DeployError("the server lists models and completes nothing: it has neither completions nor chat", state=last)

    def takes_usage(self, path: str, model: str) -> tuple[bool, bool]:
        """Whether a streamed completion may ask for its usage, and for that in every event.

        Not where an option is refused, and a completion without it answered.
        """
        usage = {"include_usage": True}
        try:
            if not self._refuses(path, model, {**usage, "continuous_usage_stats": True}):
                return True, True
            if not self._refuses(path, model, usage):
                return True, False
            answers = self._complete(path, model, stream=True).is_success
        except httpx.RequestError:
            # Whatever it was, it was not the options.
            return True, True
        return not answers, not answers

    def _refuses(self, path: str, model: str, options: Mapping[str, bool]) -> bool:
        return self._complete(path, model, stream=True, stream_options=options).status_code in _NOT_UNDERSTOOD

    def models(self) -> list[str]:
        """The models that the server lists now; none where it lists none in the way of OpenAI."""
        try:
            return _names_in(self.client.get("/v1/models")) or []
        except httpx.RequestError:
            return []

    def engine(self, simulated: bool) -> str:
        """The name and version of an OpenAI-compatible engine."""
        version = self.version()
        if version == UNKNOWN_ENGINE:
            return version
        return f"vLLM simulator {version}" if simulated else f"vLLM {version}"

    def version(self) -> str:
        """What ``/version`` says; the OpenAI API has no such path, so that a server without it is ready all the same."""
        try:
            return self.hidden(str(self.client.get("/version").json()["version"]))
        except (httpx.RequestError, ValueError, KeyError, TypeError):
            return UNKNOWN_ENGINE

    def shown(self, answer: httpx.Response) -> str:
        """How an answer begins."""
        return self.hidden(answer.text)[:200].strip()

    def hidden(self, text: str) -> str:
        """A server's words as they may be shown and stored: without the credentials, should it have echoed them."""
        return without_secrets(text, credentials(self.endpoint.api_key, self.endpoint.headers))

    def _beginning(self, path: str, left_s: float) -> httpx.Response:
        """An answer whose body may have no end. It has all the time that is left: a GET may be what the service works on."""
        with self.client.stream("GET", path, timeout=left_s) as answer:
            if answer.status_code in _NOT_THERE_YET:
                answer.read()
            return answer

    def _complete(self, path: str, model: str, **more: object) -> httpx.Response:
        # An engine may compile kernels for its first completion, so it has all the time that is left.
        timeout_s = max(self.deadline - monotonic(), 1.0)
        return self.client.post(path, json={"model": model, **_BODIES[path], "max_tokens": 1, **more}, timeout=timeout_s)

    def _reason(self, error: httpx.RequestError) -> str:
        return self.hidden(str(error)) or type(error).__name__


_BODIES: dict[str, dict[str, object]] = {
    "/v1/completions": {"prompt": "Hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
}


def _untrusted(endpoint: Endpoint, error: BaseException) -> DeployError | None:
    """The error of a certificate that is not trusted; None for another cause, which may pass."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return DeployError(
        f"{endpoint.base_url}: the server's certificate is not trusted: {cause.verify_message}",
        hint="Name the file of the authority that signed it with --llmperf-ca-file; --llmperf-insecure trusts any certificate.",
    )


def _is_a_page(answer: httpx.Response) -> bool:
    """Whether this is a page for people, as services with one answer whatever path they do not know."""
    return answer.is_success and answer.headers.get("content-type", "").startswith("text/html")


def _names_in(answer: httpx.Response) -> list[str] | None:
    """The names in the answer of ``/v1/models``; None where it is no list of models."""
    try:
        return [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _model_in(
    asking: _Asking, answer: httpx.Response, wanted: str | None, accepted: Sequence[str], credential_hint: str | None
) -> str:
    """The model to ask for, from the answer of ``/v1/models``. Raises ``DeployError``."""
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise DeployError(
            f"/v1/models answers {answer.status_code}: the server wants another credential",
            hint=f"{credential_hint} {_OTHER_KIND}" if credential_hint else _OTHER_KIND,
        )
    if (names := _names_in(answer)) is None:
        raise DeployError(
            f"/v1/models answers {answer.status_code} and lists no models",
            state=asking.shown(answer),
            hint=f"The endpoint must be OpenAI-compatible, and the URL its root, without /v1. {_OTHER_KIND}",
        )
    if not names:
        raise DeployError("the server serves no model: /v1/models is an empty list")
    if wanted is None and accepted:
        if (found := next((name for name in names if name in accepted), None)) is not None:
            return found
        raise DeployError(
            f"the cell's model is {accepted[0]}, but the server serves: {asking.hidden(', '.join(names))}",
            hint="Select the cell that the server is, or name its model with --llmperf-served-model if it is the same.",
        )
    if wanted is not None and wanted not in names:
        raise DeployError(f"the server does not serve the model {wanted!r}; it serves: {asking.hidden(', '.join(names))}")
    return wanted or names[0]


def timeout_hint(timeout_s: float) -> str:
    """How to wait longer than ``timeout_s``."""
    return f"Waited {format_duration(timeout_s)}; --llmperf-ready-timeout sets more."
