"""The gaps between a response's tokens, gathered by request: gaps of one response go together, requests are what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.measure.latencies import inter_token_latencies, uncounted

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, Ints, RequestLog


@dataclass(frozen=True)
class Gaps:
    """Every gap of some requests, in seconds: those of row i are ``values[starts[i]:starts[i + 1]]``."""

    values: Floats
    starts: Ints
    """Shape (rows + 1,)."""

    @property
    def counts(self) -> Ints:
        """How many gaps each request has, shape (rows,)."""
        return np.diff(self.starts)

    def of_a_failure(self, answered: int) -> float:
        """How many gaps that never ended a failed request counts as: the mean number of the ``answered`` ones, at least one.

        So a tenth of all requests that failed are a tenth of all gaps, however many an answer has.
        """
        return max(1.0, len(self.values) / answered) if answered else 1.0

    def beyond(self, limit: float) -> Floats:
        """How many gaps of each request are longer than ``limit`` seconds, shape (rows,)."""
        # Counted by where they lie: of thirty million gaps the few that are longer, and not a running sum over all of them.
        places = np.flatnonzero(self.values > limit)
        beyond: Floats = np.diff(np.searchsorted(places, self.starts)).astype(np.float64)
        return beyond

    def means(self) -> Floats:
        """Each request's mean gap, shape (rows,); nan where it has none."""
        if not len(self.values):
            return np.full(len(self.starts) - 1, np.nan)
        reached = np.cumsum(self.values)
        until = np.where(self.starts > 0, reached[self.starts - 1], 0.0)
        means: Floats = np.diff(until) / np.where(self.counts > 0, self.counts, np.nan)
        return means

    def of_requests_with_any(self) -> Gaps:
        """The same gaps without the rows that have none."""
        counts = self.counts
        return Gaps(self.values, np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64))


def gaps_of(log: RequestLog, of: NDArray[np.bool_]) -> Gaps:
    """The gaps (as ITL takes them, by the later chunk's tokens) of all rows of a log; only rows ``of`` (shape (n,)) have any.

    An answer whose chunks all arrived at one instant has none: whoever held them back, their pace is not to be seen. Nor has
    one of a single token, whatever texts came beside it. Where nobody counted the tokens of one answer (``uncounted``), none has
    any: the others do not answer for it.
    """
    of = of & (log.last_token_s > log.first_token_s) & (log.output_tokens > 1) & ~uncounted(log, of).any()
    values, _ = inter_token_latencies(log, of)
    counts = np.where(of, np.maximum(np.diff(log.chunk_start) - 1, 0), 0)
    return Gaps(values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
