"""Bytes and read times -> tokens: the same whatever the reads, and as the server counts."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.decode import decode
from pytest_llmperf.load.exchange import WireEnd
from pytest_llmperf.load.records import Outcome, TokenFit
from pytest_llmperf.load.response import RawResponse, Response
from pytest_llmperf.load.sse import events
from pytest_llmperf.load.template import learn
from pytest_llmperf.load.tokens import Chunk, credit_tokens
from tests.unit.load.loads import workload
from tests.unit.load.streams import CHAT, COMPLETION, DONE, Api, delta, event, text, usage


def read(parts: list[bytes], api: Api = "completions", end: WireEnd = WireEnd.COMPLETE, status: int = 200) -> Response:
    """Decode a body that came in these reads, at 1 s, 2 s, 3 s..."""
    times = [float(number) for number in range(1, len(parts) + 1)]
    raw = RawResponse(b"".join(parts), times, [len(part) for part in parts], end, len(parts) + 1.0, status)
    return decode(raw, workload(api=api))


def test_a_completion() -> None:
    response = read(COMPLETION)
    assert (response.outcome, response.prompt_tokens, response.output_tokens) == (Outcome.OK, 8, 6)
    assert response.chunk_s.tolist() == [1, 2, 3, 4, 5, 6]
    assert response.chunk_tokens.tolist() == [1] * 6


def test_a_chats_role_is_no_token() -> None:
    response = read(CHAT, "chat")
    assert (response.outcome, response.output_tokens) == (Outcome.OK, 3)
    assert response.chunk_s.tolist() == [2, 3, 4]


@pytest.mark.parametrize(("parts", "api"), [(COMPLETION, "completions"), (CHAT, "chat")])
def test_without_usage_every_event_with_a_token_is_one(parts: list[bytes], api: Api) -> None:
    without = [part for part in parts if b'"usage"' not in part]
    response = read(without, api)
    assert response.output_tokens is None
    assert response.chunk_s.tolist() == read(parts, api).chunk_s.tolist()


def test_other_tokens_of_a_chat() -> None:
    parts = [
        delta({"role": "assistant", "content": ""}),
        delta({"reasoning_content": "hm"}),
        delta({"reasoning": "hm"}),
        delta({"content": ""}),
        delta({"tool_calls": [{"index": 0}]}),
        delta({}, "stop"),
        DONE,
    ]
    assert read(parts, "chat").chunk_s.tolist() == [2, 3, 4, 5]


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[Api, bytes, list[bytes]]:
    """A whole stream, and the same bytes in reads of any sizes."""
    api: Api = draw(st.sampled_from(["completions", "chat"]))
    texts = draw(st.lists(st.text(max_size=4), min_size=1, max_size=12))
    ascii_only, spaced = draw(st.booleans()), draw(st.booleans())
    style: dict[str, Any] = {"ensure_ascii": ascii_only, "separators": (", ", ": ") if spaced else (",", ":")}
    parts = [text(t, **style) for t in texts] if api == "completions" else [delta({"content": t}, **style) for t in texts]
    if draw(st.booleans()):
        parts.append(usage(draw(st.integers(0, 20))))
    if draw(st.booleans()):
        parts.append(DONE)
    body = b"".join(parts)
    ending = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    body = body.replace(b"\n", ending)
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=30))})
    return api, body, [body[a:b] for a, b in pairwise(cuts)]


@given(cut_streams())
def test_any_cut_of_the_bytes_gives_the_same_tokens(case: tuple[Api, bytes, list[bytes]]) -> None:
    api, body, parts = case
    whole, cut = read([body], api), read(parts, api)
    assert (whole.outcome, whole.error, whole.prompt_tokens, whole.output_tokens) == (
        cut.outcome,
        cut.error,
        cut.prompt_tokens,
        cut.output_tokens,
    )
    assert whole.chunk_tokens.tolist() == cut.chunk_tokens.tolist()
    # Byte by byte, the instant of every event is the place of its last byte.
    by_byte = read([body[i : i + 1] for i in range(len(body))], api)
    ends = np.cumsum([len(part) for part in parts])
    assert cut.chunk_s.tolist() == [float(np.searchsorted(ends, place)) + 1 for place in by_byte.chunk_s]
    assert np.all(np.diff(cut.chunk_s) >= 0)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=10), st.booleans(), st.booleans())
def test_reading_by_template_is_reading_by_parser(texts: list[str], is_chat: bool, ascii_only: bool) -> None:
    def line(value: str) -> bytes:
        made = delta({"content": value}, ensure_ascii=ascii_only) if is_chat else text(value, ensure_ascii=ascii_only)
        return made[6:-2]

    template = learn(line(texts[0]), is_chat=is_chat)
    if template is None:
        return
    for value in texts:
        found = template.text_of(line(value))
        assert found is None or json.loads(b'"' + found + b'"') == value
        assert found is not None or not value.isascii() or not ascii_only


@given(st.binary(max_size=12))
def test_a_template_takes_nothing_that_is_not_json(junk: bytes) -> None:
    before, after = text("PLACE")[6:-2].split(b"PLACE")
    template = learn(before + b"x" + after, is_chat=False)
    assert template is not None
    if template.text_of(before + junk + after) is not None:
        assert json.loads(before + junk + after)["choices"][0].keys() == json.loads(before + after)["choices"][0].keys()


def test_a_template_is_not_fooled_by_another_text() -> None:
    fooled = b'{"note":{"text":"x"},"choices":[{"index":0,"text":"y","finish_reason":null}]}'
    assert learn(fooled, is_chat=False) is None


@pytest.mark.parametrize(
    ("running", "total", "expected"),
    [
        ([None] * 4, None, [1, 1, 1, 1]),
        ([None] * 4, 4, [1, 1, 1, 1]),
        ([None] * 4, 10, [2, 3, 2, 3]),
        ([2, 3, 9, 10], 10, [2, 1, 6, 1]),
        ([2, 3, 9, 10], 12, [2, 1, 6, 3]),
        # A chunk at which the count stands still bears no token.
        ([2, 2, 9, 10], 10, [2, 7, 1]),
        ([5, 3, 9, 10], 10, [2, 3, 2, 3]),
        ([None, 3, None, 4], 9, [2, 2, 2, 3]),
        ([None] * 4, 2, [1, 1]),
        # The first and the last text are kept, whatever the server counts to them.
        ([None] * 4, 1, [1, 0]),
        ([0, 3, 9, 9], 9, [0, 3, 6, 0]),
        # What never grows is no count so far, and 0 beside texts is none.
        ([1, 1, 1, 1], 1, [1, 1, 1, 1]),
        ([20, 20, 20, 20], 20, [1, 1, 1, 1]),
        ([None, 2, None, 1], 1, [1, 1, 1, 1]),
        ([1, 1, 1, 1], 6, [1, 2, 1, 2]),
        ([None] * 4, 0, [1, 1, 1, 1]),
        ([], 5, []),
    ],
)
def test_tokens_are_credited(running: list[int | None], total: int | None, expected: list[int]) -> None:
    chunks = [Chunk(number, False, False, so_far) for number, so_far in enumerate(running)]
    credit = credit_tokens(chunks, total)
    assert credit.tokens.tolist() == expected
    assert len(credit.chunks) == len(expected)
    assert {chunk.end for chunk in credit.chunks} >= {chunk.end for chunk in (*chunks[:1], *chunks[-1:])}


def test_the_surplus_chunk_is_the_one_that_only_announces_the_end() -> None:
    chunks = [Chunk(0, True, False), Chunk(1, False, False), Chunk(2, False, False), Chunk(3, True, True)]
    assert [chunk.end for chunk in credit_tokens(chunks, 3)[0]] == [0, 1, 2]
    assert [chunk.end for chunk in credit_tokens(chunks, 2)[0]] == [1, 2]


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.integers(0, 200))
def test_credits_add_up(empties: list[bool], total: int) -> None:
    credit = credit_tokens([Chunk(i, empty, False) for i, empty in enumerate(empties)], total)
    kept, texts = [chunk.end for chunk in credit.chunks], [i for i, empty in enumerate(empties) if not empty]
    assert credit.total == (None if total == 0 and texts else total)
    assert credit.tokens.sum() == (len(empties) if credit.total is None else total)
    assert len(kept) == len(credit.tokens)
    assert kept == sorted(set(kept))
    # Only what has no text is left out at the ends.
    assert set(kept) >= {*texts[:1], *texts[-1:]}
    one_on_two = total == 1 and len(texts) > 1
    assert len(kept) == (2 if one_on_two else len(empties) if credit.total is None else min(total, len(empties)))
    assert credit.tokens.tolist() == [1, 0] if one_on_two else np.all(credit.tokens >= 1)
    assert (credit.fit is TokenFit.FEWER) == (credit.total is not None and total < len(texts))
    assert (credit.fit is TokenFit.MORE) == (total > len(empties))


def test_fewer_tokens_than_texts_lie_between_the_first_text_and_the_last() -> None:
    parts = [*(text(f" w{i}") for i in range(20)), text("", "stop"), usage(5), DONE]
    raw = RawResponse(b"".join(parts), [i / 10 for i in range(1, 24)], list(map(len, parts)), WireEnd.COMPLETE, 2.5, 200)
    response = decode(raw, workload())
    assert (response.outcome, response.output_tokens, response.token_fit) == (Outcome.OK, 5, TokenFit.FEWER)
    assert response.chunk_s.tolist() == [0.1, 0.6, 1.1, 1.5, 2.0]
    assert response.chunk_tokens.tolist() == [1] * 5


@pytest.mark.parametrize("stream", [True, False])
def test_a_count_of_0_beside_a_text_is_none(stream: bool) -> None:
    whole = event({"index": 0, "text": "hello"}, {"prompt_tokens": 3, "completion_tokens": 0})
    parts = [text(" a"), text(" b"), usage(0), DONE] if stream else [whole.removeprefix(b"data: ")]
    raw = RawResponse(b"".join(parts), [1.0] * len(parts), list(map(len, parts)), WireEnd.COMPLETE, 2.5, 200)
    response = decode(raw, workload(stream=stream))
    assert (response.outcome, response.output_tokens) == (Outcome.OK, None)
    assert response.chunk_tokens.tolist() == ([1, 1] if stream else [1])


@pytest.mark.parametrize(
    ("body", "end", "status", "outcome", "error"),
    [
        (b"", WireEnd.COMPLETE, 200, Outcome.TRUNCATED, "truncated stream"),
        (DONE, WireEnd.COMPLETE, 200, Outcome.MALFORMED, "malformed no tokens"),
        (text("a"), WireEnd.COMPLETE, 200, Outcome.TRUNCATED, "truncated stream"),
        (text("a") + DONE, WireEnd.CLOSED, 200, Outcome.OK, ""),
        (text("a") + DONE, WireEnd.RESET, 200, Outcome.OK, ""),
        (text("a") + b"data: [DONE]", WireEnd.COMPLETE, 200, Outcome.OK, ""),
        (text("a", "stop"), WireEnd.COMPLETE, 200, Outcome.OK, ""),
        (text("a") + DONE, WireEnd.TIMEOUT, 200, Outcome.TIMEOUT, "wire"),
        (b": ping\n\n" + text("a") + DONE, WireEnd.COMPLETE, 200, Outcome.OK, ""),
        (b'{"choices": []}', WireEnd.COMPLETE, 200, Outcome.MALFORMED, "malformed not an event stream"),
        (b"data: 7\n\n", WireEnd.COMPLETE, 200, Outcome.MALFORMED, "malformed event"),
        (b'data: {"choices": [7]}\n\n', WireEnd.COMPLETE, 200, Outcome.MALFORMED, "malformed event"),
        (b"event: error\ndata: {}\n\n", WireEnd.COMPLETE, 200, Outcome.SERVER_ERROR_EVENT, "server error event"),
        (b'data: {"error": "no"}\n\n', WireEnd.COMPLETE, 200, Outcome.SERVER_ERROR_EVENT, "server error event"),
        (b'{"error": {"type": "NotFoundError"}}', WireEnd.COMPLETE, 404, Outcome.HTTP_ERROR, "http 404 NotFoundError"),
        (b"[]", WireEnd.COMPLETE, 500, Outcome.HTTP_ERROR, "http 500"),
        (b"half an err", WireEnd.CLOSED, 502, Outcome.HTTP_ERROR, "http 502"),
        (b"", WireEnd.CANCELLED, 500, Outcome.CANCELLED, "wire"),
        (b"", WireEnd.CANCELLED, 0, Outcome.CANCELLED, "wire"),
        (b"", WireEnd.CLOSED, 0, Outcome.RESET, "wire"),
    ],
)
def test_endings(body: bytes, end: WireEnd, status: int, outcome: Outcome, error: str) -> None:
    raw = RawResponse(body, [1.0], [len(body)], end, 2.0, status, "" if end is WireEnd.COMPLETE else "wire")
    response = decode(raw, workload())
    assert (response.outcome, response.error) == (outcome, error)


@pytest.mark.parametrize(
    ("document", "outcome", "tokens"),
    [
        ({"choices": [{"text": "a b"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, Outcome.OK, [2]),
        ({"choices": [{"text": "a"}], "usage": {"completion_tokens": 70_000}}, Outcome.OK, [65_535, 4_465]),
        ({"choices": [{"text": "a"}]}, Outcome.OK, [1]),
        ({"choices": [{"message": {"content": ""}}], "usage": {"completion_tokens": 3}}, Outcome.OK, [3]),
        ({"choices": []}, Outcome.MALFORMED, []),
        ({"choices": [7]}, Outcome.MALFORMED, []),
        ({"choices": [{"finish_reason": "stop"}]}, Outcome.MALFORMED, []),
        ({"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 3}}, Outcome.MALFORMED, []),
        ({"error": {"type": "E"}}, Outcome.SERVER_ERROR_EVENT, []),
        ([], Outcome.MALFORMED, []),
    ],
)
def test_an_answer_in_one_piece(document: object, outcome: Outcome, tokens: list[int]) -> None:
    body = json.dumps(document).encode()
    response = decode(RawResponse(body, [1.0], [len(body)], WireEnd.COMPLETE, 2.0, 200), workload(stream=False))
    assert response.outcome is outcome
    assert response.chunk_tokens.tolist() == tokens
    assert set(response.chunk_s.tolist()) <= {2.0}


@pytest.mark.parametrize(
    "choice", [{"text": ""}, {"text": "", "finish_reason": "stop"}, {"text": "a"}, {"finish_reason": "stop"}, 7], ids=str
)
@pytest.mark.parametrize("tokens", [None, 0, 1, 3])
def test_an_answer_is_the_same_in_one_piece_as_streamed(choice: object, tokens: int | None) -> None:
    document: dict[str, object] = {"choices": [choice]}
    if tokens is not None:
        document["usage"] = {"prompt_tokens": 5, "completion_tokens": tokens}
    body = json.dumps(document).encode()

    def decoded(body: bytes, *, stream: bool) -> Response:
        return decode(RawResponse(body, [1.0], [len(body)], WireEnd.COMPLETE, 1.0, 200), workload(stream=stream))

    whole, streamed = decoded(body, stream=False), decoded(b"data: " + body + b"\n\n" + DONE, stream=True)
    assert (whole.outcome, whole.chunk_tokens.tolist()) == (streamed.outcome, streamed.chunk_tokens.tolist())
    if isinstance(choice, dict):
        assert (whole.error, whole.output_tokens) == (streamed.error, streamed.output_tokens)


def test_events_of_several_lines() -> None:
    body = b"\xef\xbb\xbf: hello\nevent: note\ndata: one\ndata:two\nid: 4\n\n\n\nretry: 5\n\ndata: three\n\ndata: cut"
    assert [(e.name, e.data) for e in events(body)] == [(b"note", b"one\ntwo"), (b"", b"three")]
