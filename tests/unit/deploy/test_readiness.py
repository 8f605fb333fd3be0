"""Readiness against real servers that misbehave: what is final is told at once, what may pass is waited for, no longer."""

from __future__ import annotations

import socket
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import pytest

from pytest_llmperf.deploy.readiness import Answer, await_ready
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.certificates import make_certificate
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
    assert server.asked == ["/health", "/v1/models", "/v1/completions", "/v1/completions", "/version"]


def test_the_model_that_is_wanted() -> None:
    with scripted_server() as server:
        assert ask(server, model="m-two")[0].endpoint.model == "m-two"


def test_503_is_waited_for() -> None:
    with scripted_server(health=[(503, "loading weights"), (503, "loading weights"), (200, "")]) as server:
        _, states = ask(server)
    assert states == ["/health: 503 loading weights", "/health: 503 loading weights", "first completion"]


def test_503_that_stays_ends_with_the_last_state() -> None:
    with scripted_server(health=[(503, "loading weights")]) as server:
        text = failure(server, timeout_s=1.5)
    assert "did not become ready" in text
    assert "last state: /health: 503 loading weights" in text
    assert "Waited 1.5s; --llmperf-ready-timeout sets more." in text


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
    assert "workloads are all of 'api: http'" in text
    assert "sk-very-secret" not in text


@pytest.mark.parametrize("path", ["v1__models", "v1__completions"])
def test_a_server_that_echoes_the_credential(path: str) -> None:
    with scripted_server(**{path: [(400, "echo the credential")]}) as server:
        text = failure(server, api_key="sk-very-secret")
    assert "last state: bad credential: Bearer ***" in text


@pytest.mark.parametrize("body", ["It works!", {"models": []}, [1, 2], {"data": [{"name": "m"}]}, None])
def test_no_list_of_models(body: object) -> None:
    with scripted_server(v1__models=[(200, body)]) as server:
        text = failure(server)
    assert "/v1/models answers 200 and lists no models" in text
    assert "without /v1" in text
    assert "workloads are all of 'api: http'" in text


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


# Servers of another kind.


@pytest.mark.parametrize("reply", [(404, "Not Found"), (405, ""), (200, "<html>It works!</html>")])
def test_a_server_without_models_is_ready_without_an_openai_api(reply: Reply) -> None:
    with scripted_server(v1__models=[reply], health=[(404, "")], version=[(404, "")]) as server:
        answer, states = ask(server)
    assert (answer.endpoint.model, answer.endpoint.openai, answer.endpoint.base_url) == ("", False, server.url)
    assert (answer.engine, answer.completion_phase) == ("unknown", ())
    assert states == [f"no OpenAI-compatible API: /v1/models answers {reply[0]} and lists no models"]
    assert "/v1/completions" not in server.asked


def test_a_server_that_lists_no_models_may_complete_with_the_one_that_is_named() -> None:
    with scripted_server(v1__models=[(404, "")]) as server:
        answer, _ = ask(server, model="m")
    assert (answer.endpoint.model, answer.endpoint.openai) == ("m", True)
    assert len(answer.completion_phase) == 1


def test_a_server_that_neither_lists_nor_completes_keeps_the_models_name() -> None:
    with scripted_server(v1__models=[(404, "")], v1__completions=[(405, "")]) as server:
        answer, _ = ask(server, model="m")
    assert (answer.endpoint.model, answer.endpoint.openai, answer.first_completion_s) == ("m", False, None)


def test_models_that_nothing_completes() -> None:
    with scripted_server(v1__completions=[(404, "")]) as server:
        text = failure(server)
    assert "the server lists models and completes nothing: it has neither completions nor chat" in text
    assert "last state: /v1/chat/completions: 404 no such path" in text


ANSWERS: list[Reply] = [(status, "") for status in (200, 302, 400, 401, 403, 404, 405, 406, 410, 429, 500, 501)]


def ask_service(
    server: ScriptedServer, *paths: str, model: str | None = None, timeout_s: float = LONG_S
) -> tuple[Answer, list[str]]:
    states: list[str] = []
    answer = await_ready(
        server.url,
        model=model,
        api_key=None,
        timeout_s=timeout_s,
        progress=states.append,
        ready_paths=paths,
        accepted=("m-two",),
    )
    return answer, states


@pytest.mark.parametrize("model", [None, "m"])
@pytest.mark.parametrize("reply", [*ANSWERS, (200, {}), (200, [1, 2])])
def test_a_service_that_templates_ask_is_ready_when_it_answers_whatever_it_says(reply: Reply, model: str | None) -> None:
    everywhere = {"health": [reply], "v1__models": [reply], "v1__completions": [reply], "version": [reply], "api__chat": [reply]}
    with scripted_server(**everywhere) as server:
        answer, states = ask_service(server, "/api/chat", model=model)
    assert (answer.endpoint.model, answer.endpoint.openai, answer.endpoint.simulated) == (model or "", False, False)
    assert (answer.engine, answer.completion_phase, states) == ("unknown", (), [])
    assert server.asked == ["/api/chat", "/v1/models", "/version"]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_service_is_waited_for_where_it_is_asked(status: int) -> None:
    down: Reply = (status, "no upstream")
    with scripted_server(a=[down, (405, "")], b=[down, down, (401, "")], health=[down], v1__models=[down]) as server:
        answer, states = ask_service(server, "/a", "/b")
    assert not answer.endpoint.openai
    assert states == [f"/a: {status} no upstream", f"/b: {status} no upstream", f"/b: {status} no upstream"]


