"""How many tokens each chunk of a stream bears: events are not tokens where a server sends several in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pytest_llmperf.load.records import Ints, TokenFit


class Chunk(NamedTuple):
    """One event that may bear tokens. ``end`` is its place in the body; ``running`` the usage so far, where it says so."""

    end: int
    empty: bool
    finishing: bool
    running: int | None = None


class Credit(NamedTuple):
    """The chunks that are kept and how many tokens each bears: their sum is ``total`` where that is known, else one each."""

    chunks: list[Chunk]
    tokens: Ints
    total: int | None
    fit: TokenFit = TokenFit.AS_SAID


def credit_tokens(chunks: Sequence[Chunk], total: int | None) -> Credit:
    """Lay the tokens that the server counted on the chunks; the first and the last text are kept, whatever it counted.

    As many tokens as chunks: one each. Otherwise by the usage each chunk carries; where they carry none, spread evenly (the
    server groups tokens by a fixed interval or by speculation, and does not say where). With fewer tokens than chunks the
    surplus chunks are those that announce the end with no text, then those with no text, the latest first; with fewer tokens
    than texts they lie evenly from the first text to the last. A chunk of 0 tokens is one of these two, and else not kept.
    """
    if total is not None and not is_count(chunks, total):
        total = None
    count = len(chunks)
    if count == 0 or total is None or total == count:
        return Credit(list(chunks), np.ones(count, dtype=np.int64), total)
    fit = TokenFit.FEWER if total < sum(not chunk.empty for chunk in chunks) else TokenFit.AS_SAID
    running = [chunk.running for chunk in chunks if chunk.running is not None]
    if len(running) == count and sorted(running) == running and running[0] < running[-1] <= total:
        return Credit(*_by_usage(chunks, np.array(running), total), total, fit)
    if fit is TokenFit.FEWER:
        return Credit(*_on_texts([chunk for chunk in chunks if not chunk.empty], total), total, fit)
    kept = _without_surplus(chunks, count - total)
    fit = TokenFit.MORE if total > len(kept) else fit
    return Credit(kept, np.diff(np.arange(len(kept) + 1, dtype=np.int64) * total // max(1, len(kept))), total, fit)


def is_count(chunks: Sequence[Chunk], total: int) -> bool:
    """Whether ``total`` can be a count of these chunks' tokens: not a 0 beside texts, nor what text after text repeats.

    A number that never grows from one text to the next is not how many there are so far. It may be what each event bears.
    """
    running = [chunk.running for chunk in chunks if chunk.running is not None and not chunk.empty]
    stands_still = len(running) > 1 and running[-1] <= running[0] and total == running[-1]
    return not stands_still and (total > 0 or all(chunk.empty for chunk in chunks))


def _by_usage(chunks: Sequence[Chunk], running: Ints, total: int) -> tuple[list[Chunk], Ints]:
    tokens = np.diff(running, prepend=0)
    tokens[-1] += total - running[-1]
    kept = tokens > 0
    # A text of no token is dropped between others, but where it is the first or the last, its arrival is the answer's.
    texts = [place for place, chunk in enumerate(chunks) if not chunk.empty]
    kept[texts[:1] + texts[-1:]] = True
    return [chunk for chunk, is_kept in zip(chunks, kept, strict=True) if is_kept], tokens[kept]


def _on_texts(texts: Sequence[Chunk], total: int) -> tuple[list[Chunk], Ints]:
    """Fewer tokens than texts: one each on as many of them, and where there is only one, the last text beside it."""
    places = np.linspace(0, len(texts) - 1, max(2, total)).round().astype(np.int64)
    tokens = np.ones(len(places), dtype=np.int64)
    tokens[total:] = 0
    return [texts[place] for place in places], tokens


def _without_surplus(chunks: Sequence[Chunk], surplus: int) -> list[Chunk]:
    empties = sorted((i for i, chunk in enumerate(chunks) if chunk.empty), key=lambda i: (chunks[i].finishing, i), reverse=True)
    dropped = set(empties[: max(0, surplus)])
    return [chunk for i, chunk in enumerate(chunks) if i not in dropped]
