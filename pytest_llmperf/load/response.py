"""One response: what was captured of it, what it turned out to be, and what every API's responses have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_llmperf.deploy.headers import without_secrets
from pytest_llmperf.load.exchange import WireEnd
from pytest_llmperf.load.records import Floats, Ints, Outcome, TokenFit
from pytest_llmperf.load.sse import events

WIRE_OUTCOMES = {
    WireEnd.CLOSED: Outcome.TRUNCATED,
    WireEnd.RESET: Outcome.RESET,
    WireEnd.CONNECT_FAILED: Outcome.CONNECT_FAILED,
    WireEnd.TIMEOUT: Outcome.TIMEOUT,
    WireEnd.BAD_HTTP: Outcome.MALFORMED,
    WireEnd.CANCELLED: Outcome.CANCELLED,
}
"""What an end of the wire comes to, where HTTP alone tells it."""


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
    secrets: tuple[str, ...] = ()
    """What the server was sent and may repeat; nothing that quotes it holds them."""


@dataclass(frozen=True)
class Response:
    """One response, understood. ``chunk_s`` and ``chunk_tokens`` have one entry a token-bearing chunk, each of 1 token or more.

    The first and the last text are among the chunks even where the server counts no token to them (0). ``prompt_tokens`` and
    ``output_tokens`` are None where the server's usage says nothing. Of a service that counts no tokens the chunks are those with
    a text, of 0 tokens each, and ``prompt_tokens`` is 0: unknown, where None would be as planned.
    """

    outcome: Outcome
    error: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    chunk_s: Floats = field(default_factory=_no_times)
    chunk_tokens: Ints = field(default_factory=_no_counts)
    streamed: bool = True
    token_fit: TokenFit = TokenFit.AS_SAID

    @property
    def first_token_s(self) -> float:
        """When the first token was seen to arrive; nan when none was, as in an answer that came in one piece."""
        return float(self.chunk_s[0]) if self.streamed and len(self.chunk_s) else np.nan

    @property
    def last_token_s(self) -> float:
        """When the last token or text arrived; nan without any."""
        return float(self.chunk_s[-1]) if len(self.chunk_s) else np.nan


def refused(raw: RawResponse, *, stream: bool) -> Response | None:
    """What an answer with another status than 2xx comes to; None for any other."""
    if not raw.status or 200 <= raw.status < 300:
        return None
    if raw.end in {WireEnd.TIMEOUT, WireEnd.CANCELLED}:
        return Response(WIRE_OUTCOMES[raw.end], raw.wire_error, streamed=stream)
    return Response(Outcome.HTTP_ERROR, f"http {raw.status} {_error_type(raw)}".strip(), streamed=stream)


def end_of(raw: RawResponse, *, finished: bool) -> tuple[Outcome, str]:
    """How a 2xx response ended. A stream that has said it is finished is whole, however its connection ended."""
    if finished and raw.end in {WireEnd.COMPLETE, WireEnd.CLOSED, WireEnd.RESET}:
        return Outcome.OK, ""
    if raw.end is not WireEnd.COMPLETE:
        # Closed before any header is no truncation: there was no answer.
        nothing_came = raw.end is WireEnd.CLOSED and raw.status == 0
        return (Outcome.RESET if nothing_came else WIRE_OUTCOMES[raw.end]), raw.wire_error
    if raw.body and next(events(raw.body), None) is None and not raw.body.lstrip().startswith((b"data:", b":", b"event:")):
        return Outcome.MALFORMED, "malformed not an event stream"
    return Outcome.TRUNCATED, "truncated stream"


def _error_type(raw: RawResponse) -> str:
    try:
        document = json.loads(raw.body)
    except ValueError:
        return ""
    return type_of(document, raw.secrets) if isinstance(document, dict) else ""


def type_of(document: dict[str, object], secrets: tuple[str, ...]) -> str:
    """The type an OpenAI-compatible error names, at most 60 characters on one line, without the ``secrets``."""
    error = document.get("error")
    named = error.get("type") or error.get("code") if isinstance(error, dict) else document.get("type")
    return without_secrets(str(named or ""), secrets)[:60]


def count_in(value: object) -> int | None:
    """A count of tokens as JSON holds it; None for whatever else stands in its place."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