def test_a_service_that_does_not_come_up_is_told_with_its_last_state() -> None:
    with scripted_server(a=[(503, "no upstream")]) as server, pytest.raises(DeployError) as caught:
        ask_service(server, "/a", timeout_s=1.0)
    assert "did not become ready" in str(caught.value)
    assert "last state: /a: 503 no upstream" in str(caught.value)


def test_a_service_may_have_a_version_and_is_no_vllm_for_that() -> None:
    with scripted_server(v1__models=[(404, "")]) as server:
        assert ask_service(server, "/a")[0].engine == "1.2.3"


def test_an_openai_compatible_server_that_templates_ask_completes_nothing() -> None:
    with scripted_server(v1__completions=[(500, "no memory")], v1__embeddings=[(405, "")]) as server:
        answer, _ = ask_service(server, "/v1/embeddings")
    assert (answer.endpoint.model, answer.endpoint.openai, answer.engine) == ("m-two", True, "vLLM 1.2.3")
    assert "/v1/completions" not in server.asked


def test_an_answer_without_an_end_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_for_ever() -> None:
            first, _ = server.accept()
            with first:
                first.recv(65536)
                first.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                # As long as somebody listens: each further question is refused.
                while first.recv(65536):
                    pass
            for _ in range(2):
                server.accept()[0].close()

        thread = Thread(target=answer_for_ever)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        answer = await_ready(url, model=None, api_key=None, timeout_s=LONG_S, progress=print, ready_paths=("/events",))
        thread.join(10)
    assert (answer.endpoint.openai, answer.engine) == (False, "unknown")


# Counts of tokens in streams.


@pytest.mark.parametrize(
    ("reply", "takes"),
    [
        (COMPLETION, (True, True)),
        ((200, "no stream_options"), (False, False)),
        ((200, "no continuous_usage_stats"), (True, False)),
    ],
)
@pytest.mark.parametrize("chat_only", [False, True])
def test_whether_streams_may_be_asked_for_their_usage(reply: Reply, takes: tuple[bool, bool], chat_only: bool) -> None:
    script = {"v1__chat__completions": [reply], "v1__completions": [(404, "")]} if chat_only else {"v1__completions": [reply]}
    with scripted_server(**script) as server:
        endpoint = ask(server)[0].endpoint
    assert (endpoint.stream_usage, endpoint.continuous_usage) == takes


def test_a_server_that_cannot_stream_at_all_is_not_said_to_refuse_the_option() -> None:
    with scripted_server(v1__completions=[COMPLETION, (400, "streaming is off")]) as server:
        endpoint = ask(server)[0].endpoint
    assert (endpoint.stream_usage, endpoint.continuous_usage) == (True, True)


# Certificates and headers.


def await_secure(server: ScriptedServer, **trust: Any) -> Answer:
    return await_ready(server.url, model=None, api_key=None, timeout_s=LONG_S, progress=lambda _: None, **trust)


def test_tls(tmp_path: Path) -> None:
    both, certificate = make_certificate(tmp_path)
    with scripted_server(both) as server:
        started = monotonic()
        with pytest.raises(DeployError) as caught:
            await_secure(server)
        assert monotonic() - started < 10.0
        trusted = await_secure(server, ca_file=str(certificate))
        unchecked = await_secure(server, verify=False)
    text = str(caught.value)
    assert text.startswith(f"{server.url}: the server's certificate is not trusted: ")
    assert "--llmperf-ca-file" in text
    assert "--llmperf-insecure" in text
    assert (trusted.endpoint.ca_file, trusted.endpoint.verify) == (str(certificate), True)
    assert (unchecked.endpoint.ca_file, unchecked.endpoint.verify) == (None, False)


def test_headers_are_sent_and_not_shown() -> None:
    headers = (("Authorization", "Basic s3cret"), ("X-Tenant", "t3nant"))
    with scripted_server(v1__completions=[(400, "echo the credential")]) as server, pytest.raises(DeployError) as caught:
        await_secure(server, headers=headers)
    assert "last state: bad credential: *** ***" in str(caught.value)


def test_headers_stay_with_the_endpoint_and_out_of_its_repr() -> None:
    headers = (("X-Tenant", "t3nant"),)
    with scripted_server() as server:
        endpoint = await_secure(server, headers=headers).endpoint
    assert endpoint.headers == headers
    assert "t3nant" not in repr(endpoint)
