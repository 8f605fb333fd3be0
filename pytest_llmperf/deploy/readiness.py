"""Is a server ready? ``/health``, ``/v1/models``, then one completion: what a load needs, asked for in that order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep

import httpx

from pytest_llmperf.deploy.base import Endpoint, Progress
from pytest_llmperf.errors import DeployError
from pytest_llmperf.units import format_duration

POLL_S = 0.05
SIMULATED_HEADER = "x-llmperf-simulated"


@dataclass(frozen=True)
class Answer:
    """What a ready server said of itself."""

    endpoint: Endpoint
    engine: str
    ready_s: float
    """From the first question to ``/health``'s yes."""
    first_completion_s: float


def await_ready(
    base_url: str,
    *,
    model: str | None,
    api_key: str | None,
    timeout_s: float,
    progress: Progress,
    alive: Callable[[], str | None] = lambda: None,
) -> Answer:
    """Wait until the server answers a completion. ``alive`` returns why it never will, or None.

    ``model`` None takes the first of ``/v1/models``. Raises ``DeployError`` with the last state seen: at once when ``alive``
    says so or an answer is final (401, unknown model), else after ``timeout_s``.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    started = monotonic()
    with httpx.Client(base_url=base_url, headers=headers, timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False) as client:
        _await_health(client, started + timeout_s, progress, alive)
        ready_s = monotonic() - started
        name, simulated = _served_model(client, model)
        progress("first completion")
        asked = monotonic()
        _complete_once(client, name)
        endpoint = Endpoint(base_url=base_url.rstrip("/"), model=name, api_key=api_key, simulated=simulated)
        return Answer(endpoint, _engine(client, simulated), ready_s, monotonic() - asked)


def _await_health(client: httpx.Client, deadline: float, progress: Progress, alive: Callable[[], str | None]) -> None:
    state = "nothing asked yet"
    while True:
        if (death := alive()) is not None:
            raise DeployError(f"the server ended before it was ready: {death}", state=state)
        try:
            answer = client.get("/health")
        except httpx.TransportError as error:
            state = f"/health: {str(error) or type(error).__name__}"
        else:
            # Servers that are not vLLM may have no /health; what counts then is /v1/models.
            if answer.is_success or answer.status_code == httpx.codes.NOT_FOUND:
                return
            _fail_if_final(answer, "/health")
            state = f"/health: {answer.status_code} {answer.text[:200]}".strip()
        progress(state)
        if monotonic() >= deadline:
            raise DeployError(
                f"{client.base_url} did not become ready",
                state=state,
                hint="Check that the server runs and that the URL is its root.",
            )
        # Polling: a plain HTTP server has nothing to watch.
        sleep(POLL_S)


def _fail_if_final(answer: httpx.Response, path: str) -> None:
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise DeployError(
            f"{path} answers {answer.status_code}: the server wants another credential",
            hint="Put its Bearer token into the variable that --llmperf-api-key-env names (LLMPERF_API_KEY).",
        )


def _get(client: httpx.Client, path: str) -> httpx.Response:
    try:
        answer = client.get(path)
    except httpx.TransportError as error:
        raise DeployError(f"{path} cannot be asked: {str(error) or type(error).__name__}") from None
    _fail_if_final(answer, path)
    return answer


def _served_model(client: httpx.Client, wanted: str | None) -> tuple[str, bool]:
    answer = _get(client, "/v1/models")
    simulated = SIMULATED_HEADER in answer.headers
    try:
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise DeployError(
            f"/v1/models answers {answer.status_code} and lists no models",
            state=answer.text[:200],
            hint="The endpoint must be OpenAI-compatible, and the URL its root, without /v1.",
        ) from None
    if wanted is None and names:
        return names[0], simulated
    if wanted is not None and wanted in names:
        return wanted, simulated
    raise DeployError(f"the server does not serve the model {wanted!r}; it serves: {', '.join(names) or 'none'}")


def _complete_once(client: httpx.Client, model: str) -> None:
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    try:
        answer = client.post("/v1/completions", json=body)
        if answer.status_code == httpx.codes.NOT_FOUND:
            chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            answer = client.post("/v1/chat/completions", json=chat)
    except httpx.TransportError as error:
        raise DeployError(f"the first completion failed: {str(error) or type(error).__name__}") from None
    if not answer.is_success:
        raise DeployError(f"the first completion was answered with {answer.status_code}", state=answer.text[:300])


def _engine(client: httpx.Client, simulated: bool) -> str:
    answer = _get(client, "/version")
    try:
        version = str(answer.json()["version"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
    return f"vLLM simulator {version}" if simulated else f"vLLM {version}"


def timeout_hint(timeout_s: float) -> str:
    """How to wait longer than ``timeout_s``."""
    return f"Waited {format_duration(timeout_s)}; --llmperf-ready-timeout sets more."
