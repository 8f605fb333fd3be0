"""A run's requests as their file has them -> the distribution of each latency, as its verdict counts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_llmperf.load.records import Floats, Ints, Outcome
from pytest_llmperf.measure.latencies import comparable_latencies, stand_ins

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument

METRICS_DRAWN = ("ttft", "tpot", "e2e")
COLUMNS = ("scheduled_s", "sent_s", "first_token_s", "last_token_s", "end_s", "output_tokens", "outcome", "warmup")
"""What is read of a requests file: of a million requests 60 MB, and never their chunks."""
MOST_STEPS = 1000
"""Steps of a drawn distribution: one is a thousandth of the height, less than a pixel."""


@dataclass(frozen=True)
class Ecdf:
    """The share of requests that were no slower than ``x_s`` (ascending). A failed request never is: the rest is ``failed``."""

    x_s: Floats
    share: Floats
    answered: int
    failed: int

    @property
    def top(self) -> float:
        """The share of requests that ended well: the highest that the curve comes to."""
        return self.answered / (self.answered + self.failed)


@dataclass(frozen=True)
class _Times:
    """The columns that latencies are computed from."""

    scheduled_s: Floats
    sent_s: Floats
    first_token_s: Floats
    last_token_s: Floats
    end_s: Floats
    output_tokens: Ints


def ecdf(values_s: Floats, failed: int, most: int = MOST_STEPS) -> Ecdf | None:
    """The distribution of ``values_s`` (finite) and ``failed`` more that never ended; None where there is neither.

    Of more values than ``most`` so many are kept, evenly spread over the ranks, the least and the greatest among them: nowhere is
    the curve off by more than 1 / (most - 1).
    """
    answered = len(values_s)
    total = answered + failed
    if total == 0:
        return None
    ordered = np.sort(values_s)
    ranks = np.arange(answered)
    if answered > most:
        ranks = np.round(np.linspace(0, answered - 1, most)).astype(np.int64)
    return Ecdf(ordered[ranks], (ranks + 1) / total, answered, failed)


def latency_ecdfs(columns: Mapping[str, np.ndarray[Any, Any]], document: RunDocument) -> dict[str, Ecdf]:
    """The distribution of each latency over the requests that the run's metrics count, by metric; without those it has not."""
    counted = counted_requests(columns, document)
    outcome = columns["outcome"][counted]
    ok = outcome == Outcome.OK.name
    ended = ok | (outcome != Outcome.CANCELLED.name)
    times = _Times(**{name: columns[name][counted][ended] for name in COLUMNS[:6]})
    ok = ok[ended]
    found = {}
    for name, values in comparable_latencies(times, ok).items():
        has = ok & np.isfinite(values)
        if name not in METRICS_DRAWN or (ok.any() and not has.any()):
            continue
        failed = int(np.count_nonzero(stand_ins(~ok, ok, has)))
        if (curve := ecdf(values[has], failed)) is not None:
            found[name] = curve
    return found


def counted_requests(columns: Mapping[str, np.ndarray[Any, Any]], document: RunDocument) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which requests were due in the window, that of a lengthened warm-up taken off."""
    due_s = columns["scheduled_s"]
    counted: np.ndarray[Any, np.dtype[np.bool_]] = (
        ~columns["warmup"] & (due_s >= document.counted_from_s) & (due_s <= document.timing.window_end_s)
    )
    return counted
