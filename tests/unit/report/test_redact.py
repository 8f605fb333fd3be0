"""Secrets in command lines are masked, and nothing else is."""

from __future__ import annotations

import pytest

from pytest_llmperf.report.redact import without_secrets


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("--api-key abc --port 1", "--api-key *** --port 1"),
        ("--api-key abc def --port 1", "--api-key *** *** --port 1"),
        ("--api-key=abc x", "--api-key=*** x"),
        ("--llmperf-api-key=abc", "--llmperf-api-key=***"),
        ("HF_TOKEN=abc vllm", "HF_TOKEN=*** vllm"),
        ("--hf-token abc", "--hf-token ***"),
        ("--password abc", "--password ***"),
        ("OPENAI_API_KEY=abc", "OPENAI_API_KEY=***"),
        ("--url https://me:abc@host/v1", "--url https://***@host/v1"),
    ],
)
def test_secrets_are_masked(arguments: str, shown: str) -> None:
    assert " ".join(without_secrets(arguments.split())) == shown


@pytest.mark.parametrize(
    "arguments",
    [
        "vllm serve m --tokenizer auto --max-num-batched-tokens 8192",
        "--max-tokens=16 -k h100 --llmperf-json=out.json",
        "--max-token 5",
        "--url https://host/v1?a=b@c",
    ],
)
def test_everything_else_stays(arguments: str) -> None:
    assert " ".join(without_secrets(arguments.split())) == arguments


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("--llmperf-engine-command=vllm serve m --api-key abc def --port 1", "vllm serve m --api-key *** --port 1"),
        ("--llmperf-engine-command=vllm serve --api-key 'abc def'", "vllm serve --api-key ***"),
        ('--llmperf-engine-command=run --hf-token "abc" -v', "run --hf-token *** -v"),
        ("--llmperf-engine-command=--token abc", "--token ***"),
        ("--llmperf-engine-command=vllm serve m --api-key --port 1", "vllm serve m --api-key --port 1"),
        ("--llmperf-engine-command=vllm serve m --max-token 5", "vllm serve m --max-token 5"),
    ],
)
def test_secrets_in_a_command_line_that_is_one_argument_are_masked(argument: str, shown: str) -> None:
    option = argument.partition("=")[0]
    assert without_secrets([argument]) == (f"{option}={shown}",)
    assert without_secrets([option, argument.partition("=")[2]]) == (option, shown)
