"""Times in a log -> latencies, one a request (or one a gap), in seconds. Vectorised; nan where there is no such latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.metrics import ROUNDING

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, Ints, RequestLog

PER_REQUEST = ("ttft", "tpot", "e2e", "service_ttft", "service_e2e")
"""The latencies that have one value a request."""

PIECE = 1 << 20
"""How many entries of a column a token long are looked at together: what is computed of all at once is several times the log."""


class Timed(Protocol):
    """What latencies are computed from: a finished load's ``RequestLog``, or a ``Sighting`` of one that runs."""

    @property
    def scheduled_s(self) -> Floats: ...
    @property
    def sent_s(self) -> Floats: ...
    @property
    def first_token_s(self) -> Floats: ...
    @property
    def last_token_s(self) -> Floats: ...
    @property
    def end_s(self) -> Floats: ...
    @property
    def output_tokens(self) -> Ints: ...


def answered_s(log: Timed) -> Floats:
    """When the answer was complete, shape (n,): the last token, or the end of the body where no token was seen arriving."""
    return np.where(np.isnan(log.last_token_s), log.end_s, log.last_token_s)


def request_latencies(log: Timed) -> dict[str, Floats]:
    """The metrics of ``PER_REQUEST``, each of shape (n,), whatever the request's outcome.

    TTFT is nan without a token seen arriving (not streamed, or no token at all), TPOT below two tokens and where all of them
    arrived at one instant: whoever held them back, their pace is not to be seen.
    """
    answered = answered_s(log)
    has_pace = (log.output_tokens >= 2) & (log.last_token_s > log.first_token_s)
    later_tokens = np.where(has_pace, log.output_tokens - 1, 1)
    return {
        "ttft": log.first_token_s - log.scheduled_s,
        "tpot": np.where(has_pace, (log.last_token_s - log.first_token_s) / later_tokens, np.nan),
        "e2e": answered - log.scheduled_s,
        "service_ttft": log.first_token_s - log.sent_s,
        "service_e2e": answered - log.sent_s,
    }


def uncounted(log: Timed, answered: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the requests ``answered`` (shape (n,)) streamed texts whose tokens nobody counted."""
    found: NDArray[np.bool_] = answered & (log.output_tokens == 0) & ~np.isnan(log.first_token_s)
    return found


def comparable_latencies(log: Timed, answered: NDArray[np.bool_]) -> dict[str, Floats]:
    """``request_latencies`` to be judged by the requests ``answered``: without TPOT where one of them is ``uncounted``.

    Those whose tokens are counted do not answer for it: it may be the slow ones that nobody counts.
    """
    latencies = request_latencies(log)
    if uncounted(log, answered).any():
        latencies["tpot"] = np.full_like(latencies["tpot"], np.nan)
    return latencies


def stand_ins(failed: NDArray[np.bool_], answered: NDArray[np.bool_], has: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which failed requests count as having a latency that never ended; all columns of shape (n,), in order of arrival.

    As large a share of them as ``has`` it of the requests ``answered`` before, evenly spread and the first among them: where one
    answer in ten has a TPOT, one failure in ten is one. Else a few failures would outweigh the few values. What comes later
    changes nothing, so that a look at a running load stays true.
    """
    before: Ints = np.cumsum(answered) - answered
    having: Ints = np.cumsum(answered & has) - (answered & has)
    share = np.where(before > 0, having / np.maximum(before, 1), 1.0)
    # Less a little, since ten times 0.1 may be more than 1 in binary.
    owed = np.ceil(np.cumsum(np.where(failed, share, 0.0)) - ROUNDING)
    found: NDArray[np.bool_] = failed & (np.diff(owed, prepend=0.0) > 0)
    return found


def inter_token_latencies(log: RequestLog, of: NDArray[np.bool_]) -> tuple[Floats, int]:
    """The gaps between the chunks of the requests that ``of`` (shape (n,)) selects, and how many requests they come from.

    A gap is divided by the tokens of its later chunk: three tokens that arrive together after 30 ms came at 10 ms a token. The
    requests selected must be of counted tokens: a chunk of 0 is a text of which nobody knows how many it has.
    """
    chunks = np.diff(log.chunk_start)
    if len(log.chunk_s) < 2:
        return np.empty(0), 0
    within = np.repeat(of, chunks)[1:]
    # Gap j lies before chunk j + 1: the one before a request's first chunk belongs to nobody.
    firsts = log.chunk_start[:-1]
    within[firsts[(firsts > 0) & (firsts < len(log.chunk_s))] - 1] = False
    gaps, filled = np.empty(np.count_nonzero(within)), 0
    for start in range(0, len(within), PIECE):
        mine = within[start : start + PIECE]
        stop = start + len(mine)
        piece = (np.diff(log.chunk_s[start : stop + 1]) / np.maximum(log.chunk_tokens[start + 1 : stop + 1], 1))[mine]
        gaps[filled : filled + len(piece)] = piece
        filled += len(piece)
    return gaps, int(np.count_nonzero(of & (chunks >= 2)))
