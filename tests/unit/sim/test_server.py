"""The simulated server as clients, operators and tests meet it: a real process, real connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.sim.server import serve
from pytest_llmperf.sim.spec import ColdStart, EngineArgs, Faults

from .cells import gpu_spec, model_spec
from .conftest import FAST, Running, Start

SLOW = replace(FAST, gpu=gpu_spec("l4"), model=model_spec("llama-3.1-8b"), served_model_name="slow")


def _post(running: Running, path: str = "/v1/completions", **body: Any) -> httpx.Response:
    return running.http.post(path, json={"prompt": "hello there", "max_tokens": 8, "ignore_eos": True, **body})


def _texts(stream: str) -> list[str]:
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return [event["choices"][0]["text"] for event in events if event["choices"]]


def _metric(running: Running, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(running.http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    raise AssertionError(f"no sample {name} {labels}")


def _eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, what


def test_streamed_and_whole_answers_are_the_same_text(server: Running) -> None:
    streamed = _texts(_post(server, stream=True).text)
    assert len(streamed) == 8
    assert "".join(streamed) == _post(server).json()["choices"][0]["text"]


def test_text_and_its_token_ids_are_the_same_prompt(server: Running) -> None:
    text = "the tokens of this text"
    tokens = server.http.post("/tokenize", json={"prompt": text}).json()
    by_text, by_ids = _post(server, prompt=text).json(), _post(server, prompt=tokens["tokens"]).json()
    assert by_text["usage"]["prompt_tokens"] == by_ids["usage"]["prompt_tokens"] == tokens["count"]
    assert by_text["choices"][0]["text"] == by_ids["choices"][0]["text"]


def test_chat_tokens_are_those_of_tokenize(server: Running) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    counted = server.http.post("/tokenize", json={"messages": messages}).json()["count"]
    answer = _post(server, "/v1/chat/completions", messages=messages).json()
    assert answer["usage"]["prompt_tokens"] == counted
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["object"] == "chat.completion"


def test_usage_is_only_sent_when_it_is_asked_for(server: Running) -> None:
    plain = _post(server, stream=True).text
    assert '"usage"' not in plain
    final = _post(server, stream=True, stream_options={"include_usage": True}).text
    assert final.count('"usage"') == 1
    continuous = {"include_usage": True, "continuous_usage_stats": True}
    every = _post(server, stream=True, stream_options=continuous).text
    counts = [json.loads(line[6:])["usage"]["completion_tokens"] for line in every.splitlines() if '"usage"' in line]
    assert counts == [*range(1, 9), 8]


def test_an_answer_may_end_by_itself_unless_told_otherwise(server: Running) -> None:
    def lengths(**body: Any) -> list[tuple[int, str]]:
        with ThreadPoolExecutor(6) as pool:
            asked = pool.map(lambda n: _post(server, prompt=f"question {n}", max_tokens=200, **body), range(6))
            answers = [answer.json() for answer in asked]
        return [(a["usage"]["completion_tokens"], a["choices"][0]["finish_reason"]) for a in answers]

    natural = lengths(ignore_eos=False)
    assert natural == lengths(ignore_eos=False)
    assert {reason for _, reason in natural} == {"stop", "length"}
    assert all((tokens < 200) == (reason == "stop") for tokens, reason in natural)
    assert set(lengths(ignore_eos=True)) == {(200, "length")}
    assert all(tokens >= 190 for tokens, _ in lengths(ignore_eos=False, min_tokens=190))


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/v1/completions", b'{"prompt": "x"', 400, "Bad Request", "json_invalid"),
        ("/v1/completions", b"[1]", 400, "Bad Request", "valid dictionary"),
        ("/v1/completions", b"\xff", 400, "Bad Request", "error parsing the body"),
        ("/v1/completions", b"{}", 400, "Bad Request", "Either prompt or prompt_embeds"),
        ("/v1/completions", b'{"prompt": ""}', 400, "Bad Request", "Either prompt or prompt_embeds"),
        ("/v1/completions", b'{"prompt": 5}', 400, "Bad Request", "valid string"),
        ("/v1/completions", b'{"prompt": [-1]}', 400, "BadRequestError", "out of vocabulary"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": 0}', 400, "BadRequestError", "at least 1, got 0"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": "5"}', 400, "Bad Request", "valid integer"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": 4096}', 400, "BadRequestError", "maximum context length"),
        ("/v1/completions", b'{"prompt": "x", "min_tokens": 20}', 400, "BadRequestError", "min_tokens"),
        ("/v1/completions", b'{"prompt": "x", "n": 2}', 400, "BadRequestError", "not support n. (parameter=n, value=2)"),
        ("/v1/completions", b'{"prompt": "x", "logprobs": 0}', 400, "BadRequestError", "not support logprobs."),
        ("/v1/completions", b'{"prompt": "x", "echo": true}', 400, "BadRequestError", "not support echo."),
        ("/v1/completions", b'{"prompt": "x", "stop": ["a"]}', 400, "BadRequestError", "not support stop."),
        ("/v1/completions", b'{"prompt": ["x", "y"]}', 400, "BadRequestError", "one prompt"),
        ("/v1/completions", b'{"prompt": "x", "stream": 1}', 400, "Bad Request", "valid boolean"),
        (
            "/v1/completions",
            b'{"prompt": "x", "stream_options": {"include_usage": true}}',
            400,
            "Bad Request",
            "stream",
        ),
        ("/v1/chat/completions", b"{}", 400, "Bad Request", "'loc': ('body', 'messages')"),
        ("/v1/chat/completions", b'{"messages": [{}]}', 400, "Bad Request", "role"),
        (
            "/v1/chat/completions",
            b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}',
            400,
            "BadRequestError",
            "not support tools.",
        ),
        (
            "/v1/chat/completions",
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
            400,
            "BadRequestError",
            "multimodal",
        ),
        ("/v1/nothing", b"{}", 404, "Not Found", "Not Found"),
        ("/health", b"{}", 405, "Method Not Allowed", "Method Not Allowed"),
    ],
)
def test_what_cannot_be_served(server: Running, path: str, body: bytes, status: int, kind: str, message: str) -> None:
    answer = server.http.post(path, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, status, kind)
    assert message in error["message"]


def test_parameters_that_ask_for_nothing_are_taken(server: Running) -> None:
    nothing: dict[str, Any] = {"n": 1, "logprobs": None, "echo": False, "stop": [], "best_of": 1, "suffix": None}
    sampling: dict[str, Any] = {"temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 3}
    assert _post(server, **nothing, **sampling).status_code == 200


def test_a_long_prompt_is_refused(server: Running) -> None:
    answer = _post(server, prompt=[7] * 5000)
    assert answer.status_code == 400
    assert "your prompt contains 5000 input tokens" in answer.json()["error"]["message"]


def test_not_http(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400")


def test_requests_in_a_row_and_in_a_heap_on_one_connection(server: Running) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 2, "ignore_eos": True, "stream": True}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    close = request.replace(b"host: x", b"host: x\r\nconnection: close")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(request + request + close)
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == received.count(b"[DONE]") == 3


def test_the_engine_batches_what_comes_together(server: Running) -> None:
    before = _metric(server, "vllm:iteration_tokens_total_count")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: _post(server, prompt=f"number {n}", max_tokens=200), range(16)))
    assert all(answer.json()["usage"]["completion_tokens"] == 200 for answer in answers)
    # One after the other they would take 3200 steps.
    assert _metric(server, "vllm:iteration_tokens_total_count") - before < 800


def test_metrics_count_what_happened(server: Running) -> None:
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_count")
    before = [_metric(server, name) for name in names]
    done = _metric(server, "vllm:request_success_total", finished_reason="length")
    _post(server, prompt=[3] * 50, max_tokens=20)
    assert [_metric(server, name) - was for name, was in zip(names, before, strict=True)] == [50, 20, 1]
    assert _metric(server, "vllm:request_success_total", finished_reason="length") - done == 1


def test_a_repeated_prompt_hits_the_prefix_cache(server: Running) -> None:
    prompt = [11] * 100
    _post(server, prompt=prompt)
    before = _metric(server, "vllm:prefix_cache_hits_total")
    _post(server, prompt=prompt)
    assert _metric(server, "vllm:prefix_cache_hits_total") - before == 96


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_request(server: Running, stream: bool) -> None:
    aborted = _metric(server, "vllm:request_success_total", finished_reason="abort")
    body = json.dumps({"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        _eventually(lambda: _metric(server, "vllm:num_requests_running") == 1, "the request never ran")
    _eventually(lambda: _metric(server, "vllm:num_requests_running") == 0, "the request was not freed")
    assert _metric(server, "vllm:kv_cache_usage_perc") == 0
    # vLLM forgets it as well: no reason of an end, and no histogram, counts a request that was aborted.
    assert _metric(server, "vllm:request_success_total", finished_reason="abort") == aborted


def test_tokens_come_one_by_one_at_the_pace_of_the_model(start: Start) -> None:
    running = start(replace(SLOW, engine=EngineArgs(max_model_len=1024)))
    running.wait_ready()
    body = {"prompt": "x", "max_tokens": 8, "ignore_eos": True, "stream": True}
    with running.http.stream("POST", "/v1/completions", json=body) as answer:
        moments = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: {")]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    # Llama-3.1-8B on an L4 is 61 ms a token.
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.061, rel=0.1)


def test_a_cold_start_answers_503_until_it_is_over(start: Start) -> None:
    running = start(replace(FAST, cold_start=ColdStart(0.1, 0.1, 0.1), faults=Faults(slow_start_s=0.2)))
    started = time.monotonic()
    early = running.http.get("/health")
    assert early.status_code == 503
    assert "the engine is starting: engine_start" in early.json()["error"]["message"]
    assert _post(running).status_code == 503
    running.wait_ready()
    assert time.monotonic() - started > 0.4
    assert _post(running).status_code == 200


def test_faults_by_option_and_by_call(start: Start) -> None:
    running = start(replace(FAST, faults=Faults(error_rates={"429": 0.5})))
    running.wait_ready()
    statuses = [_post(running).status_code for _ in range(40)]
    assert set(statuses) == {200, 429}
    changed = running.http.post("/admin/faults", json={"error_rates": {"500": 1.0}})
    assert changed.json()["error_rates"] == {"500": 1.0}
    assert _post(running).json()["error"]["type"] == "InternalServerError"
    assert running.http.post("/admin/faults", json={"eror_rates": {}}).status_code == 400
    running.http.post("/admin/faults", json={"error_rates": {}})
    assert _post(running).status_code == 200


def test_a_stream_can_be_cut(start: Start) -> None:
    running = start(replace(FAST, faults=Faults(abort_rate=1.0, abort_after_tokens=3)))
    running.wait_ready()
    body = {"prompt": "x", "max_tokens": 50, "ignore_eos": True, "stream": True}
    seen: list[str] = []
    with running.http.stream("POST", "/v1/completions", json=body) as answer, pytest.raises(httpx.RemoteProtocolError):
        seen.extend(line for line in answer.iter_lines() if line.startswith("data: {"))
    assert len(seen) == 3
    _eventually(lambda: _metric(running, "vllm:num_requests_running") == 0, "the request was not freed")


def test_a_stall_holds_the_tokens_back(server: Running) -> None:
    server.http.post("/admin/stall", json={"seconds": 0.4})
    started = time.monotonic()
    _post(server)
    assert 0.35 < time.monotonic() - started < 1.5
    assert server.http.post("/admin/stall", json={"seconds": "x"}).status_code == 400


@pytest.mark.parametrize("how", ["call", "option", "start"])
def test_a_crash(start: Start, how: str) -> None:
    faults = Faults(crash_after_requests=2 if how == "option" else 0, crash_at_start=how == "start")
    running = start(replace(FAST, faults=faults))
    if how != "start":
        running.wait_ready()
        assert _post(running).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            running.http.post("/admin/crash") if how == "call" else _post(running)
    assert running.process.wait(timeout=5) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_a_stream_open(start: Start, number: signal.Signals) -> None:
    running = start(FAST)
    running.wait_ready()
    body = {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with running.http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        running.process.send_signal(number)
        assert running.process.wait(timeout=5) == 0
        assert running.process.stderr is not None
        assert running.process.stderr.read() == ""


def test_it_ends_with_its_parent(start: Start) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        running = start(FAST, "--parent-pid", str(parent.pid))
        running.wait_ready()
        assert parent.stdin is not None
        parent.stdin.close()
        parent.wait()
    assert running.process.wait(timeout=5) == 0


def test_a_taken_port_is_named() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LlmperfError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*in use"):
            serve(FAST, "127.0.0.1", port, lambda _port: None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(
    ("spec", "message"), [("{", "not JSON"), ('{"gpus": 1}', "unknown key in the spec 'gpus'")], ids=["json", "key"]
)
def test_a_bad_spec_ends_with_status_4(spec: str, message: str) -> None:
    command = [sys.executable, "-m", "pytest_llmperf.sim", "--spec", "-"]
    ended = subprocess.run(command, input=spec, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 4
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_spec_of_the_environment() -> None:
    command = [sys.executable, "-m", "pytest_llmperf.sim", "--spec", "env:SOME_SPEC"]
    for environment, message in (({"SOME_SPEC": "{"}, "not JSON"), ({}, "there is no variable SOME_SPEC")):
        ended = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=20, check=False
        )
        assert ended.returncode == 4
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_spec_is_needed() -> None:
    command = [sys.executable, "-m", "pytest_llmperf.sim"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "--spec" in ended.stderr


def test_a_model_that_does_not_fit_ends_with_status_4() -> None:
    spec = replace(SLOW, model=model_spec("llama-3.3-70b"))
    command = [sys.executable, "-m", "pytest_llmperf.sim", "--spec", "-"]
    ended = subprocess.run(command, input=spec.to_json(), capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 4
    assert "KV cache" in ended.stderr


def test_lateness_is_reported(server: Running) -> None:
    server.http.post("/admin/lateness/reset")
    _post(server, stream=True, max_tokens=30)
    summary = server.http.get("/admin/lateness").json()
    assert summary["tokens"] == 30
    # Never before its step has ended: a client's TTFT would be less than the model says.
    assert 0 <= summary["min_ms"] <= summary["p50_ms"] <= summary["max_ms"]
