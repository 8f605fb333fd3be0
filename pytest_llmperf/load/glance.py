"""What a response says at a glance, while the load goes on: what ``decode`` will say of it, for a tenth of the work.

Between a stream's beginning and its end lie plain events, one a token. They are counted in a few operations over all their
bytes; only the beginning and the end are parsed. Where that does not settle what ``decode`` would say, it is decoded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import accumulate, islice

from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.decode import StreamState, decoding, take, take_events
from pytest_llmperf.load.exchange import NAN, Reads
from pytest_llmperf.load.http_api import first_text_s
from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.response import RawResponse, end_of
from pytest_llmperf.load.sse import events
from pytest_llmperf.load.template import Template, are_strings
from pytest_llmperf.load.tokens import is_count

_HEAD_EVENTS = 24
"""Events among which the first plain one is looked for."""
_SHORT_BYTES = 1000
"""A body below this is decoded: its beginning and its end are most of it."""
_STEP_BYTES = 2**16
"""Of plain events, what is looked through at a stretch: some 0.1 ms."""
_FIRST_READS = 64
"""Reads among which the first token is looked for, before the end."""


@dataclass(frozen=True, slots=True)
class Glance:
    """One ended response. Instants are of the monotonic clock, ``nan`` as in ``Response``."""

    first_token_s: float
    last_token_s: float
    output_tokens: int
    failed: bool


def glance(raw: RawResponse, workload: Workload) -> Generator[None, None, Glance]:
    """The same first and last token, count of tokens and failure as ``decode`` finds. Yields after every few events."""
    if workload.stream and workload.http is None and 200 <= raw.status < 300 and len(raw.body) >= _SHORT_BYTES:
        found = yield from from_both_ends(raw, is_chat=workload.api == "chat")
        if found is not None:
            return found
    response = yield from decoding(raw, workload)
    tokens = int(response.chunk_tokens.sum())
    return Glance(response.first_token_s, response.last_token_s, tokens, response.outcome is not Outcome.OK)


def first_token_s(reads: Reads, workload: Workload) -> float | None:
    """When the first token of a stream that goes on was read; None while none was; nan when only the end can tell.

    The end may show that an event with an empty text bore no token: where there turn out to be fewer tokens than events. An
    event with a text that comes first stays the first token.
    """
    if workload.http is not None:
        return first_text_s(reads, workload.http)
    seen = StreamState(learns=False)
    for event in events(reads.head(_FIRST_READS)):
        if event.data == b"[DONE]":
            return NAN
        take(seen, event, workload.api == "chat")
        if seen.failure is not None:
            return NAN
        if seen.chunks:
            chunk = seen.chunks[0]
            if chunk.empty:
                return NAN
            return _first_read_s(reads.sizes, reads.read_s, chunk.end)
    return None if len(reads) < _FIRST_READS else NAN


def _first_read_s(sizes: Iterable[int], read_s: Iterable[float], end: int) -> float:
    """When the byte before this place near the beginning was read: by the first read after which so many had come."""
    for have, instant_s in zip(accumulate(sizes), read_s, strict=False):
        if have >= end:
            return instant_s
    raise ValueError(f"the reads do not reach byte {end}")


def _last_read_s(raw: RawResponse, end: int) -> float:
    """The same of a place near the end, looked for from there."""
    have, number = len(raw.body), len(raw.read_sizes) - 1
    while have - raw.read_sizes[number] >= end:
        have -= raw.read_sizes[number]
        number -= 1
    return raw.read_s[number]


def from_both_ends(raw: RawResponse, *, is_chat: bool) -> Generator[None, None, Glance | None]:
    """A glance at a stream with plain events between its beginning and its end; None for any other."""
    seen = StreamState()
    plain_from = _take_head(seen, raw.body, is_chat=is_chat)
    if plain_from is None or seen.template is None:
        return None
    head = len(seen.chunks)
    place = raw.body.rfind(seen.template.after + b"\n\n", plain_from)
    plain_to = place + len(seen.template.after) + 2
    between = (yield from _plain_events(raw.body, plain_from, plain_to, seen.template, is_chat)) if place >= 0 else None
    if between is None:
        return None
    yield from take_events(seen, raw.body, plain_to, is_chat=is_chat)
    count = len(seen.chunks) + between
    total = seen.output_tokens
    if total is not None and (total < count or not is_count(seen.chunks, total)):
        # Some events bear no token: which ones, and whether the first or the last is among them, takes all of them to say.
        return None
    last = seen.chunks[-1].end if len(seen.chunks) > head else plain_to
    first_s = _first_read_s(raw.read_sizes, raw.read_s, seen.chunks[0].end)
    last_s = _last_read_s(raw, last)
    outcome, _ = seen.failure or end_of(raw, finished=seen.finished)
    return Glance(first_s, last_s, count if total is None else total, outcome is not Outcome.OK)


def _take_head(seen: StreamState, body: bytes, *, is_chat: bool) -> int | None:
    """Take in the events until one is the template of plain ones; where that ends, None when there is none."""
    for event in islice(events(body), _HEAD_EVENTS):
        if event.data == b"[DONE]":
            return None
        take(seen, event, is_chat)
        if seen.failure is not None:
            return None
        if seen.template is not None:
            return event.end
    return None


def _plain_events(body: bytes, start: int, stop: int, template: Template, is_chat: bool) -> Generator[None, None, int | None]:
    """How many events lie in ``body[start:stop]`` (which ends with a blank line); None when one of them is not plain."""
    count = 0
    while start < stop:
        end = body.find(b"\n\n", min(start + _STEP_BYTES, stop - 2), stop) + 2
        found = _plain_in(body[start : end - 2], template, is_chat)
        if found is None:
            return None
        count += found
        start = end
        yield
    return count


def _plain_in(piece: bytes, template: Template, is_chat: bool) -> int | None:
    before, after = template.before, template.after
    datas = piece.removeprefix(b"data: ").split(b"\n\ndata: ")
    # What stands between two texts, as often as there are gaps, and the ends: then every event begins and ends as it must.
    gap = after + b"\n\ndata: " + before
    if not piece.startswith(b"data: " + before) or not piece.endswith(after) or piece.count(gap) != len(datas) - 1:
        return None
    # Gaps that were counted do not overlap: only the first and the last event could be shorter than the template.
    if min(len(datas[0]), len(datas[-1])) < template.shortest:
        return None
    first, last = len(before), -len(after)
    texts = [data[first:last] for data in datas]
    # In a chat an event with an empty content is the parser's to judge.
    return len(texts) if are_strings(texts) and not (is_chat and b"" in texts) else None
