"""Which names hold a secret, and how a URL reads without one."""

from __future__ import annotations

from time import process_time

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
        ("sent Authorization: Basic dXNlcjpwYXNz to it", "sent Authorization: Basic *** to it"),
        ('{"Proxy-Authorization": "Basic dXNlcjpwYXNz"}', '{"Proxy-Authorization": "Basic ***"}'),
        ("header X-Api-Key: sesame, again", "header X-Api-Key: ***, again"),
        ("run --db-password=sesame --port=1", "run --db-password=*** --port=1"),
        ("+ hub login --token abc9", "+ hub login --token ***"),
        ("+ vllm serve m --api-key sk-abc", "+ vllm serve m --api-key ***"),
        ("+ vllm serve m --api-key sesame --port 1", "+ vllm serve m --api-key *** --port 1"),
        ("+ sh -c 'vllm serve m --api-key=sesame'", "+ sh -c 'vllm serve m --api-key=***'"),
        ("+ vllm serve m --api-key 'open sesame' x", "+ vllm serve m --api-key '***' x"),
        (
            "non-default args: {'model_tag': 'm', 'api_key': ['sk-abc', \"it's\"], 'hf_token': 'abc', 'host': None}",
            "non-default args: {'model_tag': 'm', 'api_key': [***], 'hf_token': '***', 'host': None}",
        ),
        ("args: Namespace(api_key=['sk-abc'], hf_token=None, port=1)", "args: Namespace(api_key=[***], hf_token=None, port=1)"),
        (r"got {\"api_key\": \"abc\", \"n\": 1}", r"got {\"api_key\": \"***\", \"n\": 1}"),
        ("env HF_TOKEN=abc AWS_SECRET_ACCESS_KEY=d/e+f", "env HF_TOKEN=*** AWS_SECRET_ACCESS_KEY=***"),
        ("config accessToken: abc; x", "config accessToken: ***; x"),
        ("the key AKIAIOSFODNN7EXAMPLE is refused", "the key *** is refused"),
        ("with (hf_abcdefghijklmnopqrst): 401", "with (***): 401"),
        ("incorrect API key provided: sk-proj-abcdefghij12345.", "incorrect API key provided: ***."),
        ("connecting to postgres://u:p@ss@host/db", "connecting to postgres://***@host/db"),
        ("http://u:p@host/a@b and 'c@d'", "http://***@host/a@b and 'c@d'"),
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


ORDINARY = """\
INFO 11-20 10:00:00 [api_server.py:1776] vLLM API server version 0.11.0
INFO non-default args: {'model_tag': 'm', 'api_key': None, 'hf_token': None, 'allowed_origins': ['*']}
INFO args: Namespace(api_key=None, hf_token=None, tokenizer=None, kv_transfer_config=None, served_model_name=['m'], port=8000)
INFO Using max model len 8192, tokenizer_mode=auto, revision=None, seed=0, quantization=None, enable_prefix_caching=True
INFO Engine 000: Avg prompt throughput: 120.5 tokens/s, Running: 3 reqs, GPU KV cache usage: 1.2%, Prefix cache hit rate: 0.0%
INFO: 127.0.0.1:54321 - "POST /v1/completions HTTP/1.1" 401 Unauthorized
WARNING Using supplied chat template: <|im_start|> eos_token='<|im_end|>', unk_token: '<unk>', image_token=<image>
WARNING No --api-key is set. Use --api-key to protect the server; see --api-key API_KEY [API_KEY ...], [--hf-token [HF_TOKEN]]
ERROR     client = OpenAI(base_url=url, api_key=args.api_key, hf_token=os.environ.get("HF_TOKEN"), password=password)
ERROR     headers = {"Authorization": f"Bearer {api_key}", "X-Api-Key": api_key}
ERROR OSError: You are trying to access a gated repo. Have access to it at https://huggingface.co/m?x=1. 401 Client Error.
ERROR hub.errors.GatedRepoError: Invalid password: not a Bearer authentication; Authorization: required, api_key: missing
INFO hf_overrides={}, hf_transfer_enabled_for_all_files, sk-learn_is_not_installed_here, risk-averse-2024-12-01-x
INFO "pad_token": "<pad>", key: value, token: 15, KeyError: 'model.layers.0.key', VLLM_API_KEY=$VLLM_API_KEY
DEBUG model_executor/layers/key_value_cache.py:12 token=5 password is not asked for, a@b.c, git@host:repo, http://host/a@b?c=d@e
"""
LINES = ORDINARY.splitlines()


@pytest.mark.parametrize("line", LINES)
def test_an_ordinary_line_of_a_log_stays_as_it_is(line: str) -> None:
    assert masked_text(line) == line


@given(st.lists(st.sampled_from(sorted({*ORDINARY.split(), "\n"})), max_size=30))
def test_ordinary_words_stay_in_any_order_where_none_stands_behind_the_name_of_a_secret(words: list[str]) -> None:
    named = ("key", "token", "password", "authorization", "bearer")
    text = " ".join(word for word in words if not any(name in word.lower() for name in named))
    assert masked_text(text) == text


@given(st.text("-=:;,'\"\\\\ \n[]{}@/?$.keyapi_token", max_size=60))
def test_what_is_masked_once_stays_as_it_is_then(text: str) -> None:
    once = masked_text(f"x {text}")
    assert masked_text(once) == once


@pytest.mark.parametrize(
    "part",
    ["a", "-", "--a.", "://", "u://a@", "api_key=", "api_key='", "api_key=['", "password=\\'", " --api-key", "authorization: ",
     "hf_", "sk-a", "=", "'", "\\", "_KEY=", "api_key=a,", "?token", "Bearer ", "[\"a\",", "\t"],
)  # fmt: skip
def test_the_time_it_takes_grows_with_the_length_of_a_line_and_no_faster(part: str) -> None:
    def seconds(characters: int) -> float:
        text = f" -u{part * (characters // len(part))}"
        begun = process_time()
        masked_text(text)
        return process_time() - begun

    # Ten times the text, with room for what a machine does beside: with its square it would be a hundred times.
    assert seconds(200_000) < 40 * max(min(seconds(20_000) for _ in range(3)), 0.005)


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


def test_a_word_is_masked_by_its_form_too() -> None:
    words = ("serve", "{'api_key': ['K']}", "AKIAIOSFODNN7EXAMPLE", "postgres://u:p@ss@host/db", "--tokenizer=a")
    assert masked_words(words) == ("serve", "{'api_key': [***]}", "***", "postgres://***@host/db", "--tokenizer=a")


def test_the_first_word_of_an_option_is_told_from_the_rest() -> None:
    assert secrets_in(["--api-key", "a", "b"]) == [Secret("--api-key", "a"), Secret("--api-key", "b", is_first=False)]


@given(st.lists(st.text("-=:;&|'\"\\ \nkeya{}/@?", max_size=30), max_size=4))
def test_any_words_can_be_masked(words: list[str]) -> None:
    assert len(masked_words(words)) == len(words)
