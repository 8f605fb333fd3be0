"""What a threshold asks of every single request: the share of them that may be beyond its limit, and which ones are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.judge.verdict import request_limits, samples_needed
from pytest_llmperf.measure.interval import quantile_rank
from pytest_llmperf.metrics import with_rounding

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Sla, Threshold
    from pytest_llmperf.measure.observations import Observations, Series


@dataclass(frozen=True)
class Question:
    """A threshold that is kept exactly when no more than a share ``p0`` of the requests exceeds it."""

    threshold: Threshold
    p0: float
    """1 - q for a quantile q, the limit of an error rate, 1 - the limit of a goodput; 0 for a maximum, 1 for a minimum."""
    limits: Mapping[str, float]
    """What a single request must keep to be goodput (latency's name -> seconds)."""

    @property
    def name(self) -> str:
        """``TTFT p99 <= 1s``."""
        return f"{self.threshold.key.title} {self.threshold.required}"

    @property
    def limit(self) -> float:
        """The threshold's, in its base unit, with room for rounding."""
        return with_rounding(self.threshold.limit)

    def series(self, seen: Observations) -> Series:
        """The requests against it, as far as they are known."""
        match self.threshold.key.metric.name:
            case "error_rate":
                return seen.failures()
            case "goodput":
                return seen.bad({name: with_rounding(limit) for name, limit in self.limits.items()})
            case name:
                return seen.latency(name, self.limit)

    def beyond(self, seen: Observations) -> int:
        """How many requests are beyond it for good, whether or not all that arrived before them are known."""
        key = self.threshold.key
        if key.metric.is_distribution:
            name = key.metric.name
            return int(np.count_nonzero(seen.having(name) & (seen.latencies[name] > self.limit)))
        bad = seen.failed.copy()
        if key.metric.name == "goodput":
            for name, limit in self.limits.items():
                bad |= seen.latencies[name] > with_rounding(limit)
        return int(np.count_nonzero(bad & seen.counted & seen.ended))

    def may_pass(self, seen: Observations) -> bool:
        """False where too few requests have a latency that goodput is made of: more may be bad than is known."""
        return self.threshold.key.metric.name != "goodput" or seen.shows(self.limits)

    def is_lost(self, beyond: int, planned: int) -> bool:
        """Whether ``beyond`` of ``planned`` counted requests miss it by the measured values, were all others good.

        Exact, whatever the load still brings: requests that turn out to have no such latency, or never to be made, only lower
        the number that may be beyond the limit.
        """
        key = self.threshold.key
        if not key.metric.is_distribution:
            share = beyond / planned if planned else 0.0
            return not self.threshold.met_by(share if self.threshold.comparator == "<=" else 1 - share)
        if key.quantile is None:
            return key.statistic == "max" and beyond > 0
        most = max(planned, samples_needed(key))
        return beyond > most - quantile_rank(most, key.quantile)


def question_of(threshold: Threshold, limits: Mapping[str, float]) -> Question | None:
    """The question that a threshold asks of each request; None for means and flows, and for ITL, which asks it of each gap."""
    p0 = allowed_share(threshold)
    if p0 is None or threshold.key.metric.name == "itl" or (threshold.key.metric.name == "goodput" and not limits):
        return None
    return Question(threshold, p0, limits)


def questions_of(sla: Sla) -> tuple[Question | None, ...]:
    """``question_of`` for every threshold of an SLA."""
    limits = request_limits(sla.thresholds)
    return tuple(question_of(threshold, limits) for threshold in sla.thresholds)


def allowed_share(threshold: Threshold) -> float | None:
    """The share of requests (of gaps, for ITL) that may be beyond the limit; None where the limit is not one of a share."""
    key = threshold.key
    if key.metric.name == "error_rate":
        return threshold.limit
    if key.metric.name == "goodput":
        return 1 - threshold.limit
    if key.quantile is not None:
        return 1 - key.quantile
    return {"max": 0.0, "min": 1.0}.get(key.statistic or "")
