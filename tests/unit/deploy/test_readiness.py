"""Readiness against real servers that misbehave: what is final is told at once, what may pass is waited for, no longer."""

from __future__ import annotations

import socket
from time import monotonic

import pytest

from pytest_llmperf.deploy.readiness import Answer, await_ready
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.scripted_server import COMPLETION, Reply, ScriptedServer, scripted_server

LONG_S = 60.0
"""Never waited for: these tests end at once."""


def ask(
    server: ScriptedServer, *, model: str | None = None, timeout_s: float = LONG_S, api_key: str | None = None
) -> tuple[Answer, list[str]]:
    """What readiness says, and the states it told of on its way."""
    states: list[str] = []
    answer = await_ready(server.url, model=model, api_key=api_key, timeout_s=timeout_s, progress=states.append)
    return answer, states


def failure(server: ScriptedServer, *, model: str | None = None, timeout_s: float = LONG_S, api_key: str | None = None) -> str:
    started = monotonic()
    with pytest.raises(DeployError) as caught:
        ask(server, model=model, timeout_s=timeout_s, api_key=api_key)
    assert monotonic() - started < 10.0
    return str(caught.value)


def test_ready() -> None:
    with scripted_server() as server:
        answer, states = ask(server)
    assert answer.endpoint.base_url == server.url
    assert answer.endpoint.model == "m-one"
    assert not answer.endpoint.simulated
    assert answer.engine == "vLLM 1.2.3"
    assert states == ["first completion"]
    assert server.asked == ["/health", "/v1/models", "/v1/completions", "/version"]


def test_the_model_that_is_wanted() -> None:
    with scripted_server() as server:
        assert ask(server, model="m-two")[0].endpoint.model == "m-two"


def test_503_is_waited_for() -> None:
    with scripted_server(health=[(503, "loading weights"), (503, "loading weights"), (200, "")]) as server:
        _, states = ask(server)
    assert states == ["/health: 503 loading weights", "/health: 503 loading weights", "first completion"]


def test_503_that_stays_ends_with_the_last_state() -> None:
    with scripted_server(health=[(503, "loading weights")]) as server:
        text = failure(server, timeout_s=0.3)
    assert "did not become ready" in text
    assert "last state: /health: 503 loading weights" in text
    assert "Waited 300ms; --llmperf-ready-timeout sets more." in text


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_without_a_health_path_the_models_count(status: int) -> None:
    with scripted_server(health=[(status, "no")]) as server:
        assert ask(server)[0].endpoint.model == "m-one"


def test_without_a_health_path_the_models_are_waited_for() -> None:
    replies: list[Reply] = [(503, "loading"), (200, {"data": [{"id": "late"}]})]
    with scripted_server(health=[(404, "")], v1__models=replies) as server:
        assert ask(server)[0].endpoint.model == "late"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_is_final_and_not_shown(status: int) -> None:
    with scripted_server(v1__models=[(status, "echo the credential")]) as server:
        text = failure(server, api_key="sk-very-secret")
    assert f"/v1/models answers {status}: the server wants another credential" in text
    assert "--llmperf-api-key-env" in text
    assert "sk-very-secret" not in text


@pytest.mark.parametrize("path", ["v1__models", "v1__completions"])
def test_a_server_that_echoes_the_credential(path: str) -> None:
    with scripted_server(**{path: [(400, "echo the credential")]}) as server:
        text = failure(server, api_key="sk-very-secret")
    assert "last state: bad credential: Bearer ***" in text


@pytest.mark.parametrize("body", ["<html>It works!</html>", {"models": []}, [1, 2], {"data": [{"name": "m"}]}, None])
def test_no_list_of_models(body: object) -> None:
    with scripted_server(v1__models=[(200, body)]) as server:
        text = failure(server)
    assert "/v1/models answers 200 and lists no models" in text
    assert "without /v1" in text


def test_an_empty_list_of_models() -> None:
    with scripted_server(v1__models=[(200, {"data": []})]) as server:
        assert failure(server) == "the server serves no model: /v1/models is an empty list"


def test_another_model() -> None:
    with scripted_server() as server:
        assert failure(server, model="m-three") == "the server does not serve the model 'm-three'; it serves: m-one, m-two"


def test_chat_where_there_are_no_completions() -> None:
    with scripted_server(v1__completions=[(404, "")], v1__chat__completions=[COMPLETION]) as server:
        ask(server)
    assert "/v1/chat/completions" in server.asked


def test_a_completion_that_fails_is_final() -> None:
    with scripted_server(v1__completions=[(500, "CUDA out of memory")]) as server:
        text = failure(server)
    assert "the first completion was answered with 500" in text
    assert "last state: CUDA out of memory" in text


@pytest.mark.parametrize("reply", [(403, "forbidden"), (404, ""), (200, "no JSON"), (200, {})])
def test_a_server_need_not_tell_its_version(reply: Reply) -> None:
    with scripted_server(version=[reply]) as server:
        assert ask(server)[0].engine == "unknown"


def test_connection_refused() -> None:
    with socket.socket() as bound:  # taken, but nobody listens
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(DeployError, match=r"did not become ready(?s:.*)last state: /health: .*refused"):
            await_ready(
                f"http://127.0.0.1:{bound.getsockname()[1]}", model=None, api_key=None, timeout_s=0.3, progress=lambda _: None
            )


def test_a_port_that_never_answers_takes_no_longer_than_it_may() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = monotonic()
        with pytest.raises(DeployError, match=r"last state: /health: timed out"):
            await_ready(
                f"http://127.0.0.1:{silent.getsockname()[1]}", model=None, api_key=None, timeout_s=0.5, progress=lambda _: None
            )
    assert monotonic() - started < 3.0


def test_what_is_known_to_be_lost_is_not_waited_for() -> None:
    with scripted_server(health=[(503, "loading")]) as server:
        reasons = iter([None, None, "its process ended with status 1"])
        with pytest.raises(DeployError, match=r"ended before it was ready: its process ended with status 1"):
            await_ready(
                server.url, model=None, api_key=None, timeout_s=LONG_S, progress=lambda _: None, lost=lambda: next(reasons)
            )
    assert server.asked == ["/health", "/health"]
