"""The test of a mean or of a flow against its limit: what has no share of requests that may be beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.judge.sequential import ALPHA
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.measure.dependence import (
    BLOCKS,
    FEWEST,
    VARIANCE_BOUND,
    design_effect,
    variance_of_blocks,
)
from pytest_llmperf.metrics import ROUNDING

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.measure.throughput import Flow

_TIGHTEST_AT = 7.0
"""rho^2 of the mixture, in units of 1 / the whole run: for 5 % its bound is tightest at the run's end."""
SHORTEST_BLOCK_S = 2.0
"""A stretch of a flow lasts as long as a short answer at least, or its neighbours are one stretch."""


@dataclass(frozen=True)
class Mean:
    """A mean and the standard error that it has at most, with 90 %."""

    value: float
    error: float

    def bound(self, alpha: float) -> float:
        """How far the true mean is from it at most, to one side: a point of a sequence of bounds that all hold with 1 - alpha.

        The one-sided asymptotic confidence sequence of a normal mixture (Robbins 1970; Waudby-Smith and others, *Annals of
        Statistics* 52, 2024): it holds whenever one stops to look, and is 1.7 times as wide as for one look at a fixed time.
        """
        spread = 2 * (1 + 1 / _TIGHTEST_AT) * math.log1p(math.sqrt(1 + _TIGHTEST_AT) / (2 * alpha))
        return self.error * math.sqrt(spread)

    def against(self, limit: float, *, at_most: bool, alpha_fail: float) -> Outcome | None:
        """PASS, FAIL or None (cannot tell) for "the mean is at most (at least) ``limit``", which is 0 or more and may be inf."""
        # Turned so that more is better. Rounding is a factor: as an amount, that of an infinite limit would let anything keep it.
        side = -1.0 if at_most else 1.0
        value, least = side * self.value, side * limit * (1 - side * ROUNDING)
        if value - self.bound(ALPHA) >= least:
            return Outcome.PASS
        return Outcome.FAIL if value + self.bound(alpha_fail) < least else None

    def more_needed(self, limit: float) -> float:
        """How many times as long a run would tell it from ``limit``, if it stayed where it is."""
        distance = abs(limit - self.value)
        return (self.bound(ALPHA) / distance) ** 2 if distance > 0 else math.inf


def mean_of_requests(values: Floats) -> Mean:
    """The mean of one value a request, shape (n,), n >= 200, in order of arrival."""
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} values say nothing of their dependence: it takes {FEWEST}")
    variance = float(values.var()) * design_effect(values) / len(values)
    return Mean(float(values.mean()), math.sqrt(variance * VARIANCE_BOUND))


def mean_of_flow(flow: Flow) -> Mean:
    """A flow's rate, from its rates over 20 stretches of the window."""
    return Mean(flow.per_s, math.sqrt(variance_of_blocks(flow.blocks_per_s) / BLOCKS * VARIANCE_BOUND))
