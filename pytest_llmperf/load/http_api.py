"""A service that is not OpenAI-compatible: a template becomes requests, and its answers become what every answer is.

Nothing is invented: tokens that the service does not count are unknown (0 in ``Response``), not estimated from the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np

from pytest_llmperf.experiment.http_template import RAW, HttpTemplate, pointer_keys, split_placeholders
from pytest_llmperf.load.exchange import NAN, Reads, WireEnd
from pytest_llmperf.load.records import Floats, Ints, Outcome
from pytest_llmperf.load.response import RawResponse, Response, count_in, end_of, type_of
from pytest_llmperf.load.sse import Event, events
from pytest_llmperf.load.tokens import Chunk, credit_tokens

_FIRST_READS = 64
"""Reads among which the first text is looked for, before the end."""
_NUMBER = '"{output_tokens}"'


class Form:
    """A text with places to fill, as bytes: everything else is written once."""

    def __init__(self, text: str) -> None:
        self._pieces = [(literal.encode(), name) for literal, name in split_placeholders(text)]

    def filled(self, value_of: Callable[[str], bytes]) -> bytes:
        """The text with each placeholder's value in its place."""
        return b"".join(literal + (b"" if name is None else value_of(name)) for literal, name in self._pieces)


def body_form(body: object) -> Form:
    """The JSON of a template's body. Placeholders stand within strings; the string of a number alone loses its quotes."""
    return Form("" if body is None else json.dumps(body, ensure_ascii=False).replace(_NUMBER, _NUMBER[1:-1]))


