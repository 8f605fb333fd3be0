"""Which names hold a secret, and how a URL reads without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.secrets import Secret, is_secret, masked_text, masked_words, secrets_in, without_credentials


@pytest.mark.parametrize(
    "name",
    [
        "--api-key",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "db_password",
        "DB_PASS",
        "Authorization",
        "Proxy-Authorization",
        "X-Auth",
        "X-JWT",
        "X-Access-Tokens",
        "X-Credentials",
        "Set-Cookie",
        "apikey",
        "apiKey",
        "accessToken",
        "clientSecret",
        "key",
        "X-Amz-Signature",
        "GITHUB_PAT",
        "PRIVATE_KEY",
        "DB_PASSWD",
        "PGPASSWORD",
        "HF_TOKEN_READ",
        "API_KEY_2",
        "VLLM_S3_ACCESS_KEY_ID",
        "sig",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name.lstrip("-"))


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer",
        "TOKENIZERS_PARALLELISM",
        "max_tokens",
        "max-token",
        "maxToken",
        "eos_token",
        "stop_token",
        "PWD",
        "monkey",
        "author",
        "compass",
        "key_id",
        "image_token_id",
        "signal",
        "design",
        "X-Team",
        "question",
        "pattern",
        "eos_token_2",
    ],
)
def test_names_of_anything_else(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:abc@host/v1", "https://***@host/v1"),
        ("/chat?api_key=abc&q={prompt}&sessionToken=abc", "/chat?api_key=***&q={prompt}&sessionToken=***"),
        ("/chat?token={session}&page=2", "/chat?token={session}&page=2"),
        ("/chat?q=a&monkey=b#key=c", "/chat?q=a&monkey=b#key=c"),
        ("token=abc&x=1", "token=***&x=1"),
        ("Where is my order?", "Where is my order?"),
    ],
)
def test_what_holds_a_url_is_shown_without_its_secrets(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("INFO pull from https://user:urlPassw0rd@hub/m: 401", "INFO pull from https://***@hub/m: 401"),
        ("GET https://blob/m?sv=1&sig=abc%3D: 403", "GET https://blob/m?sv=1&sig=*** 403"),
        ("Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.x, again", "Authorization: Bearer ***, again"),
        ("{'authorization': 'bearer abcdefgh'}", "{'authorization': 'bearer ***'}"),
        ("a Bearer token is missing", "a Bearer token is missing"),
        ("curl -su me:secret http://host", "curl -su me:*** http://host"),
        ("curl --user=me:secret --proxy-user 'p:q' http://host:80", "curl --user=me:*** --proxy-user 'p:***' http://host:80"),
        ("python -u serve.py --host a:80 --cpu-url b:1", "python -u serve.py --host a:80 --cpu-url b:1"),
        (
            "ValueError: eos_token_id=2 at http://127.0.0.1:8000/health",
            "ValueError: eos_token_id=2 at http://127.0.0.1:8000/health",
        ),
    ],
)
def test_a_text_is_shown_without_what_its_form_tells_to_be_a_secret(text: str, shown: str) -> None:
    assert masked_text(text) == shown
    assert masked_text(f"first line\n{text}\nlast") == f"first line\n{shown}\nlast"


@pytest.mark.parametrize(
    ("words", "shown", "value"),
    [
        (["--api-key", "a", "K", "--port=1"], "--api-key *** *** --port=1", "K"),
        (["sh", "-c", "exec vllm serve m --api-key K --port=1"], "sh -c exec vllm serve m --api-key *** --port=1", "K"),
        (["sh", "-c", "vllm --api-key a 'K l' --port=1"], "sh -c vllm --api-key *** --port=1", "K l"),
        (["sh", "-c", "export LOG=1 HF_TOKEN=K; exec vllm"], "sh -c export LOG=1 HF_TOKEN=***; exec vllm", "K"),
        (["sh", "-c", "vllm --hf-token K && sleep 1"], "sh -c vllm --hf-token *** && sleep 1", "K"),
        (["sh", "-c", "HF_TOKEN=K vllm"], "sh -c HF_TOKEN=***", "K"),
        (["sh", "-c", "bash -c 'vllm --api-key K -v'"], "sh -c bash -c 'vllm --api-key *** -v'", "K"),
        (["sh", "-c", 'vllm --x "{\\"api_key\\":\\"K\\"}" -v'], 'sh -c vllm --x "{\\"api_key\\":\\"***\\"}" -v', "K"),
        (["docker", "run", "--env=HF_TOKEN=K", "img"], "docker run --env=HF_TOKEN=*** img", "K"),
        (["docker", "run", "-eHF_TOKEN=K", "img"], "docker run -eHF_TOKEN=*** img", "K"),
        (["curl", "-H", "Authorization: Bearer K"], "curl -H Authorization: ***", "Bearer K"),
        (["curl", "-HX-Api-Key:K"], "curl -HX-Api-Key:***", "K"),
        (["curl --header 'X-Auth: K' -v"], "curl --header 'X-Auth: ***' -v", "K"),
        (['--extra={"n":1,"api_key": "K"}'], '--extra={"n":1,"api_key": "***"}', "K"),
        (["--url=https://me:K@host/v1?a=1"], "--url=https://***@host/v1?a=1", "K"),
        (["--url=https://host/v1?api_key=K&a=1"], "--url=https://host/v1?api_key=***&a=1", "K"),
    ],
)
def test_where_secrets_stand(words: list[str], shown: str, value: str) -> None:
    assert " ".join(masked_words(words)) == shown
    assert value in [secret.value for secret in secrets_in(words)]


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-c", "a; b & c | d && e ';' \";\" ;"],
        ["docker", "run", "-v", "/key:/key", "--volume=/a/secret:/b", "-p=80:80"],
        ["--max-tokens=5", "--api-key", "--port", "1", "--hf-token="],
        ["it's", "a = b", "\\", "'", '"', "", "=", "a=" * 2000, "\\\\ " * 200],
    ],
)
def test_where_none_stand(words: list[str]) -> None:
    assert secrets_in(words) == []
    assert masked_words(words) == tuple(words)


def test_the_first_word_of_an_option_is_told_from_the_rest() -> None:
    assert secrets_in(["--api-key", "a", "b"]) == [Secret("--api-key", "a"), Secret("--api-key", "b", is_first=False)]


@given(st.lists(st.text("-=:;&|'\"\\ \nkeya{}/@?", max_size=30), max_size=4))
def test_any_words_can_be_masked(words: list[str]) -> None:
    assert len(masked_words(words)) == len(words)
