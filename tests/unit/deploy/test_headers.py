"""Headers from the environment and from files; what was meant to be a secret is in no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.deploy.headers import check_headers, credentials, read_header, without_secrets
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.secrets import Hidden

WHERE = Where(option="--llmperf-header")
_VALUES = {"TOKEN": "Bearer s3cret", "BROKEN": "s3cret\nX: y", "WIDE": "s3crét", "EMPTY": " "}
ENVIRON = {name: Hidden(value) for name, value in _VALUES.items()}


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_header(text, ENVIRON, WHERE)
    assert "s3cr" not in str(caught.value)
    assert str(caught.value).startswith("--llmperf-header: ")
    return str(caught.value).removeprefix("--llmperf-header: ")


def test_from_the_environment() -> None:
    assert read_header("Authorization=env:TOKEN", ENVIRON, WHERE) == ("Authorization", "Bearer s3cret")


@pytest.mark.parametrize("content", ["Bearer f1le", "Bearer f1le\n", "Bearer f1le\r\n"])
def test_from_a_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a=b:token"
    path.write_bytes(content.encode())
    assert read_header(f"X-Api-Key=file:{path}", {}, WHERE) == ("X-Api-Key", "Bearer f1le")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Authorization: Bearer s3cret",
            "no header with a source for its value\n  Write 'Name=env:VARIABLE' or 'Name=file:PATH'",
        ),
        ("Authorization: Bearer s3cret==", "no header with a source for its value\n  Write 'Name=env:VARIABLE'"),
        ("s3cret", "no header with a source for its value"),
        ("", "no header with a source for its value"),
        ("Authorization=Bearer s3cret", "the header 'Authorization' has a value where its source belongs\n  The shell's history"),
        ("X-Key=s3cret:env", "the header 'X-Key' has a value where its source belongs"),
        ("X-Key=env:", "the header 'X-Key' has a value where its source belongs"),
        ("X-Key=env:NONE", "the environment variable 'NONE' of the header 'X-Key' is not set"),
        ("X-Key=env:EMPTY", "the header 'X-Key' is empty: nothing is in 'env:EMPTY'"),
        ("X-Key=env:BROKEN", "the value of the header 'X-Key' holds a character that an HTTP header cannot carry"),
        ("X-Key=env:WIDE", "the value of the header 'X-Key' holds a character that an HTTP header cannot carry"),
        ("X-Key=file:/nowhere/key", "the file '/nowhere/key' of the header 'X-Key' cannot be read: No such file or directory"),
        ("X(Key)=env:TOKEN", "a header's name has letters, digits and hyphens only"),
        ("Host=env:TOKEN", "the header 'Host' is written by the client itself"),
        ("content-length=env:TOKEN", "the header 'content-length' is written by the client itself"),
    ],
)
def test_what_is_no_header(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("headers", "has_api_key", "message"),
    [
        ((("X-A", "s3cret"), ("x-a", "s3cret")), False, "the header 'x-a' is given twice"),
        ((("authorization", "s3cret"),), True, "the header 'authorization' is given, and so is an API key"),
        ((("Host", "s3cret"),), False, "the header 'Host' is written by the client itself"),
    ],
)
def test_headers_that_cannot_be_sent_together(headers: tuple[tuple[str, str], ...], has_api_key: bool, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_headers(headers, has_api_key=has_api_key, where=WHERE)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_a_server_echoes_is_masked() -> None:
    headers = (("Authorization", "Basic s3cret"), ("X-Key", "s3cret-and-more"), ("X-Empty", ""))
    text = "You sent Basic s3cret (s3cret), key s3cret-and-more and sk-1."
    assert without_secrets(text, credentials("sk-1", headers)) == "You sent *** (***), key *** and ***."


def test_what_is_too_short_to_be_told_from_words_stays() -> None:
    assert without_secrets("http 503 at 50", credentials("50", (("X-A", "a"),))) == "http 503 at 50"


def test_spaces_hide_no_secret() -> None:
    assert without_secrets("You sent one\n two.", credentials(None, (("X-A", "one  two"),))) == "You sent ***."
