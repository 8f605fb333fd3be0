"""Bytes and the instants at which they were read -> tokens. Pure: no clock, no socket, nothing of how reads were cut.

The same bytes give the same tokens however they were split into reads; an event's instant is that of the read which completed it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pytest_llmperf.load.exchange import WireEnd
from pytest_llmperf.load.records import Floats, Ints, Outcome
from pytest_llmperf.load.sse import Event, events
from pytest_llmperf.load.template import Template, learn
from pytest_llmperf.load.tokens import Chunk, credit_tokens

_TRIES = 20
"""Chunks of a stream among which a template is looked for: the first may be empty or not yet a whole character."""
_STEP_EVENTS = 64
"""Events that are taken in at a stretch, some 0.2 ms."""

_WIRE_OUTCOMES = {
    WireEnd.CLOSED: Outcome.TRUNCATED,
    WireEnd.RESET: Outcome.RESET,
    WireEnd.CONNECT_FAILED: Outcome.CONNECT_FAILED,
    WireEnd.TIMEOUT: Outcome.TIMEOUT,
    WireEnd.BAD_HTTP: Outcome.MALFORMED,
    WireEnd.CANCELLED: Outcome.CANCELLED,
}


def _no_times() -> Floats:
    return np.empty(0)


def _no_counts() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class RawResponse:
    """What was captured of one response. ``read_s`` and ``read_sizes`` have one entry a read of the body.

    ``status`` is 0 when no headers came; ``wire_error`` is the error's short class where HTTP alone tells it.
    """

    body: bytes
    read_s: Sequence[float]
    read_sizes: Sequence[int]
    end: WireEnd
    end_s: float
    status: int
    wire_error: str = ""


@dataclass(frozen=True)
class Response:
    """One response, understood. ``chunk_s`` and ``chunk_tokens`` have one entry a token-bearing chunk, each of 1 token or more.

    ``prompt_tokens`` and ``output_tokens`` are None where the server's usage says nothing.
    """

    outcome: Outcome
    error: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    chunk_s: Floats = field(default_factory=_no_times)
    chunk_tokens: Ints = field(default_factory=_no_counts)
    streamed: bool = True

    @property
    def first_token_s(self) -> float:
        """When the first token was seen to arrive; nan when none was, as in an answer that came in one piece."""
        return float(self.chunk_s[0]) if self.streamed and len(self.chunk_s) else np.nan

    @property
    def last_token_s(self) -> float:
        """When the last token arrived; nan without any."""
        return float(self.chunk_s[-1]) if len(self.chunk_s) else np.nan


@dataclass
class StreamState:
    """What the events of a stream have said so far."""

    chunks: list[Chunk] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finished: bool = False
    failure: tuple[Outcome, str] | None = None
    template: Template | None = None
    learns: bool = True
    """Whether a template is looked for: it pays for itself within a few events."""


def decode(raw: RawResponse, api: Literal["completions", "chat"], *, stream: bool) -> Response:
    """Understand one response."""
    steps = decoding(raw, api, stream=stream)
    while True:
        try:
            next(steps)
        except StopIteration as over:
            response: Response = over.value
            return response


def decoding(raw: RawResponse, api: Literal["completions", "chat"], *, stream: bool) -> Generator[None, None, Response]:
    """``decode``, for one who has other things to do meanwhile: yields after every few events, returns the response."""
    if raw.status and not 200 <= raw.status < 300:
        if raw.end in {WireEnd.TIMEOUT, WireEnd.CANCELLED}:
            return Response(_WIRE_OUTCOMES[raw.end], raw.wire_error, streamed=stream)
        return Response(Outcome.HTTP_ERROR, f"http {raw.status} {_error_type(raw.body)}".strip(), streamed=stream)
    if not stream:
        return _decode_whole(raw)
    if not raw.body:
        outcome, error = end_of(raw, finished=False)
        return Response(outcome, error)
    return (yield from _decode_stream(raw, api))


def take_events(seen: StreamState, body: bytes, start: int, *, is_chat: bool) -> Generator[None, None, None]:
    """Take in the events of a body from ``start`` to the one that ends the stream; yields after every few."""
    for number, event in enumerate(events(body, start), 1):
        if event.data == b"[DONE]":
            seen.finished = True
            break
        take(seen, event, is_chat)
        if seen.failure is not None:
            break
        if number % _STEP_EVENTS == 0:
            yield


def _decode_stream(raw: RawResponse, api: Literal["completions", "chat"]) -> Generator[None, None, Response]:
    seen = StreamState()
    yield from take_events(seen, raw.body, 0, is_chat=api == "chat")
    chunks, tokens = credit_tokens(seen.chunks, seen.output_tokens)
    # The read that holds an event's last byte is the first by whose end at least that many bytes had come.
    read_ends = np.cumsum(np.asarray(raw.read_sizes, dtype=np.int64))
    places = np.searchsorted(read_ends, [chunk.end for chunk in chunks], side="left")
    chunk_s = np.asarray(raw.read_s, dtype=np.float64)[places]
    outcome, error = seen.failure or end_of(raw, finished=seen.finished)
    if outcome is Outcome.OK and not chunks:
        outcome, error = Outcome.MALFORMED, "malformed no tokens"
    return Response(outcome, error, seen.prompt_tokens, seen.output_tokens, chunk_s, tokens)


def take(seen: StreamState, event: Event, is_chat: bool) -> None:
    """Take in one event that is not ``[DONE]``; what it cannot mean becomes ``seen.failure``."""
    text = seen.template.text_of(event.data) if seen.template is not None and not event.name else None
    # In a chat, whether an empty content is a token depends on what stands beside it: that is left to the parser.
    if text is not None and (text or not is_chat):
        seen.chunks.append(Chunk(event.end, not text, False))
        return
    try:
        document = json.loads(event.data)
    except ValueError:
        seen.failure = (Outcome.MALFORMED, "malformed json")
        return
    if not isinstance(document, dict):
        seen.failure = (Outcome.MALFORMED, "malformed event")
        return
    if document.get("error") or event.name == b"error":
        seen.failure = (Outcome.SERVER_ERROR_EVENT, f"server error event {_type_of(document)}".strip())
        return
    usage = document.get("usage")
    running: int | None = None
    if isinstance(usage, dict):
        running = _count(usage.get("completion_tokens"))
        prompt = _count(usage.get("prompt_tokens"))
        seen.output_tokens = seen.output_tokens if running is None else running
        seen.prompt_tokens = seen.prompt_tokens if prompt is None else prompt
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        return
    choice = choices[0]
    if not isinstance(choice, dict):
        seen.failure = (Outcome.MALFORMED, "malformed event")
        return
    finishing = choice.get("finish_reason") is not None
    seen.finished = seen.finished or finishing
    if is_chat:
        bears, empty = _chat_token(choice)
    else:
        bears, empty = "text" in choice, not choice.get("text")
    if bears:
        seen.chunks.append(Chunk(event.end, empty, finishing, running))
        plain = not (empty or finishing or usage or event.name)
        if plain and seen.learns and seen.template is None and len(seen.chunks) <= _TRIES:
            seen.template = learn(event.data, is_chat=is_chat)


def _chat_token(choice: dict[str, object]) -> tuple[bool, bool]:
    """Whether an event of a chat bears a token, and whether its text is empty.

    The first event names the role and bears none. A later one with empty content does: a character not yet whole.
    """
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False, True
    if any(delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")):
        return True, False
    return delta.get("content") == "" and "role" not in delta, True


def end_of(raw: RawResponse, *, finished: bool) -> tuple[Outcome, str]:
    """How a 2xx response ended. A stream that has said it is finished is whole, however its connection ended."""
    if finished and raw.end in {WireEnd.COMPLETE, WireEnd.CLOSED, WireEnd.RESET}:
        return Outcome.OK, ""
    if raw.end is not WireEnd.COMPLETE:
        # Closed before any header is no truncation: there was no answer.
        nothing_came = raw.end is WireEnd.CLOSED and raw.status == 0
        return (Outcome.RESET if nothing_came else _WIRE_OUTCOMES[raw.end]), raw.wire_error
    if raw.body and next(events(raw.body), None) is None and not raw.body.lstrip().startswith((b"data:", b":", b"event:")):
        return Outcome.MALFORMED, "malformed not an event stream"
    return Outcome.TRUNCATED, "truncated stream"


def _decode_whole(raw: RawResponse) -> Response:
    """A response that was asked for in one piece: its tokens came when its last byte did."""
    if raw.end is not WireEnd.COMPLETE:
        outcome, error = end_of(raw, finished=False)
        return Response(outcome, error, streamed=False)
    try:
        document = json.loads(raw.body)
    except ValueError:
        return Response(Outcome.MALFORMED, "malformed json", streamed=False)
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices:
        if isinstance(document, dict) and document.get("error"):
            return Response(Outcome.SERVER_ERROR_EVENT, f"server error {_type_of(document)}".strip(), streamed=False)
        return Response(Outcome.MALFORMED, "malformed no choices", streamed=False)
    choice, usage = choices[0], document.get("usage")
    if not isinstance(choice, dict):
        return Response(Outcome.MALFORMED, "malformed choice", streamed=False)
    usage = usage if isinstance(usage, dict) else {}
    output = _count(usage.get("completion_tokens"))
    # As in a stream: what has no place for a text bears no token, and a text without a count at least one.
    bears = "text" in choice or isinstance(choice.get("message"), dict)
    tokens = (1 if output is None else output) if bears else 0
    # A chunk's count has 16 bits: an answer longer than that is several chunks of the same instant.
    sizes = [min(65535, tokens - done) for done in range(0, tokens, 65535)]
    return Response(
        Outcome.OK if tokens else Outcome.MALFORMED,
        "" if tokens else "malformed no tokens",
        _count(usage.get("prompt_tokens")),
        output,
        np.full(len(sizes), raw.end_s),
        np.array(sizes, dtype=np.int64),
        streamed=False,
    )


def _error_type(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    return _type_of(document) if isinstance(document, dict) else ""


def _type_of(document: dict[str, object]) -> str:
    """The type an OpenAI-compatible error names, at most 60 characters on one line."""
    error = document.get("error")
    named = error.get("type") or error.get("code") if isinstance(error, dict) else document.get("type")
    return " ".join(str(named or "").split())[:60]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
