"""A finished load, judged: one that ran to its end by one look, one that its verdict ended as whoever ended it saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.judge.sequential import ALPHA, GROSS_ERGODIC, Ruling, evidence_of, first_gross, rule
from pytest_llmperf.judge.verdict import Outcome

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.measure.observations import Series

LOOKS = 40
"""Looks at the evidence a load: each costs little, and more of them would hardly end it sooner."""
LOOK_EVERY_S = 5.0
"""The least time between two looks."""
_REPORTED_WITHIN_S = 5.0


def look_sizes(scheduled_s: Floats) -> list[int]:
    """After how many requests to look, of those that arrived at ``scheduled_s`` (n,): every n / 40 or 5 s, whichever is more.

    The last is n; none of no requests.
    """
    n, size, sizes = len(scheduled_s), 0, list[int]()
    step = -(-n // LOOKS)
    while size < n:
        last_s = float(scheduled_s[max(0, size - 1)])
        size = min(n, max(size + step, int(np.searchsorted(scheduled_s, last_s + LOOK_EVERY_S, side="right"))))
        sizes.append(size)
    return sizes


def sizes_before(scheduled_s: Floats, known: int) -> list[int]:
    """The numbers of requests known in the last seconds before ``known`` were: one of them is what a load was ended at.

    A look at a running load sees what had ended a moment ago. A block more or less moves an e-value, so the look that ended
    the load is found among these rather than guessed: 40 at most, the closer together the later.
    """
    if known == 0:
        return []
    since = int(np.searchsorted(scheduled_s, scheduled_s[known - 1] - _REPORTED_WITHIN_S))
    if known - since <= LOOKS:
        return list(range(since + 1, known + 1))
    back = np.geomspace(1, known - since, LOOKS).astype(np.int64) - 1
    return sorted({known - int(rows) for rows in back})


def gross_ruling(series: Series, p0: float) -> Ruling | None:
    """FAIL by the rule that needs no look, where the series fulfils it anywhere."""
    n = first_gross(series.exceeds, p0)
    if n is None:
        return None
    first = series.first(n)
    return Ruling(Outcome.FAIL, GROSS_ERGODIC, evidence_of(first.exceeds, first.values, first.in_flight, p0))


def ruling_of(series: Series, p0: float, *, alpha_fail: float = ALPHA) -> Ruling:
    """The decision over a whole series, 0 < p0 < 1. Of a load of fixed length this is the one look that was ever to be made."""
    return rule(series.exceeds, series.values, series.in_flight, p0, alpha_fail=alpha_fail)


def first_ruling(series: Series, p0: float, *, alpha_fail: float = ALPHA, ended_at: int) -> Ruling:
    """The first decision over the series of a load that its verdict ended, 0 < p0 < 1; undecided with all its evidence where
    there is none.

    ``ended_at``: how many of its requests were known when the load was ended.
    """
    gross = gross_ruling(series, p0)
    until = len(series) if gross is None or gross.evidence is None else gross.evidence.n
    sizes = {*look_sizes(series.scheduled_s), *sizes_before(series.scheduled_s, ended_at)}
    ruling = Ruling(None, "", None)
    for size in sorted(size for size in sizes if size <= until):
        ruling = ruling_of(series.first(size), p0, alpha_fail=alpha_fail)
        if ruling.outcome is not None:
            return ruling
    return ruling if gross is None else gross