def in_string(text: str) -> bytes:
    """A text as it is written between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def in_path(text: str) -> bytes:
    """A text as one segment or value of a URL."""
    return quote(text, safe="").encode()


def decode_http(raw: RawResponse, template: HttpTemplate, *, stream: bool) -> Response:
    """Understand one answer of a 2xx status."""
    if raw.end is not WireEnd.COMPLETE and not (stream and raw.body):
        outcome, error = end_of(raw, finished=False)
        return Response(outcome, error, streamed=stream)
    if not stream:
        return _decode_whole(raw, template)
    return _decode_raw_stream(raw) if template.text == RAW else _decode_events(raw, template)


def first_text_s(reads: Reads, template: HttpTemplate) -> float | None:
    """When the first text of a stream that goes on was read; None while none was; nan when only the end can tell."""
    if template.text == RAW:
        return next((at for at, size in zip(reads.read_s, reads.sizes, strict=True) if size), None)
    seen = _Seen()
    for event in events(reads.head(_FIRST_READS)):
        seen.take(event, template)
        if seen.failure is not None or seen.finished:
            return NAN
        if seen.chunks:
            return reads.read_s[int(np.searchsorted(np.cumsum(reads.sizes[:_FIRST_READS]), seen.chunks[0].end))]
    return None if len(reads) < _FIRST_READS else NAN


@dataclass
class _Seen:
    """What the events of a stream have said so far."""

    chunks: list[Chunk] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finished: bool = False
    failure: tuple[Outcome, str] | None = None
    secrets: tuple[str, ...] = ()

    def take(self, event: Event, template: HttpTemplate) -> None:
        """Take in one event; what it cannot mean becomes ``failure``."""
        if event.data == b"[DONE]":
            self.finished = True
            return
        try:
            document = json.loads(event.data)
        except ValueError:
            self.failure = (Outcome.MALFORMED, "malformed json")
            return
        text = value_at(document, template.text)
        if event.name == b"error" or _says_error(document, text):
            self.failure = (Outcome.SERVER_ERROR_EVENT, f"server error event {_type_in(document, self.secrets)}".strip())
            return
        prompt, output = (_count_at(document, pointer) for pointer in (template.prompt_tokens, template.output_tokens))
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt
        self.output_tokens = self.output_tokens if output is None else output
        if isinstance(text, str) and text:
            self.chunks.append(Chunk(event.end, empty=False, finishing=False, running=output))


def _decode_events(raw: RawResponse, template: HttpTemplate) -> Response:
    seen = _Seen(secrets=raw.secrets)
    for event in events(raw.body):
        seen.take(event, template)
        if seen.finished or seen.failure is not None:
            break
    credit = credit_tokens(seen.chunks, seen.output_tokens)
    tokens = _unknown(len(credit.chunks)) if credit.total is None else credit.tokens
    places = np.searchsorted(np.cumsum(np.asarray(raw.read_sizes, dtype=np.int64)), [chunk.end for chunk in credit.chunks])
    outcome, error = seen.failure or _end_of_events(raw, seen)
    times = np.asarray(raw.read_s, dtype=np.float64)[places]
    return Response(outcome, error, seen.prompt_tokens or 0, credit.total, times, tokens, token_fit=credit.fit)


def _end_of_events(raw: RawResponse, seen: _Seen) -> tuple[Outcome, str]:
    # No word ends such a stream: it is whole when HTTP says so. What is no stream at all is told by the common rules.
    if not seen.finished and (raw.end is not WireEnd.COMPLETE or next(events(raw.body), None) is None):
        return end_of(raw, finished=False)
    if not seen.chunks:
        return Outcome.MALFORMED, "malformed no text"
    return (Outcome.OK, "") if seen.finished or raw.end is WireEnd.COMPLETE else end_of(raw, finished=False)


def _decode_raw_stream(raw: RawResponse) -> Response:
    times = np.array([at for at, size in zip(raw.read_s, raw.read_sizes, strict=True) if size], dtype=np.float64)
    if raw.end is not WireEnd.COMPLETE:
        outcome, error = end_of(raw, finished=False)
    else:
        outcome, error = (Outcome.OK, "") if len(times) else (Outcome.MALFORMED, "malformed no text")
    return Response(outcome, error, 0, None, times, _unknown(len(times)))


def _decode_whole(raw: RawResponse, template: HttpTemplate) -> Response:
    if template.text == RAW:
        return _whole(raw, None, None) if raw.body else Response(Outcome.MALFORMED, "malformed no text", streamed=False)
    try:
        document = json.loads(raw.body)
    except ValueError:
        return Response(Outcome.MALFORMED, "malformed json", streamed=False)
    text = value_at(document, template.text)
    if _says_error(document, text):
        return Response(Outcome.SERVER_ERROR_EVENT, f"server error {_type_in(document, raw.secrets)}".strip(), streamed=False)
    if not isinstance(text, str) or not text:
        return Response(Outcome.MALFORMED, "malformed no text", streamed=False)
    # There is a text, so a count of 0 is none.
    return _whole(raw, _count_at(document, template.prompt_tokens), _count_at(document, template.output_tokens) or None)


def _whole(raw: RawResponse, prompt: int | None, output: int | None) -> Response:
    """An answer that came in one piece: its tokens came when its last byte did."""
    # A chunk's count has 16 bits: an answer longer than that is several chunks of the same instant.
    sizes = [min(65535, output - done) for done in range(0, output, 65535)] if output else [0]
    tokens: Ints = np.array(sizes, dtype=np.int64)
    times: Floats = np.full(len(sizes), raw.end_s)
    return Response(Outcome.OK, "", prompt or 0, output, times, tokens, streamed=False)


def _unknown(chunks: int) -> Ints:
    return np.zeros(chunks, dtype=np.int64)


def value_at(document: object, pointer: str) -> object:
    """What a JSON pointer leads to; None where it leads nowhere."""
    for key in pointer_keys(pointer):
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document


def _count_at(document: object, pointer: str | None) -> int | None:
    return None if pointer is None else count_in(value_at(document, pointer))


def _says_error(document: object, text: object) -> bool:
    return not text and isinstance(document, dict) and bool(document.get("error"))


def _type_in(document: object, secrets: tuple[str, ...]) -> str:
    return type_of(document, secrets) if isinstance(document, dict) else ""
