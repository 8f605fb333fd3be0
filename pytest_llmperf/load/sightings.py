"""What the workers of a load have told of their requests, put together for whoever watches it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.messages import ROW, Seen
from pytest_llmperf.load.records import Outcome, RequestLog
from pytest_llmperf.load.watch import Sighting


class WorkerView:
    """One worker's requests as far as it has told of them."""

    def __init__(self) -> None:
        self.now_s = float("-inf")
        """Until when everything is known, in seconds since the run's start; +inf when the worker is done."""
        self._rows: NDArray[np.void] = np.empty(1024, dtype=ROW)
        self._count = 0

    @property
    def rows(self) -> NDArray[np.void]:
        """One row a request, in the order they were begun, of shape (n,) and ``messages.ROW``."""
        return self._rows[: self._count]

    def take(self, seen: Seen) -> None:
        """Take in what a worker tells."""
        self.now_s = seen.now_s
        if not len(seen.row):
            return
        count = max(self._count, int(seen.row.max()) + 1)
        if count > len(self._rows):
            grown = np.empty(2 * count, dtype=ROW)
            grown[: self._count] = self.rows
            self._rows = grown
        self._count = count
        self._rows[seen.row] = seen.state

    def complete(self, log: RequestLog) -> None:
        """Take in everything at once: the worker's log."""
        self.now_s = float("inf")
        self._rows = np.empty(len(log), dtype=ROW)
        self._count = len(log)
        for name in ROW.names or ():
            self._rows[name] = log.outcome != Outcome.OK if name == "failed" else getattr(log, name)


def sighting_of(views: Sequence[WorkerView], now_s: float) -> Sighting:
    """All workers' requests until ``now_s``, in the order of the log: what some already know of later is left out."""
    rows = np.concatenate([view.rows for view in views])
    rows = rows[rows["scheduled_s"] <= now_s]
    rows = rows[np.lexsort((rows["turn"], rows["session"], rows["scheduled_s"]))]
    ended = rows["end_s"] <= now_s
    return Sighting(
        now_s=now_s,
        scheduled_s=rows["scheduled_s"].copy(),
        sent_s=np.where(rows["sent_s"] <= now_s, rows["sent_s"], np.nan),
        first_token_s=np.where(rows["first_token_s"] <= now_s, rows["first_token_s"], np.nan),
        last_token_s=np.where(ended, rows["last_token_s"], np.nan),
        end_s=np.where(ended, rows["end_s"], np.nan),
        output_tokens=np.where(ended, rows["output_tokens"], 0),
        failed=rows["failed"] & ended,
        warmup=rows["warmup"].copy(),
    )
