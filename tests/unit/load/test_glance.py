"""What a glance says is what decoding says, of any stream; and of a stream that goes on, what it will say in the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.decode import decode
from pytest_llmperf.load.exchange import WireEnd
from pytest_llmperf.load.glance import Glance, first_token_s, from_both_ends, glance
from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.response import RawResponse
from tests.unit.load.loads import workload
from tests.unit.load.streams import CHAT, COMPLETION, DONE, Api, delta, event, reads_of, text, usage

T = TypeVar("T")

ERROR = b'data: {"error": {"message": "engine died", "type": "InternalServerError"}}\n\n'

# As long as a plain event, and an error: one differs before the text, one after it.
DISGUISED = [
    text(" word1").replace(b'"id": "cmpl-8dce"', b'"error": "abcdef"'),
    text(" word1").replace(b'"stop_reason": null}]}', b'"s": 0}], "error": 12}'),
]


def returned(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as over:
            value: T = over.value
            return value


def captured(parts: list[bytes], end: WireEnd = WireEnd.COMPLETE, status: int = 200) -> RawResponse:
    """A body that came in these reads, at 1 s, 2 s, 3 s..."""
    times = [float(number) for number in range(1, len(parts) + 1)]
    return RawResponse(b"".join(parts), times, [len(part) for part in parts], end, len(parts) + 1.0, status, "wire")


def decoded(raw: RawResponse, api: Api, *, stream: bool = True) -> Glance:
    response = decode(raw, workload(api=api, stream=stream))
    tokens = int(response.chunk_tokens.sum())
    return Glance(response.first_token_s, response.last_token_s, tokens, response.outcome is not Outcome.OK)


def assert_told_alike(parts: list[bytes], api: Api, end: WireEnd = WireEnd.COMPLETE) -> None:
    """At its end the stream is told as it is decoded, and at no earlier read was anything else told of its first token."""
    raw = captured(parts, end)
    # Compared as text, in which nan is nan.
    assert repr(returned(glance(raw, workload(api=api)))) == repr(decoded(raw, api))
    at_once = returned(from_both_ends(raw, is_chat=api == "chat"))
    assert at_once is None or repr(at_once) == repr(decoded(raw, api))
    told = [first_token_s(reads_of(parts[:count], raw.read_s), workload(api=api)) for count in range(len(parts) + 1)]
    known = [instant_s for instant_s in told if instant_s is not None and not math.isnan(instant_s)]
    assert set(known) <= {decoded(raw, api).first_token_s}
    # Nothing that was told is taken back.
    assert all(later is not None for before, later in pairwise(told) if before is not None)


def plain(count: int, api: Api, **style: Any) -> list[bytes]:
    words = [f" word{number % 7}" for number in range(count)]
    return [text(word, **style) if api == "completions" else delta({"content": word}, **style) for word in words]


def whole(count: int, api: Api) -> list[bytes]:
    """A stream of that many tokens, as vLLM sends it."""
    role = [delta({"role": "assistant", "content": ""})] if api == "chat" else []
    last = text(" end", "length") if api == "completions" else delta({"content": " end"}, "length")
    return [*role, *plain(count - 1, api), last, usage(count), DONE]


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_long_stream_is_told_from_its_two_ends(api: Api) -> None:
    parts = whole(1500, api)
    told = returned(from_both_ends(captured(parts), is_chat=api == "chat"))
    first = 2.0 if api == "chat" else 1.0
    assert told == Glance(first, first + 1499, 1500, failed=False) == decoded(captured(parts), api)
    assert_told_alike(parts, api)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_long_stream_is_told_in_small_steps(api: Api) -> None:
    fast = list(glance(captured(whole(4000, api)), workload(api=api)))
    # An event that is different from the others: all of it is decoded.
    slow = list(glance(captured([*plain(2000, api), b": ping\n\n", *whole(2000, api)]), workload(api=api)))
    assert len(fast) >= 8
    assert len(slow) >= 60


def faulty(place: int, fault: bytes, api: Api, total: int | None) -> list[bytes]:
    parts = [*whole(60, api)[:-2], *([] if total is None else [usage(total)]), DONE]
    return [*parts[:place], fault, *parts[place:]]


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("place", [0, 1, 2, 30, 58, 60, 61])
@pytest.mark.parametrize("total", [None, 60, 61])
@pytest.mark.parametrize(
    "fault",
    [
        ERROR,
        *DISGUISED,
        b"event: error\ndata: {}\n\n",
        b"event: error\n" + text("x"),
        b": ping\n\n",
        b"data: {half\n\n",
        b"data: 7\n\n",
        b'data: {"choices": [7]}\n\n',
        b"\n\n",
        b"\r\n",
        DONE,
        b"data: cut",
        text(""),
        text("\u20ac", ensure_ascii=False),
        text("a\\b\n\u20ac\U0001f600"),
        text("PLACE").replace(b'"PLACE"', b'"'),
        text("x")[:-3] + b',"error":{"type":"E"}}\n\n',
        text("PLACE").replace(b"PLACE", b"\xff"),
        text("PLACE").replace(b"PLACE", b'","text":"'),
        text("PLACE").replace(b"PLACE", b"\\q"),
        text("PLACE").replace(b"PLACE", b"a\nb"),
        delta({"content": ""}),
        delta({"content": "PLACE"}).replace(b"PLACE", b'a"},"error":{"b":"c'),
        delta({"content": "x", "role": "assistant"}),
        delta({"reasoning_content": "hm"}),
        usage(9),
    ],
)
def test_a_fault_anywhere(api: Api, place: int, fault: bytes, total: int | None) -> None:
    assert_told_alike(faulty(place, fault, api, total), api)


@pytest.mark.parametrize("fault", [ERROR, *DISGUISED])
def test_a_fault_at_the_seam_between_two_steps(fault: bytes) -> None:
    parts = whole(1000, "completions")
    seam = next(number for number, end in enumerate(accumulate(map(len, parts))) if end > 2**16)
    for place in range(seam - 3, seam + 4):
        raw = captured([*parts[:place], fault, *parts[place:-2], DONE])
        assert returned(glance(raw, workload())) == decoded(raw, "completions")


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("end", [WireEnd.CLOSED, WireEnd.RESET, WireEnd.TIMEOUT, WireEnd.BAD_HTTP, WireEnd.CANCELLED])
@pytest.mark.parametrize("missing", [0, 1, 2, 3, 30])
def test_a_stream_that_was_cut(api: Api, end: WireEnd, missing: int) -> None:
    parts = whole(60, api)
    assert_told_alike(parts[: len(parts) - missing], api, end)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("total", [1, 2, 58, 59, 60, 61, 240])
def test_fewer_and_more_tokens_than_events(api: Api, total: int) -> None:
    parts = whole(60, api)
    assert_told_alike([*parts[:-2], usage(total), DONE], api)
    empty = text("") if api == "completions" else delta({"content": ""})
    assert_told_alike([empty, *parts[:-2], empty, usage(total), DONE], api)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("total", [0, 1, 62])
@pytest.mark.parametrize("running", [[0, 0], [1, 1], [62, 62], [0, 1], [5, 62]])
def test_counts_beside_some_of_the_texts(api: Api, total: int, running: list[int]) -> None:
    def counted(count: int) -> bytes:
        choice = {"index": 0, "text": "x"} if api == "completions" else {"index": 0, "delta": {"content": "x"}}
        return event(choice, {"prompt_tokens": 8, "completion_tokens": count})

    parts = whole(60, api)
    assert_told_alike([counted(running[0]), *parts[:-2], counted(running[1]), usage(total), DONE], api)
    assert_told_alike([*map(counted, running), DONE], api)


def test_an_empty_text_beside_a_role_is_no_token() -> None:
    parts = [delta({"role": "assistant", "content": word}) for word in ["a", "b", "", *"cdefghijklmnopqrstuvwxyz"]]
    assert_told_alike([*parts, DONE], "chat")
    assert decoded(captured([*parts, DONE]), "chat").output_tokens == 26


@pytest.mark.parametrize("ending", [b"\r\n", b"\r"])
def test_other_line_ends(ending: bytes) -> None:
    assert_told_alike([part.replace(b"\n", ending) for part in whole(60, "completions")], "completions")


@pytest.mark.parametrize(("parts", "api"), [(COMPLETION, "completions"), (CHAT, "chat")])
def test_short_streams(parts: list[bytes], api: Api) -> None:
    for count in range(len(parts) + 1):
        assert_told_alike(parts[:count], api)


@pytest.mark.parametrize(("name", "api"), [("completions.sse", "completions"), ("chat.sse", "chat")])
def test_what_a_real_server_sent(capture: Callable[[str], bytes], name: str, api: Api) -> None:
    body = capture(name)
    events = [part + b"\n\n" for part in body.split(b"\n\n") if part]
    assert b"".join(events) == body
    assert decoded(captured(events), api).output_tokens == (6 if api == "completions" else 3)
    assert_told_alike(events, api)
    assert_told_alike([body[place : place + 7] for place in range(0, len(body), 7)], api)
    # The same server with a longer answer: its events again and again.
    many = [*events[:-2], *(events[2:4] * 100), *events[-2:]]
    assert_told_alike(many, api)


@pytest.mark.parametrize(
    ("body", "status", "end"),
    [
        (b"", 200, WireEnd.COMPLETE),
        (b"", 0, WireEnd.CONNECT_FAILED),
        (b'{"error": {"type": "NotFoundError"}}', 404, WireEnd.COMPLETE),
        (b"<html>" * 1000, 503, WireEnd.COMPLETE),
        (b"<html>" * 1000, 200, WireEnd.COMPLETE),
        (b"data: " + b"x" * 5000, 200, WireEnd.CLOSED),
    ],
)
def test_no_stream_at_all(body: bytes, status: int, end: WireEnd) -> None:
    raw = captured([body] if body else [], end, status)
    told = returned(glance(raw, workload()))
    assert repr(told) == repr(decoded(raw, "completions"))
    assert told.failed


def test_an_answer_in_one_piece() -> None:
    body = json.dumps({"choices": [{"text": "a" * 5000}], "usage": {"completion_tokens": 70_000}}).encode()
    told = returned(glance(captured([body]), workload(stream=False)))
    assert repr(told) == repr(Glance(math.nan, 2.0, 70_000, failed=False))


@st.composite
def streams(draw: st.DrawFn) -> tuple[Api, list[bytes]]:
    """A stream long enough to be told from its ends, with something odd in it or not, in reads of any sizes."""
    api: Api = draw(st.sampled_from(["completions", "chat"]))
    style: dict[str, Any] = {"ensure_ascii": draw(st.booleans())}
    parts = plain(draw(st.integers(0, 30)), api, **style)
    for value in draw(st.lists(st.text(max_size=4), max_size=10)):
        part = text(value, **style) if api == "completions" else delta({"content": value}, **style)
        parts.insert(draw(st.integers(0, len(parts))), part)
    for junk in draw(st.lists(st.binary(max_size=6), max_size=2)):
        odd = (text("PLACE") if api == "completions" else delta({"content": "PLACE"})).replace(b"PLACE", junk)
        parts.insert(draw(st.integers(0, len(parts))), odd)
    if draw(st.booleans()):
        parts.append(text("", "stop") if api == "completions" else delta({}, "stop"))
    if draw(st.booleans()):
        # A server that streams text and then says that it was no token is believed in the end, but not foreseen.
        parts.append(usage(draw(st.integers(1, 60))))
    if draw(st.booleans()):
        parts.append(DONE)
    body = b"".join(parts)
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body
    cuts = sorted({0, len(body), *accumulate(draw(st.lists(st.integers(1, 800), max_size=20)))})
    return api, [body[start:stop] for start, stop in pairwise(cuts) if start < len(body)]


@given(streams(), st.sampled_from([WireEnd.COMPLETE, WireEnd.CLOSED, WireEnd.TIMEOUT]))
def test_any_stream(case: tuple[Api, list[bytes]], end: WireEnd) -> None:
    api, parts = case
    assert_told_alike(parts, api, end)
