"""How many tokens each chunk of a stream bears: events are not tokens where a server sends several in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pytest_llmperf.load.records import Ints


class Chunk(NamedTuple):
    """One event that may bear tokens. ``end`` is its place in the body; ``running`` the usage so far, where it says so."""

    end: int
    empty: bool
    finishing: bool
    running: int | None = None


def credit_tokens(chunks: Sequence[Chunk], total: int | None) -> tuple[list[Chunk], Ints]:
    """The chunks that bear tokens and how many each bears (1 or more); the counts' sum is ``total`` where that is known.

    As many tokens as chunks: one each. Otherwise by the usage each chunk carries; where they carry none, spread evenly (the
    server groups tokens by a fixed interval or by speculation, and does not say where). With fewer tokens than chunks the
    surplus chunks are those that announce the end with no text, then those with no text, the latest first.
    """
    count = len(chunks)
    if count == 0 or total is None or total == count:
        return list(chunks), np.ones(count, dtype=np.int64)
    running = [chunk.running for chunk in chunks if chunk.running is not None]
    if len(running) == count and sorted(running) == running and running[-1] <= total:
        return _by_usage(chunks, np.array(running), total)
    if total > count:
        return list(chunks), np.diff(np.arange(count + 1, dtype=np.int64) * total // count)
    surplus = sorted(range(count), key=lambda i: (chunks[i].finishing and chunks[i].empty, chunks[i].empty, i))[total:]
    dropped = set(surplus)
    return [chunk for i, chunk in enumerate(chunks) if i not in dropped], np.ones(total, dtype=np.int64)


def _by_usage(chunks: Sequence[Chunk], running: Ints, total: int) -> tuple[list[Chunk], Ints]:
    tokens = np.diff(running, prepend=0)
    tokens[-1] += total - running[-1]
    return [chunk for chunk, bears in zip(chunks, tokens, strict=True) if bears], tokens[tokens > 0]
