"""The values of one latency over a run, failures included, and the statistics of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pytest_llmperf.measure.dependence import worth
from pytest_llmperf.measure.interval import batch_quantile_interval, mean_interval, quantile_interval_ranks, quantile_rank
from pytest_llmperf.measure.run import UNKNOWN, Estimate
from pytest_llmperf.metrics import with_rounding

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.metrics import MetricKey


class InOrder(Protocol):
    """Requests in order of arrival."""

    def beyond(self, limit: float) -> Floats:
        """How much of each lies beyond ``limit`` seconds, shape (requests,)."""
        ...


@dataclass(frozen=True)
class RequestsInOrder:
    """One latency a request, in order of arrival; inf for one that failed."""

    values: Floats

    def beyond(self, limit: float) -> Floats:
        """1 for each that lies beyond ``limit`` seconds, else 0."""
        return (self.values > limit).astype(np.float64)


@dataclass(frozen=True)
class Distribution:
    """Latencies in seconds: ``values`` (shape (k,), finite, in order of arrival) of requests that ended well, and ``failures``.

    A failed request never answered within any limit, so quantiles and the max take it for +inf: a server does not get faster by
    refusing. The mean and the min are over ``values``, and +inf where every request failed. ``failures`` counts what the failed
    requests would have had: one value each, for ITL their gaps. ``independent`` is the number of independent observations where
    that is fewer than the values (the gaps of one response go together); None: each value is one. ``in_order`` has the requests
    in the order of their arrival, from which the intervals learn how far neighbours depend on each other; None takes them for
    independent.
    """

    values: Floats
    failures: int = 0
    independent: int | None = None
    in_order: InOrder | None = None

    @cached_property
    def _ordered(self) -> Floats:
        return np.sort(self.values)

    @property
    def total(self) -> int:
        """Values and failures."""
        return len(self.values) + self.failures

    @property
    def samples(self) -> int:
        """The observations: requests, however far they depend on each other."""
        return self.total if self.independent is None else self.independent

    def estimate(self, key: MetricKey) -> Estimate:
        """The statistic the key asks for (``p99``, ``mean``, ``max``, ``min``), with its interval."""
        if self.total == 0:
            return UNKNOWN
        if key.quantile is not None:
            return self._quantile(key.quantile)
        return self._moment(key.statistic or "mean")

    def exceedances(self, limit: float) -> int:
        """How many independent observations lie beyond ``limit``, failures included; rounded down where values are clustered.

        What differs from it by rounding only is equal to it.
        """
        beyond = self.total - int(np.searchsorted(self._ordered, with_rounding(limit), side="right"))
        return beyond if self.independent is None else beyond * self.samples // max(1, self.total)

    def _at(self, rank: int) -> float:
        """The order statistic of a 1-based rank: +inf among the failures and past the end, 0 (no latency is less) before it."""
        if rank < 1:
            return 0.0
        return float(self._ordered[rank - 1]) if rank <= len(self.values) else math.inf

    def _quantile(self, quantile: float) -> Estimate:
        value = self._at(quantile_rank(self.total, quantile))
        if self.in_order is not None and self.independent is None and not self.failures:
            batched = batch_quantile_interval(value, self.values, quantile)
            if batched is not None:
                return Estimate(value, *batched, self.samples)
        independent = self._worth_at(value)
        low, high = quantile_interval_ranks(independent, quantile)
        # Ranks among independent observations, spread over all values (Woodruff 1952, with one observation a cluster).
        per_observation = self.total / independent
        top = math.ceil(high * per_observation) if high <= independent else self.total + 1
        bottom = math.floor(low * per_observation)
        return Estimate(value, self._at(bottom), self._at(top), self.samples)

    def _worth_at(self, value: float) -> int:
        """How many independent observations the share beyond ``value`` rests on, at least one (Rao and Scott 1992)."""
        if self.in_order is None:
            return self.samples
        # What differs from the value by rounding only is equal to it: the pattern of its last digits is no dependence.
        beyond = self.in_order.beyond(with_rounding(value))
        return max(1, round(self.samples * worth(beyond) / len(beyond))) if len(beyond) else self.samples

    def _moment(self, statistic: str) -> Estimate:
        if len(self.values) == 0 or (statistic == "max" and self.failures):
            return Estimate(math.inf, math.nan, math.nan, self.samples)
        if statistic != "mean":
            extreme = self.values.max() if statistic == "max" else self.values.min()
            return Estimate(float(extreme), math.nan, math.nan, self.samples)
        mean = float(self.values.mean())
        if self.independent is not None or len(self.values) < 2:
            return Estimate(mean, math.nan, math.nan, self.samples)
        independent = round(worth(self.values)) if self.in_order is not None else len(self.values)
        return Estimate(mean, *mean_interval(mean, float(self.values.std(ddof=1)), independent), self.samples)
