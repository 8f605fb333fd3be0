"""The simulator's answers have the shape of those captured from vLLM 0.32, key for key and in the same order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Running

Capture = Callable[[str], str]


def _shape(value: Any) -> Any:
    """The keys, in order, of everything in a JSON value; scalars are only told apart from null."""
    if isinstance(value, dict):
        return [(key, _shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [_shape(item) for item in value[:1]]
    return None if value is None else "scalar"


def _events(stream: str) -> list[Any]:
    datas = [line.removeprefix("data: ") for line in stream.split("\n\n") if line.strip()]
    assert datas[-1] == "[DONE]"
    return [json.loads(data) for data in datas[:-1]]


def _same_event_shapes(ours: str, real: str) -> None:
    got, wanted = _events(ours), _events(real)
    for place in (0, 1, -2, -1):
        assert _shape(got[place]) == _shape(wanted[place]), place


def test_streamed_completion(server: Running, capture: Capture) -> None:
    body = {"prompt": "to be or not to be", "max_tokens": 6, "ignore_eos": True, "stream": True}
    answer = server.http.post("/v1/completions", json={**body, "stream_options": {"include_usage": True}})
    _same_event_shapes(answer.text, capture("completions.sse"))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-llmperf-simulated"] == "1"


def test_streamed_chat_with_continuous_usage(server: Running, capture: Capture) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "ignore_eos": True, "stream": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = server.http.post("/v1/chat/completions", json={**body, "stream_options": options})
    _same_event_shapes(answer.text, capture("chat.sse"))


def test_whole_completion(server: Running, capture: Capture) -> None:
    answer = server.http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 6, "ignore_eos": True})
    assert _shape(answer.json()) == _shape(json.loads(capture("completions.json")))


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/models", "models.json"), ("/version", "version.json"), ("/tokenize", "tokenize.json")]
)
def test_small_answers(server: Running, capture: Capture, path: str, name: str) -> None:
    real = json.loads(capture(name))
    answer = server.http.post(path, json={"prompt": "x"}) if path == "/tokenize" else server.http.get(path)
    ours = answer.json()
    # What names the simulator may be more than the real server says, never less.
    assert _shape({key: ours[key] for key in real}) == _shape(real)


def test_errors_word_for_word(server: Running, capture: Capture) -> None:
    too_long = server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 99_999})
    assert too_long.status_code == 400
    assert too_long.json() == json.loads(capture("error-400.json"))
    unknown = server.http.post("/v1/completions", json={"model": "nope", "prompt": "x"})
    assert unknown.status_code == 404
    assert unknown.json() == json.loads(capture("error-404.json"))


def test_health(server: Running, capture: Capture) -> None:
    answer = server.http.get("/health")
    assert capture("health.txt").startswith(f"HTTP/1.1 {answer.status_code} OK")
    assert (answer.headers["content-length"], answer.content) == ("0", b"")


def _families(text: str) -> dict[str, tuple[str, str, set[tuple[str, ...]]]]:
    """Per family: type, help, and the label names of its samples."""
    return {
        family.name: (
            family.type,
            family.documentation,
            {(sample.name, *sorted(sample.labels)) for sample in family.samples},
        )
        for family in text_string_to_metric_families(text)
        if family.name.startswith("vllm:")
    }


def test_metrics_have_vllms_names_labels_types_and_help(server: Running, capture: Capture) -> None:
    ours, real = _families(server.http.get("/metrics").text), _families(capture("metrics.txt"))
    assert ours.keys() == real.keys()
    for name in real:
        assert ours[name] == real[name]


def test_metrics_have_vllms_buckets_and_label_values(server: Running, capture: Capture) -> None:
    def samples(text: str) -> set[str]:
        lines = [line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("vllm:")]
        # The series that depend on the model's length and the cache's size are compared by their rule elsewhere.
        return {line for line in lines if "cache_config_info" not in line and not re.search(r"le=\"\d{4,}\.0\"", line)}

    assert samples(server.http.get("/metrics").text) == samples(capture("metrics.txt"))
