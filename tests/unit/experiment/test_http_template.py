"""Workloads of services that are not OpenAI-compatible: what is wrong with one is told by file, line and key."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import Catalog, builtin_directory, load_catalog
from pytest_llmperf.experiment.http_template import HttpTemplate, Query, pointer_keys, split_placeholders
from pytest_llmperf.experiment.records import Lengths, Workload

CHATBOT = """\
title: Support chatbot
api: http
stream: false
http:
  method: POST
  path: /api/prediction/chat
  body:
    question: "{prompt}"
    chat: ["{session}", 7, null]
  text: /data/answers/0/text
queries:
  - {text: Where is my order?, weight: 3}
  - text: Tell me about your returns policy.
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's catalog directory, named ``mine`` in errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "workloads").mkdir(parents=True)
    return tmp_path / "mine"


def load(mine: Path, text: str) -> Catalog:
    (mine / "workloads" / "chatbot.yaml").write_text(text)
    return load_catalog([builtin_directory(), mine])


def test_a_chatbot(mine: Path) -> None:
    asked = load(mine, CHATBOT).workloads["chatbot"]
    body = {"question": "{prompt}", "chat": ["{session}", 7, None]}
    assert asked.http == HttpTemplate("/api/prediction/chat", "/data/answers/0/text", body)
    assert asked.queries == (Query("Where is my order?", 3.0), Query("Tell me about your returns policy."))
    # As variants of it are made, and as it travels to a worker.
    assert replace(asked, timeout=5.0).queries == asked.queries
    assert pickle.loads(pickle.dumps(asked)) == asked


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"{prompt}"',
            "hello",
            "4: http: '{prompt}' is missing: it stands in 'body' (or 'path') where the text goes that is asked",
        ),
        ('"{prompt}"', "{prompt}", "7: http.body: '{prompt}' needs quotes: without them YAML takes it for a mapping"),
        (
            "{prompt}",
            "{promt}",
            "7: http.body: unknown placeholder '{promt}'; did you mean '{prompt}'? Known: {prompt}, {session}, ",
        ),
        (
            "{session}",
            "{session} {day}",
            "7: http.body: unknown placeholder '{day}'; Known: {prompt}, {session}, {output_tokens}, ",
        ),
        ("path: /api", "path: api", "6: http.path: 'api/prediction/chat' is no path: it begins with '/', as in /api/chat"),
        ("path: /api", "path: /my api", "6: http.path: '/my api/prediction/chat' is no path: spaces, '#' and"),
        ("path: /api", "path: /{modle}", "6: http.path: unknown placeholder '{modle}'; did you mean '{model}'?"),
        (
            "/data/answers/0/text",
            "$.data.answers[0].text",
            "10: http.text: '$.data.answers[0].text' is no JSON pointer (RFC 6901), as /choices/0/text is; "
            "did you mean '/data/answers/0/text'?",
        ),
        ("/data/answers/0/text", "/a~2", "10: http.text: '/a~2' is no JSON pointer (RFC 6901), as /choices/0/text is"),
        ("method: POST", "output_tokens: usage.out", "5: http.output_tokens: 'usage.out' is no JSON pointer"),
        ("method: POST", "method: post", "5: http.method: 'post' is not one of POST, PUT, PATCH, GET; did you mean 'POST'?"),
        ("method: POST", "method: GET", "4: http: a GET request has no 'body'"),
        ("method: POST", "metod: POST", "5: http.metod: unknown key 'metod'\n  Did you mean 'method'?"),
        ("/data/answers/0/text", "raw\n  output_tokens: /n", "4: http: an answer that is 'raw' text has no places"),
        (
            "method: POST",
            "headers: {Authorization: Bearer s3cret}",
            "5: http.headers: the header 'Authorization' may hold a secret, and a file must not: "
            "give --llmperf-header 'Authorization=env:VARIABLE' instead",
        ),
        ("method: POST", "headers: {x-api-key: s3cret}", "5: http.headers: the header 'x-api-key' may hold a secret"),
        ("method: POST", "headers: {Cookie: s3cret}", "5: http.headers: the header 'Cookie' may hold a secret"),
        ("method: POST", "headers: {X-Auth: s3cret}", "5: http.headers: the header 'X-Auth' may hold a secret"),
        ("method: POST", "headers: {X-Api-Key: 5331}", "5: http.headers: the header 'X-Api-Key' may hold a secret"),
        (
            "method: POST",
            'headers: {X-Chat: "c-{session}"}',
            "5: http.headers: the header 'X-Chat' holds the placeholder '{session}': they stand in 'path' and 'body' only, ",
        ),
        (
            "chat: [",
            '"{foo}": [',
            "7: http.body: the key '{foo}' holds a placeholder, and only values may; '{{foo}}' stands for ",
        ),
        ("chat: [", '"{output_tokens}": [', "7: http.body: the key '{output_tokens}' holds a placeholder, and only values may"),
        ("7, null", ".nan", "9: http.body.chat[1]: .nan is a number that nothing here can be; quotes make a text of it"),
        ("7, null", "1.0e+999", "7: http.body: inf is a number that JSON does not have"),
        (
            "path: /api/prediction/chat",
            "path: /api?key=s3cret#",
            "6: http.path: '/api?key=***#' is no path: spaces, '#' and characters beyond ASCII must be percent-encoded",
        ),
        ("method: POST", "headers: {Host: h}", "5: http.headers: the header 'Host' is written by the client itself"),
        ("method: POST", 'headers: {X-A: "a\\nb"}', "5: http.headers: the value of the header 'X-A' holds a character"),
        ("api: http", "api: chat", "1: the template 'http' is for 'api: http', not for 'api: chat'"),
        ("api: http", "api: htpt", "2: api: 'htpt' is not one of completions, chat, http; did you mean 'http'?"),
        ("http:\n", "queries_:\n", "4: queries_: unknown key 'queries_'\n  Did you mean 'queries'?"),
        ("weight: 3", "weight: 0", "12: queries[0]: 'weight' must be more than 0"),
        ("Where is my order?", '""', "12: queries[0]: a query needs a 'text'"),
        ("stream: false", "input: {mean: 9}", "1: 'queries' are the whole prompts: 'input' has no meaning beside them"),
        ("stream: false", "continuous_usage: true", "1: 'continuous_usage' is for streamed answers of completions and chat"),
        ("7, null", '"{output_tokens}"', "1: the key 'output' is missing"),
    ],
)
def test_bad_templates(mine: Path, old: str, new: str, message: str) -> None:
    assert CHATBOT.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        load(mine, CHATBOT.replace(old, new))
    assert str(caught.value).startswith(f"mine/workloads/chatbot.yaml:{message}")
    assert "s3cret" not in str(caught.value)
    assert "5331" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "title: T\napi: http\ninput: {mean: 5}\n",
            "1: 'api: http' needs a template: the key 'http' with 'path', 'body' and 'text'",
        ),
        (
            "title: T\noutput: {mean: 5}\nqueries: [{text: a}]\n",
            "1: 'queries' are texts: they need 'prompt: text' (or 'api: chat')",
        ),
        (
            "title: T\noutput: {mean: 5}\nprompt: text\nqueries: [{text: a}]\nturns: {count: {mean: 2}, input: {mean: 5}}\n",
            "1: 'queries' are the whole prompts: 'turns' has no meaning beside them",
        ),
        ("title: T\noutput: {mean: 5}\n", "1: the key 'input' is missing"),
        ("title: T\ninput: {mean: 5}\n", "1: the key 'output' is missing"),
        ("title: T\napi: chat\nqueries: [{text: a}]\n", "1: the key 'output' is missing"),
        (
            "title: T\napi: chat\noutput: {mean: 5}\nqueries: [a]\n",
            "4: queries[0]: must be a mapping of keys to values, not 'a'",
        ),
        (
            "title: T\ninput: {mean: 5}\noutput: {mean: 5}\nstream: false\ncontinuous_usage: true\n",
            "1: 'continuous_usage' is for streamed answers of completions and chat",
        ),
    ],
)
def test_bad_workloads(mine: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(mine, text)
    assert str(caught.value).startswith(f"mine/workloads/chatbot.yaml:{message}")


def test_a_length_of_one_is_a_length() -> None:
    assert Workload("w", "W", Lengths(1), Lengths(1)).output == Lengths(1)


def test_placeholders() -> None:
    assert list(split_placeholders("a {prompt} {{x}} b{session}")) == [("a ", "prompt"), (" {x} b", "session"), ("", None)]
    assert list(split_placeholders('{"a": {}}')) == [('{"a": {}}', None)]


def test_where_a_template_is_asked_before_its_load() -> None:
    assert HttpTemplate("/ask/{session}?q={prompt}&{{x}}", "/t").ready_path == "/ask/1?q=1&{x}"


def test_what_may_be_secret_is_in_no_repr() -> None:
    template = HttpTemplate("/ask?key=s3cret", "/t", {"q": "{prompt}", "key": "s3cret"}, headers={"X-A": "s3cret"})
    assert "s3cret" not in repr(Workload("w", "W", Lengths(5), api="http", http=template))


def test_pointers() -> None:
    assert pointer_keys("") == ()
    assert pointer_keys("/") == ("",)
    assert pointer_keys("/a~1b/~01/0") == ("a/b", "~1", "0")
