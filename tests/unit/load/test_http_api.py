"""Services that are not OpenAI-compatible: what is asked of them, what their answers are, and what nobody knows of those."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError
from pytest_llmperf.experiment.http_template import HttpTemplate, Query
from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.experiment.records import Lengths, Turns, Workload
from pytest_llmperf.load.decode import decode
from pytest_llmperf.load.engine import LoadOptions
from pytest_llmperf.load.exchange import WireEnd
from pytest_llmperf.load.glance import Glance, first_token_s, glance
from pytest_llmperf.load.http_api import value_at
from pytest_llmperf.load.notes import counting_notes
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.prompts import request_writer
from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.response import RawResponse, Response
from pytest_llmperf.load.watch import Sighting
from pytest_llmperf.measure.compute import Metrics, measure
from pytest_llmperf.metrics import metric_key
from tests.unit.load.chatbot import ANSWER, PATH, TOKEN, chatbot
from tests.unit.load.loads import outcomes, run, workload
from tests.unit.load.streams import reads_of

TEMPLATE = HttpTemplate(PATH, "/data/answers/0/text", {"question": "{prompt}", "chat_id": "{session}"})
QUERIES = (Query("When do you open?", 3.0), Query('A "quoted" café: {prompt}?', 1.0))
ENDPOINT = Endpoint("http://h:1/base", "m", openai=False)


def chat(template: HttpTemplate = TEMPLATE, **changes: object) -> Workload:
    return Workload("c", "C", api="http", http=template, **{"queries": QUERIES, "stream": False, **changes})  # type: ignore[arg-type]


def parts_of(request: bytes) -> tuple[list[str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


def requests(asked: Workload, endpoint: Endpoint = ENDPOINT, *, count: int = 1, seed: int = 1, workers: int = 1) -> list[bytes]:
    plan = plan_load(Constant(10.0), asked, None, seed=seed, warmup_s=0, max_requests=count)
    writer = request_writer(asked, endpoint, 7, plan.seed)
    sessions = sorted((s for worker in range(workers) for s in plan.sessions(worker, workers)), key=lambda s: s.number)
    return [writer.request(session, 0) for session in sessions]


# What is asked.


def test_a_template_becomes_a_request() -> None:
    template = HttpTemplate(
        "/v2/{model}/x?s={session}", "/t", ["{prompt}", {"n": "{output_tokens}", "t": "{{word}} of {output_tokens}"}], "PUT",
        {"X-Team": "perf", "accept": "application/json"},
    )  # fmt: skip
    asked = Workload("c", "C", Lengths(3), Lengths(5), api="http", http=template)
    endpoint = Endpoint("http://h:1/base", "a/b", "k3y", headers=(("X-TEAM", "mine"), ("X-Tenant", "t")), openai=False)
    lines, body = parts_of(requests(asked, endpoint)[0])
    text, options = json.loads(body)
    assert len(text.split()) == 3
    assert options == {"n": 5, "t": "{word} of 5"}
    verb, path, version = lines[0].split()
    assert (verb, version) == ("PUT", "HTTP/1.1")
    assert path.startswith("/base/v2/a%2Fb/x?s=")
    UUID(path.partition("s=")[2])
    expected = ["Host: h:1", "User-Agent: pytest-llmperf", "accept: application/json", "Content-Type: application/json"]
    assert lines[1:] == [*expected, "X-TEAM: mine", "Authorization: Bearer k3y", "X-Tenant: t", f"Content-Length: {len(body)}"]


def test_a_get_has_its_prompt_in_the_path_and_no_body() -> None:
    asked = chat(HttpTemplate("/search?q={prompt}", "raw", method="GET"), queries=(Query("à la carte & more?"),))
    lines, body = parts_of(requests(asked)[0])
    assert lines[0] == "GET /base/search?q=%C3%A0%20la%20carte%20%26%20more%3F HTTP/1.1"
    assert body == b""
    assert not [line for line in lines if line.startswith("Content-")]


def test_queries_are_drawn_by_weight_and_not_filled_in() -> None:
    drawn = Counter(json.loads(parts_of(request)[1])["question"] for request in requests(chat(), count=2000))
    assert set(drawn) == {query.text for query in QUERIES}
    # 1,500 expected, standard deviation 19: five of them.
    assert abs(drawn[QUERIES[0].text] - 1500) < 97


def test_queries_are_those_of_the_plans_seed_whatever_the_workers() -> None:
    alone = requests(chat(), count=50)
    assert alone == requests(chat(), count=50, workers=3)
    assert alone != requests(chat(), count=50, seed=2)


@pytest.mark.parametrize(("api", "prompt"), [("chat", "token_ids"), ("completions", "text")])
def test_queries_are_asked_over_the_openai_apis_too(api: str, prompt: str) -> None:
    asked = Workload("c", "C", output=Lengths(4), api=api, prompt=prompt, queries=QUERIES[1:])  # type: ignore[arg-type]
    document = json.loads(parts_of(requests(asked, Endpoint("http://h:1", "m"))[0])[1])
    found = document["messages"] if api == "chat" else document["prompt"]
    assert found == ([{"role": "user", "content": QUERIES[1].text}] if api == "chat" else QUERIES[1].text)


def test_a_session_keeps_its_id_and_asks_only_what_is_new() -> None:
    asked = Workload("c", "C", Lengths(12), Lengths(6), api="http", http=TEMPLATE, turns=Turns(Lengths(3), Lengths(7)))
    plan = plan_load(Constant(10.0), asked, None, seed=5, warmup_s=0, max_requests=2)
    writer = request_writer(asked, ENDPOINT, 7)
    first, second = ([json.loads(parts_of(writer.request(session, turn))[1]) for turn in range(3)] for session in plan.sessions())
    assert [len(body["question"].split()) for body in first] == [12, 7, 7]
    assert len({body["chat_id"] for body in first}) == 1
    assert first[0]["chat_id"] != second[0]["chat_id"]


def test_credentials_are_in_no_repr() -> None:
    endpoint = Endpoint("http://h", "m", "s3cret-key", headers=(("X-Key", "s3cret-value"),))
    for asked in (chat(), workload()):
        assert "s3cret" not in repr(request_writer(asked, endpoint, 1))
        assert b"X-Key: s3cret-value\r\n" in request_writer(asked, endpoint, 1).request(
            next(plan_load(Constant(1.0), asked, None, seed=1, warmup_s=0, max_requests=1).sessions()), 0
        )


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_what_a_server_lacks_is_said(api: str) -> None:
    with pytest.raises(LoadError, match=rf"the workload 'w' asks for {api}, and http://h:1/base has no OpenAI-compatible API"):
        request_writer(workload(api=api), ENDPOINT, 1)
    with pytest.raises(LoadError, match=r"asks for 'continuous_usage', and http://h takes no 'stream_options'"):
        request_writer(workload(api=api, continuous_usage=True), Endpoint("http://h", "m", stream_usage=False), 1)
    with pytest.raises(LoadError, match=r"asks for 'continuous_usage', and http://h takes no 'continuous_usage_stats'"):
        request_writer(workload(api=api, continuous_usage=True), Endpoint("http://h", "m", continuous_usage=False), 1)


def test_a_missing_api_ends_the_load_with_what_to_do() -> None:
    with chatbot() as server, pytest.raises(LoadError, match=r"has no OpenAI-compatible API(?s:.*)api: http"):
        run(Endpoint(server.url, "", openai=False))


# What is answered.


def whole(body: object, template: HttpTemplate = TEMPLATE, end: WireEnd = WireEnd.COMPLETE, status: int = 200) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw = RawResponse(data, [1.0], [len(data)], end, 2.0, status, "" if end is WireEnd.COMPLETE else "wire")
    return decode(raw, chat(template))


def streamed(parts: list[bytes], template: HttpTemplate, end: WireEnd = WireEnd.COMPLETE) -> tuple[RawResponse, Workload]:
    times = [float(number) for number in range(1, len(parts) + 1)]
    raw = RawResponse(
        b"".join(parts), times, [len(part) for part in parts], end, 99.0, 200, "" if end is WireEnd.COMPLETE else "wire"
    )
    return raw, chat(template, stream=True)


def test_pointers() -> None:
    document = {"a/b": [{"": 1, "~": 2}], "n": None}
    assert [value_at(document, pointer) for pointer in ("/a~1b/0/", "/a~1b/0/~0", "/n")] == [1, 2, None]
    assert value_at(document, "") is document
    assert [value_at(document, pointer) for pointer in ("/a~1b/1", "/a~1b/-", "/x", "/n/x", "/a~1b/0/~0/0")] == [None] * 5


def test_an_answer_whose_tokens_nobody_counts() -> None:
    response = whole({"data": {"answers": [{"text": "hello you"}]}})
    assert (response.outcome, response.prompt_tokens, response.output_tokens) == (Outcome.OK, 0, None)
    assert (response.chunk_s.tolist(), response.chunk_tokens.tolist()) == ([2.0], [0])
    assert math.isnan(response.first_token_s)


def test_an_answer_with_counts() -> None:
    template = HttpTemplate("/x", "/t", "{prompt}", prompt_tokens="/in", output_tokens="/out")
    response = whole({"t": "hello", "in": 9, "out": 70_000}, template)
    assert (response.prompt_tokens, response.output_tokens, response.chunk_tokens.tolist()) == (9, 70_000, [65_535, 4_465])
    assert whole({"t": "hello", "in": "9", "out": True}, template).output_tokens is None


@pytest.mark.parametrize(
    ("body", "status", "end", "outcome", "error"),
    [
        ({"data": {"answers": []}}, 200, WireEnd.COMPLETE, Outcome.MALFORMED, "malformed no text"),
        ({"data": {"answers": [{"text": ""}]}}, 200, WireEnd.COMPLETE, Outcome.MALFORMED, "malformed no text"),
        ({"data": {"answers": [{"text": 7}]}}, 200, WireEnd.COMPLETE, Outcome.MALFORMED, "malformed no text"),
        ({"error": {"type": "Overloaded"}}, 200, WireEnd.COMPLETE, Outcome.SERVER_ERROR_EVENT, "server error Overloaded"),
        ({"error": "no"}, 200, WireEnd.COMPLETE, Outcome.SERVER_ERROR_EVENT, "server error"),
        (b"<html>", 200, WireEnd.COMPLETE, Outcome.MALFORMED, "malformed json"),
        (b'{"data', 200, WireEnd.CLOSED, Outcome.TRUNCATED, "wire"),
        (b"", 0, WireEnd.CLOSED, Outcome.RESET, "wire"),
        (b"", 0, WireEnd.TIMEOUT, Outcome.TIMEOUT, "wire"),
        ({"detail": "no"}, 401, WireEnd.COMPLETE, Outcome.HTTP_ERROR, "http 401"),
    ],
)
def test_endings(body: object, status: int, end: WireEnd, outcome: Outcome, error: str) -> None:
    response = whole(body, end=end, status=status)
    assert (response.outcome, response.error) == (outcome, error)


EVENTS = HttpTemplate("/x", "/delta", "{prompt}")
WORDS = [b"event: start\ndata: {}\n\n", *(b'data: {"delta": "%b"}\n\n' % word for word in (b"", b"a", b"b", b"c"))]


def test_the_first_event_with_a_text_is_the_first_token() -> None:
    response = decode(*streamed(WORDS, EVENTS))
    assert (response.outcome, response.first_token_s, response.last_token_s) == (Outcome.OK, 3.0, 5.0)
    assert response.chunk_tokens.tolist() == [0, 0, 0]
    assert response.output_tokens is None


def test_a_stream_that_says_its_tokens() -> None:
    template = HttpTemplate("/x", "/delta", "{prompt}", prompt_tokens="/in", output_tokens="/out")
    response = decode(*streamed([*WORDS, b'data: {"in": 4, "out": 6}\n\n', b"data: [DONE]\n\n"], template))
    assert (response.prompt_tokens, response.output_tokens, response.chunk_tokens.tolist()) == (4, 6, [2, 2, 2])


COUNTED = HttpTemplate("/x", "/delta", "{prompt}", output_tokens="/out")


def counting(*counts: int | None, total: int | None = None) -> list[bytes]:
    """A text an event, each with its count; and the total in a last one without a text."""
    events = [{"delta": "w"} | ({} if count is None else {"out": count}) for count in counts]
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*events, *([] if total is None else [{"out": total}])]]


@pytest.mark.parametrize(
    ("parts", "tokens", "times"),
    [
        # Fewer tokens than texts: they came between the first and the last of them.
        (counting(*[None] * 9, total=3), [1, 1, 1], [1.0, 5.0, 9.0]),
        (counting(*[None] * 9, total=1), [1, 0], [1.0, 9.0]),
        (counting(1, 2, 3), [1, 1, 1], [1.0, 2.0, 3.0]),
        (counting(0, 2, 2), [0, 2, 0], [1.0, 2.0, 3.0]),
        # No counts: what each event bears, what is always the same, and 0 beside texts.
        (counting(1, 1, 1), None, [1.0, 2.0, 3.0]),
        (counting(9, 9, 9), None, [1.0, 2.0, 3.0]),
        (counting(0, 0, 0), None, [1.0, 2.0, 3.0]),
        (counting(None, None, total=0), None, [1.0, 2.0]),
    ],
)
def test_the_answer_takes_until_its_last_text_whatever_is_counted(
    parts: list[bytes], tokens: list[int] | None, times: list[float]
) -> None:
    raw, asked = streamed(parts, COUNTED)
    response = decode(raw, asked)
    assert response.chunk_s.tolist() == times
    assert response.chunk_tokens.tolist() == (tokens or [0] * len(times))
    assert response.output_tokens == (None if tokens is None else sum(tokens))
    assert first_token_s(reads_of(parts[:1], raw.read_s), asked) == response.first_token_s == 1.0
    with pytest.raises(StopIteration) as over:
        next(glance(raw, asked))
    assert over.value.value == Glance(1.0, times[-1], sum(tokens or []), failed=False)


@pytest.mark.parametrize(
    ("parts", "end", "outcome", "error"),
    [
        (WORDS, WireEnd.CLOSED, Outcome.TRUNCATED, "wire"),
        ([*WORDS, b"data: [DONE]\n\n"], WireEnd.CLOSED, Outcome.OK, ""),
        (WORDS[:2], WireEnd.COMPLETE, Outcome.MALFORMED, "malformed no text"),
        ([b'{"delta": "a"}'], WireEnd.COMPLETE, Outcome.MALFORMED, "malformed not an event stream"),
        ([b""], WireEnd.COMPLETE, Outcome.TRUNCATED, "truncated stream"),
        ([*WORDS, b"data: oops\n\n"], WireEnd.COMPLETE, Outcome.MALFORMED, "malformed json"),
        ([*WORDS, b'data: {"error": {"code": "E7"}}\n\n'], WireEnd.COMPLETE, Outcome.SERVER_ERROR_EVENT, "server error event E7"),
        ([*WORDS, b"event: error\ndata: {}\n\n"], WireEnd.COMPLETE, Outcome.SERVER_ERROR_EVENT, "server error event"),
        (WORDS, WireEnd.TIMEOUT, Outcome.TIMEOUT, "wire"),
    ],
)
def test_endings_of_streams(parts: list[bytes], end: WireEnd, outcome: Outcome, error: str) -> None:
    response = decode(*streamed(parts, EVENTS, end))
    assert (response.outcome, response.error) == (outcome, error)


@given(st.lists(st.integers(0, sum(map(len, WORDS))), max_size=8))
def test_any_split_into_reads_gives_the_same_texts(cuts: list[int]) -> None:
    body = b"".join(WORDS)
    edges = sorted({0, len(body), *cuts})
    parts = [body[start:stop] for start, stop in pairwise(edges)]
    raw, asked = streamed(parts, EVENTS)
    response = decode(raw, asked)
    ends = np.cumsum([len(word) for word in WORDS])[2:]
    assert response.chunk_s.tolist() == [1.0 + int(np.searchsorted(np.cumsum(raw.read_sizes), end)) for end in ends]
    # Nothing is told of a stream that goes on which is not so in the end.
    told = [first_token_s(reads_of(parts[:count], raw.read_s), asked) for count in range(len(parts) + 1)]
    assert {at for at in told if at is not None} == {response.first_token_s}
    assert all(later is not None for before, later in pairwise(told) if before is not None)


def test_plain_text_is_timed_by_its_pieces() -> None:
    raw, asked = streamed([b"He", b"llo"], HttpTemplate("/x", "raw", "{prompt}"))
    response = decode(raw, asked)
    assert (response.outcome, response.chunk_s.tolist(), response.chunk_tokens.tolist()) == (Outcome.OK, [1.0, 2.0], [0, 0])
    assert first_token_s(reads_of([b"He"], [1.0]), asked) == 1.0
    assert first_token_s(reads_of([], []), asked) is None
    assert decode(*streamed([], HttpTemplate("/x", "raw", "{prompt}"))).error == "malformed no text"
    assert decode(*streamed([b"He"], HttpTemplate("/x", "raw", "{prompt}"), WireEnd.CLOSED)).outcome is Outcome.TRUNCATED
    assert whole(b"Hello", HttpTemplate("/x", "raw", "{prompt}")).outcome is Outcome.OK
    assert whole(b"", HttpTemplate("/x", "raw", "{prompt}")).error == "malformed no text"


def test_a_glance_is_what_decoding_says() -> None:
    raw, asked = streamed([*WORDS * 100], EVENTS)
    with pytest.raises(StopIteration) as over:
        next(glance(raw, asked))
    seen = over.value.value
    response = decode(raw, asked)
    assert (seen.first_token_s, seen.last_token_s, seen.output_tokens, seen.failed) == (3.0, response.last_token_s, 0, False)


# What a load makes of it.

LATENCIES = ("e2e_p50", "ttft_p50")
TOKENS = ("tpot_p50", "itl_p50", "output_tokens_per_s", "total_tokens_per_s", "cost_per_mtok")


def known(metrics: Metrics, *names: str) -> dict[str, bool]:
    return {name: metrics.estimate(metric_key(name)).is_known for name in names}


@pytest.mark.parametrize(
    ("how", "template", "chunks"),
    [
        ("", TEMPLATE, 1),
        ("?events", HttpTemplate(f"{PATH}?events", "/delta", {"question": "{prompt}"}), len(ANSWER)),
        ("?text", HttpTemplate(f"{PATH}?text", "raw", {"question": "{prompt}"}), len(ANSWER)),
    ],
)
def test_a_chatbot_under_load(how: str, template: HttpTemplate, chunks: int) -> None:
    asked = chat(template, stream=chunks > 1)
    with chatbot() as server:
        endpoint = Endpoint(server.url, "", openai=False, headers=(("Authorization", f"Bearer {TOKEN}"),))
        result = run(endpoint, Concurrency(4), asked=asked, max_requests=40, options=LoadOptions(workers=2))
        assert Counter(server.questions) == Counter(
            json.loads(parts_of(request)[1])["question"] for request in requests(asked, count=40)
        )
        assert {path for path, _, _ in server.asked} == {PATH + how}
    assert outcomes(result) == {Outcome.OK: 40}
    assert np.all(np.diff(result.log.chunk_start) <= chunks)
    metrics = measure(result, price_per_hour=2.0)
    assert known(metrics, *LATENCIES) == {"e2e_p50": True, "ttft_p50": chunks > 1}
    assert not any(known(metrics, *TOKENS).values())
    assert metrics.estimate(metric_key("request_rate")).value > 0
    notes = counting_notes(asked, endpoint, result.log)
    assert notes == ("40 of 40 answers do not say how many tokens they have: there are no metrics of tokens",)


def test_a_chatbot_that_counts() -> None:
    counts = {"prompt_tokens": "/meta/in", "output_tokens": "/meta/out"}
    asked = chat(HttpTemplate(f"{PATH}?counted", TEMPLATE.text, {"question": "{prompt}"}, **counts))  # type: ignore[arg-type]
    with chatbot() as server:
        endpoint = Endpoint(server.url, "", TOKEN, openai=False)
        result = run(endpoint, asked=asked, max_requests=10)
    assert (result.log.prompt_tokens.tolist(), result.log.output_tokens.tolist()) == ([11] * 10, [7] * 10)
    assert all(known(measure(result, price_per_hour=2.0), *TOKENS[2:]).values())
    assert counting_notes(asked, endpoint, result.log) == ()


def test_a_wrong_token_is_every_requests_error() -> None:
    with chatbot() as server:
        result = run(Endpoint(server.url, "", "wrong", openai=False), asked=chat())
    assert set(result.log.error) == {"http 401"}


def test_a_chatbot_is_watched() -> None:
    seen: list[Sighting] = []

    def watch(sighting: Sighting) -> bool:
        seen.append(sighting)
        return bool(np.count_nonzero(~np.isnan(sighting.end_s)) >= 5)

    asked = chat(HttpTemplate(f"{PATH}?events", "/delta", {"question": "{prompt}"}), stream=True)
    with chatbot() as server:
        endpoint = Endpoint(server.url, "", TOKEN, openai=False)
        result = run(endpoint, Concurrency(2), 30.0, asked=asked, options=LoadOptions(look_every_s=0.05), watch=watch)
    assert result.stopped_s is not None
    assert set(outcomes(result)) == {Outcome.OK}
    assert not np.any(seen[-1].output_tokens)
