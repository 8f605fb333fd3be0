"""Bytes and the instants at which they were read -> tokens. Pure: no clock, no socket, nothing of how reads were cut.

The same bytes give the same tokens however they were split into reads; an event's instant is that of the read which completed it.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.exchange import WireEnd
from pytest_llmperf.load.http_api import decode_http
from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.response import RawResponse, Response, count_in, end_of, refused, type_of
from pytest_llmperf.load.sse import Event, events
from pytest_llmperf.load.template import Template, learn
from pytest_llmperf.load.tokens import Chunk, credit_tokens

_TRIES = 20
"""Chunks of a stream among which a template is looked for: the first may be empty or not yet a whole character."""
_STEP_EVENTS = 64
"""Events that are taken in at a stretch, some 0.2 ms."""
_SAYS = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")
"""Where a chat's answer says something."""


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
    secrets: tuple[str, ...] = ()


def decode(raw: RawResponse, workload: Workload) -> Response:
    """Understand one response to what the workload asks."""
    steps = decoding(raw, workload)
    while True:
        try:
            next(steps)
        except StopIteration as over:
            response: Response = over.value
            return response


def decoding(raw: RawResponse, workload: Workload) -> Generator[None, None, Response]:
    """``decode``, for one who has other things to do meanwhile: yields after every few events, returns the response."""
    if (response := refused(raw, stream=workload.stream)) is not None:
        return response
    if workload.http is not None:
        return decode_http(raw, workload.http, stream=workload.stream)
    if not workload.stream:
        return _decode_whole(raw)
    if not raw.body:
        outcome, error = end_of(raw, finished=False)
        return Response(outcome, error)
    return (yield from _decode_stream(raw, is_chat=workload.api == "chat"))


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


def _decode_stream(raw: RawResponse, *, is_chat: bool) -> Generator[None, None, Response]:
    seen = StreamState(secrets=raw.secrets)
    yield from take_events(seen, raw.body, 0, is_chat=is_chat)
    credit = credit_tokens(seen.chunks, seen.output_tokens)
    # The read that holds an event's last byte is the first by whose end at least that many bytes had come.
    read_ends = np.cumsum(np.asarray(raw.read_sizes, dtype=np.int64))
    places = np.searchsorted(read_ends, [chunk.end for chunk in credit.chunks], side="left")
    chunk_s = np.asarray(raw.read_s, dtype=np.float64)[places]
    outcome, error = seen.failure or end_of(raw, finished=seen.finished)
    if outcome is Outcome.OK and not credit.chunks:
        outcome, error = Outcome.MALFORMED, "malformed no tokens"
    return Response(outcome, error, seen.prompt_tokens, credit.total, chunk_s, credit.tokens, token_fit=credit.fit)


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
        seen.failure = (Outcome.SERVER_ERROR_EVENT, f"server error event {type_of(document, seen.secrets)}".strip())
        return
    usage = document.get("usage")
    running: int | None = None
    if isinstance(usage, dict):
        running = count_in(usage.get("completion_tokens"))
        prompt = count_in(usage.get("prompt_tokens"))
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
    if any(delta.get(key) for key in _SAYS):
        return True, False
    return delta.get("content") == "" and "role" not in delta, True


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
            return Response(Outcome.SERVER_ERROR_EVENT, f"server error {type_of(document, raw.secrets)}".strip(), streamed=False)
        return Response(Outcome.MALFORMED, "malformed no choices", streamed=False)
    choice, usage = choices[0], document.get("usage")
    if not isinstance(choice, dict):
        return Response(Outcome.MALFORMED, "malformed choice", streamed=False)
    usage = usage if isinstance(usage, dict) else {}
    output = count_in(usage.get("completion_tokens"))
    # As in a stream: what has no place for a text bears no token, and a text without a count at least one.
    message = choice.get("message")
    bears = "text" in choice or isinstance(message, dict)
    says = choice.get("text") or (isinstance(message, dict) and any(message.get(key) for key in _SAYS))
    # A count of 0 beside a text is none.
    output = None if says and output == 0 else output
    tokens = (1 if output is None else output) if bears else 0
    # A chunk's count has 16 bits: an answer longer than that is several chunks of the same instant.
    sizes = [min(65535, tokens - done) for done in range(0, tokens, 65535)]
    return Response(
        Outcome.OK if tokens else Outcome.MALFORMED,
        "" if tokens else "malformed no tokens",
        count_in(usage.get("prompt_tokens")),
        output,
        np.full(len(sizes), raw.end_s),
        np.array(sizes, dtype=np.int64),
        streamed=False,
    )
