"""Is a server ready? ``/health``, ``/v1/models``, then one completion: what a load needs, asked for in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep

import httpx

from pytest_llmperf.deploy.base import Endpoint, Progress
from pytest_llmperf.errors import DeployError
from pytest_llmperf.units import format_duration

POLL_S = 0.05
ANSWER_S = 5.0
"""How long one question waits for its answer; a server that starts is then asked again."""
SIMULATED_HEADER = "x-llmperf-simulated"


@dataclass(frozen=True)
class Answer:
    """What a ready server said of itself."""

    endpoint: Endpoint
    engine: str
    ready_s: float
    """From the first question to the list of models."""
    first_completion_s: float


def await_ready(
    base_url: str,
    *,
    model: str | None,
    api_key: str | None,
    timeout_s: float,
    progress: Progress,
    lost: Callable[[], str | None] = lambda: None,
    accepted: Sequence[str] = (),
) -> Answer:
    """Wait until the server answers a completion. ``lost`` returns why it never will, or None.

    ``model`` None takes the first of ``/v1/models``, or of those ``accepted`` where some are named. Raises ``DeployError`` with
    the last state seen: at once when ``lost`` says so or an answer is final (401, unknown model), else after ``timeout_s``.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    started = monotonic()
    deadline = started + timeout_s
    with httpx.Client(base_url=base_url, headers=headers, timeout=ANSWER_S, trust_env=False) as client:
        try:
            # Whatever it says: servers that are not vLLM may have no /health or guard it. What counts then is /v1/models.
            _await_answer(client, "/health", deadline, progress, lost)
            models = _await_answer(client, "/v1/models", deadline, progress, lost)
            ready_s = monotonic() - started
            name = _model_in(models, model, accepted)
            progress("first completion")
            asked = monotonic()
            _complete_once(client, name, deadline)
        except TimeoutError as error:
            raise DeployError(f"{base_url} did not become ready", state=str(error), hint=timeout_hint(timeout_s)) from None
        first_completion_s = monotonic() - asked
        simulated = SIMULATED_HEADER in models.headers
        endpoint = Endpoint(base_url=base_url.rstrip("/"), model=name, api_key=api_key, simulated=simulated)
        return Answer(endpoint, _engine(client, simulated), ready_s, first_completion_s)


def _await_answer(
    client: httpx.Client, path: str, deadline: float, progress: Progress, lost: Callable[[], str | None]
) -> httpx.Response:
    """The first answer that is not the server's own trouble (5xx). Raises ``TimeoutError`` with the last state seen."""
    state = f"{path}: not asked yet"
    while True:
        if (reason := lost()) is not None:
            raise DeployError(f"the server ended before it was ready: {reason}", state=state)
        if (left_s := deadline - monotonic()) <= 0:
            raise TimeoutError(state)
        try:
            answer = client.get(path, timeout=min(left_s, ANSWER_S))
        except httpx.RequestError as error:
            state = f"{path}: {_reason(error)}"
        else:
            if not answer.is_server_error:
                return answer
            state = f"{path}: {answer.status_code} {_shown(answer)}".strip()
        progress(state)
        # Polling: a plain HTTP server has nothing to watch.
        sleep(max(0.0, min(POLL_S, deadline - monotonic())))


def _model_in(answer: httpx.Response, wanted: str | None, accepted: Sequence[str]) -> str:
    """The model to ask for, from the answer of ``/v1/models``. Raises ``DeployError``."""
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise DeployError(
            f"/v1/models answers {answer.status_code}: the server wants another credential",
            hint="Put its Bearer token into the variable that --llmperf-api-key-env names (LLMPERF_API_KEY).",
        )
    try:
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise DeployError(
            f"/v1/models answers {answer.status_code} and lists no models",
            state=_shown(answer),
            hint="The endpoint must be OpenAI-compatible, and the URL its root, without /v1.",
        ) from None
    if not names:
        raise DeployError("the server serves no model: /v1/models is an empty list")
    if wanted is None and accepted:
        if (found := next((name for name in names if name in accepted), None)) is not None:
            return found
        raise DeployError(
            f"the cell's model is {accepted[0]}, but the server serves: {', '.join(names)}",
            hint="Select the cell that the server is, or name its model with --llmperf-served-model if it is the same.",
        )
    if wanted is not None and wanted not in names:
        raise DeployError(f"the server does not serve the model {wanted!r}; it serves: {', '.join(names)}")
    return wanted or names[0]


def _complete_once(client: httpx.Client, model: str, deadline: float) -> None:
    """One token, over completions or, where there are none, chat. Raises ``DeployError``; at the deadline ``TimeoutError``."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    # An engine may compile kernels for its first completion, so it has all the time that is left.
    timeout_s = max(deadline - monotonic(), 1.0)
    try:
        answer = client.post("/v1/completions", json=body, timeout=timeout_s)
        if answer.status_code == httpx.codes.NOT_FOUND:
            chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            answer = client.post("/v1/chat/completions", json=chat, timeout=timeout_s)
    except httpx.TimeoutException:
        raise TimeoutError("the first completion was not answered") from None
    except httpx.RequestError as error:
        raise DeployError(f"the first completion failed: {_reason(error)}") from None
    if not answer.is_success:
        raise DeployError(f"the first completion was answered with {answer.status_code}", state=_shown(answer))


def _engine(client: httpx.Client, simulated: bool) -> str:
    """What ``/version`` says; the OpenAI API has no such path, so that a server without it is ready all the same."""
    try:
        version = str(client.get("/version").json()["version"])
    except (httpx.RequestError, ValueError, KeyError, TypeError):
        return "unknown"
    return f"vLLM simulator {version}" if simulated else f"vLLM {version}"


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__


def _shown(answer: httpx.Response) -> str:
    """How an answer begins; without the token, should the server have echoed it."""
    token = answer.request.headers.get("Authorization", "").removeprefix("Bearer ")
    return (answer.text.replace(token, "***") if token else answer.text)[:200].strip()


def timeout_hint(timeout_s: float) -> str:
    """How to wait longer than ``timeout_s``."""
    return f"Waited {format_duration(timeout_s)}; --llmperf-ready-timeout sets more."
