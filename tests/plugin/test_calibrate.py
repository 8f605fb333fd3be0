"""What ``pytest-llmperf sim calibrate`` says to a server or an option that cannot be: one sentence, before any load."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from tests.unit.deploy.scripted_server import COMPLETION, Reply, scripted_server

CALIBRATE = (sys.executable, "-m", "pytest_llmperf.cli", "sim", "calibrate")
LLAMA: Reply = (200, {"data": [{"id": "llama-3.1-8b", "max_model_len": 4096}]})


def calibrate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLMPERF_")}
    return subprocess.run(
        [*CALIBRATE, *arguments], capture_output=True, text=True, timeout=60, check=False, env={**environ, **environment}
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or "plan:" not in done.stdout
    for word in words:
        assert word in done.stderr


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    refused(calibrate("--url", url), "--url: ", "cannot be reached", "Start the server first")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("the following arguments are required: --url",)),
        (("--url", "localhost:8000"), ("--url: no http(s) URL with a host",)),
        (("--url", "http://127.0.0.1:1/v1"), ("--url: the URL ends in /v1",)),
        (("--url", "http://127.0.0.1:1", "--hardware", "h10"), ("--hardware: unknown hardware 'h10'",)),
        (("--url", "http://127.0.0.1:1", "--model-record", "lama-3.1-8b"), ("Did you mean 'llama-3.1-8b'?",)),
        (("--url", "http://127.0.0.1:1", "--out", "/nowhere/at/all.yaml"), ("--out: there is no directory '/nowhere/at'",)),
        (("--url", "http://127.0.0.1:1", "--max-error", "15x"), ("--max-error: '15x' has the unknown unit",)),
        (("--url", "http://127.0.0.1:1", "--max-error", "15%", "--no-check"), ("--max-error: there is no error",)),
    ],
)
def test_options_that_cannot_be(arguments: tuple[str, ...], words: Sequence[str]) -> None:
    refused(calibrate(*arguments), *words)


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ({"v1__models": [(401, "no")]}, (), ("/v1/models answers 401", "LLMPERF_API_KEY")),
        ({"v1__models": [LLAMA]}, ("--model", "gpt"), ("does not serve the model 'gpt'; it serves: llama-3.1-8b",)),
        ({"v1__models": [(404, "no")]}, (), ("lists no models", "OpenAI-compatible")),
        ({"v1__models": [(200, "hello")]}, (), ("lists no models", "OpenAI-compatible")),
        ({}, (), ("--model-record: the catalog has no model 'm-one'", "llama-3.1-8b")),
    ],
)
def test_servers_that_cannot_be_calibrated(
    script: Mapping[str, Sequence[Reply]], arguments: tuple[str, ...], words: Sequence[str]
) -> None:
    with scripted_server(**script) as server:
        refused(calibrate("--url", server.url, *arguments), *words)


def test_a_server_whose_answers_are_no_streams() -> None:
    with scripted_server(**{"v1__models": [LLAMA], "v1__completions": [COMPLETION]}) as server:
        done = calibrate("--url", server.url)
    refused(done, "requests failed", "/v1/completions")


def test_the_token_is_sent_and_never_shown() -> None:
    echo: Reply = (401, "echo the credential")
    with scripted_server(**{"v1__models": [echo]}) as server:
        done = calibrate("--url", server.url, "--api-key-env", "MINE", MINE="sk-secret")
    refused(done, "another credential", "MINE")
    assert "sk-secret" not in done.stdout + done.stderr
