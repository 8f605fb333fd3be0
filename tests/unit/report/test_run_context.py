"""What a session says of its runs: an allow-list of variables and its settings, and never a secret."""

from __future__ import annotations

import os

from pytest_llmperf.report.document import from_json, run_document, to_json
from pytest_llmperf.report.run_context import VARIABLES, RunContext, kept_environment, kept_settings
from pytest_llmperf.secrets import is_secret
from tests.unit.report.runs import answered, run_of


def test_only_what_the_list_names_is_kept() -> None:
    environ = {
        "GITHUB_SHA": "abc",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "VLLM_USE_V1": "1",
        "LLMPERF_TARGET": "process",
        "HOME": "/home/somebody",
        "SSH_CONNECTION": "10.0.0.1",
        "MY_VLLM_FLAG": "1",
    }
    assert kept_environment(environ) == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "GITHUB_SHA": "abc",
        "LLMPERF_TARGET": "process",
        "VLLM_USE_V1": "1",
    }


def test_no_variable_of_the_list_is_a_secret() -> None:
    assert not [name for name in VARIABLES if is_secret(name)]


def test_no_secret_is_kept_whatever_holds_it() -> None:
    environ = {
        "VLLM_API_KEY": "sk-first-of-all",
        "LLMPERF_API_KEY": "sk-second-of-them",
        "LLMPERF_MINE": "sk-named-by-an-option",
        "LLMPERF_ENGINE_COMMAND": "vllm serve m --api-key sk-in-a-command --port {port}",
        "LLMPERF_URL": "http://me:sk-in-a-url@host:8000",
        "VLLM_ECHO": "again sk-first-of-all and sk-named-by-an-option",
        "HF_TOKEN": "sk-of-somebody-else",
        "VLLM_CACHE": "of sk-of-somebody-else",
        "VLLM_HEADER": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc",
        "VLLM_CHECK": "curl -u me:sk-of-curl http://host",
        "VLLM_BLOB": "https://blob/m?sv=1&sig=sk-of-sas",
        "VLLM_S3_ACCESS_KEY_ID": "AKIA0123456789",
    }
    kept = kept_environment(environ, ("LLMPERF_MINE",))
    assert kept == {
        "LLMPERF_ENGINE_COMMAND": "vllm serve m --api-key *** --port {port}",
        "LLMPERF_URL": "http://***@host:8000",
        "VLLM_BLOB": "https://blob/m?sv=1&sig=***",
        "VLLM_CACHE": "of ***",
        "VLLM_CHECK": "curl -u me:*** http://host",
        "VLLM_ECHO": "again *** and ***",
        "VLLM_HEADER": "Bearer ***",
    }


def test_settings_are_kept_as_they_were_written_but_for_secrets() -> None:
    given = {
        "policy": "certain",
        "sla": "ttft: {p99: 1s}",
        "header": "X-Api-Key=env:MINE",
        "engine_command": "vllm serve {model} --port={port} --api-key=sk-very-secret",
        "url": "http://host:8000?token=sk-very-secret",
    }
    kept = kept_settings(given)
    assert {name: kept[name] for name in ("policy", "sla", "header")} == {
        name: given[name] for name in ("policy", "sla", "header")
    }
    assert kept["engine_command"] == "vllm serve {model} --port={port} --api-key=***"
    assert "sk-very-secret" not in str(kept)


def test_bytes_that_are_no_text_are_shown_and_lose_no_document() -> None:
    odd = os.fsdecode(b"/data/\xff")
    environment, settings = kept_environment({"VLLM_CACHE": odd}), kept_settings({"storage": odd, "header": odd})
    assert environment == {"VLLM_CACHE": r"/data/\udcff"}
    assert set(settings.values()) == {r"/data/\udcff"}
    document = run_document(run_of(answered(3)), None, session=RunContext(settings, environment))
    assert from_json(to_json(document)) == document
