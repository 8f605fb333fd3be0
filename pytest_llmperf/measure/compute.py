"""A load's log -> the registry's metrics.

Counted are the requests scheduled within the measured window that are no warm-up and were not cancelled when the load ended.
Latencies run from the scheduled start, so that a client or server that falls behind cannot hide it; ``service_*`` from the
sending. A counted request that failed is an error, and +inf in every latency's quantiles and maximum; a mean is over the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.cost import Spending, cost_metrics
from pytest_llmperf.measure.dependence import worth
from pytest_llmperf.measure.distribution import Distribution, InOrder, RequestsInOrder
from pytest_llmperf.measure.gaps import gaps_of
from pytest_llmperf.measure.interval import flow_interval, proportion_interval
from pytest_llmperf.measure.latencies import PER_REQUEST, comparable_latencies, stand_ins, uncounted
from pytest_llmperf.measure.run import UNKNOWN, Estimate
from pytest_llmperf.measure.steady import without_warmup
from pytest_llmperf.measure.throughput import Flow, throughput
from pytest_llmperf.measure.trust import ClientDelay, client_delay
from pytest_llmperf.metrics import METRICS, MetricKey, metric_key, with_rounding

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, LoadResult, RequestLog

STATISTICS = ("p50", "p90", "p95", "p99", "mean", "max")
"""What every document holds of a distribution."""


def standard_keys() -> tuple[MetricKey, ...]:
    """The keys of ``Metrics.standard``, in the registry's order."""
    return tuple(
        metric_key(metric.name, statistic)
        for metric in METRICS.values()
        for statistic in (STATISTICS if metric.is_distribution else (None,))
    )


@dataclass(frozen=True)
class RequestCounts:
    """Requests by what became of them; ``total`` = ok + failed + cancelled, and ``warmup`` ones are in none of the others."""

    total: int
    ok: int
    failed: int
    cancelled: int
    warmup: int

    @property
    def ended(self) -> int:
        """The requests that count: those that ended, well or not."""
        return self.ok + self.failed


@dataclass(frozen=True)
class Metrics:
    """Everything measured of one run. ``estimate`` answers for any key of the registry; nothing is recomputed from the log.

    ``latencies`` holds the metrics of ``PER_REQUEST``, each of shape (counts.ended,): +inf for a failed request, nan where an
    answered one has no such latency. ``distributions`` is by metric name; ``scalars`` by metric name, without ``goodput``.
    """

    counts: RequestCounts
    errors: dict[str, int]
    """Failed requests by class of error, the most frequent first."""
    window_s: float
    latencies: Mapping[str, Floats]
    distributions: Mapping[str, Distribution]
    scalars: Mapping[str, Estimate]
    client_delay: ClientDelay
    uncounted: int = 0
    """Streamed answers whose tokens nobody counted: one is enough to leave every metric of tokens unknown."""

    def estimate(self, key: MetricKey) -> Estimate:
        """The value of a metric with its interval; unknown (nan, 0 samples) where the run has none.

        ``goodput`` depends on limits: ask ``goodput()`` for it, here it is unknown.
        """
        if key.metric.is_distribution:
            return self.distributions[key.metric.name].estimate(key)
        return self.scalars.get(key.metric.name, UNKNOWN)

    def exceedances(self, key: MetricKey, limit: float) -> int:
        """How many samples of a distribution lie beyond ``limit`` (seconds), failures included."""
        return self.distributions[key.metric.name].exceedances(limit)

    def left_out(self, key: MetricKey) -> str:
        """Why a value within its limit does not keep it: a mean is over the answered requests, so failing would keep any.

        Empty for every other statistic, which has failures in it, and where none failed.
        """
        if key.statistic != "mean" or self.counts.failed == 0:
            return ""
        share = f"{self.counts.failed:,} of {self.counts.ended:,} requests failed and have no value"
        return f"{share}: judge a percentile, or limit error_rate too"

    def goodput(self, limits: Mapping[str, float]) -> Estimate:
        """The fraction of ended requests that ended well and met every per-request limit (metric name -> seconds).

        A latency that a request does not have (TPOT of one token) cannot break its limit; one that fewer than half of the
        answered requests have leaves goodput unknown, as do no limits and no requests.
        """
        if any(2 * np.count_nonzero(np.isfinite(self.latencies[name])) < self.counts.ok for name in limits):
            return UNKNOWN
        return self.goodput_at_most(limits)

    def goodput_at_most(self, limits: Mapping[str, float]) -> Estimate:
        """The same, as if every latency that a request does not have were within its limit."""
        if not limits or self.counts.ended == 0:
            return UNKNOWN
        broken = np.zeros(self.counts.ended, np.bool_)
        for name, limit in limits.items():
            broken |= self.latencies[name] > with_rounding(limit)
        return _proportion(~broken)

    def standard(self) -> dict[str, Estimate]:
        """The estimates every document holds, by key name: each distribution's ``STATISTICS``, and the scalars."""
        return {key.name: self.estimate(key) for key in standard_keys()}


def measure(
    result: LoadResult,
    *,
    price_per_hour: float | None,
    accelerators: int | None = None,
    power_w: float | None = None,
    extra_warmup_s: float = 0.0,
    counts_tokens: bool = True,
) -> Metrics:
    """Compute a run's metrics. ``price_per_hour`` (US dollars) and ``power_w`` (mean of the window) are of all the cell's
    ``accelerators``: they price its tokens and requests; None: unknown.

    The first ``extra_warmup_s`` of the window (``Steadiness``) are taken for warm-up. ``counts_tokens``: whether the service can
    say how many tokens an answer has; where it cannot, their flow is unknown even where no answer came.
    """
    result = without_warmup(result, extra_warmup_s)
    log = result.log
    mine = ~log.warmup & (log.scheduled_s >= result.window_start_s) & (log.scheduled_s <= result.window_end_s)
    ok = mine & (log.outcome == Outcome.OK)
    cancelled = mine & (log.outcome == Outcome.CANCELLED)
    failed = mine & ~ok & ~cancelled
    counts = RequestCounts(*(int(np.count_nonzero(mask)) for mask in (mine, ok, failed, cancelled, log.warmup)))
    ended = ok | failed
    latencies = {name: np.where(failed, math.inf, values)[ended] for name, values in comparable_latencies(log, ok).items()}
    return Metrics(
        counts=counts,
        errors=_errors(log, failed),
        window_s=result.window_end_s - result.window_start_s,
        latencies=latencies,
        distributions=_distributions(log, latencies, ok, counts.failed),
        scalars=_scalars(result, failed[ended], Spending(price_per_hour, accelerators, power_w), counts_tokens=counts_tokens),
        client_delay=client_delay(result.health),
        uncounted=int(np.count_nonzero(uncounted(log, ok))),
    )


def _distributions(
    log: RequestLog, latencies: Mapping[str, Floats], ok: NDArray[np.bool_], failures: int
) -> dict[str, Distribution]:
    found = {}
    for name in PER_REQUEST:
        values, has = latencies[name], np.isfinite(latencies[name])
        failed = np.isinf(values)
        unanswered = stand_ins(failed, ~failed, has)
        found[name] = _distribution(values[has], int(np.count_nonzero(unanswered)), ok, RequestsInOrder(values[has | unanswered]))
    gaps = gaps_of(log, ok)
    never_ended = round(failures * gaps.of_a_failure(int(np.count_nonzero(ok))))
    with_any = gaps.of_requests_with_any()
    found["itl"] = _distribution(gaps.values, never_ended, ok, with_any, independent=len(with_any.counts) + failures)
    return found


def _distribution(
    values: Floats, failures: int, ok: NDArray[np.bool_], in_order: InOrder, independent: int | None = None
) -> Distribution:
    """Without a single value although requests ended well, the metric does not exist for this load: failures are not it."""
    if len(values) == 0 and ok.any():
        return Distribution(values)
    return Distribution(values, failures, independent, in_order)


def _errors(log: RequestLog, failed: NDArray[np.bool_]) -> dict[str, int]:
    rows = np.flatnonzero(failed).tolist()
    names = Counter(log.error[i] or Outcome(int(log.outcome[i])).name.lower().replace("_", " ") for i in rows)
    return dict(names.most_common())


def _proportion(hits: NDArray[np.bool_]) -> Estimate:
    """The share of requests, shape (n,) in order of arrival, that are hits; its interval is that of as many as they are worth."""
    trials = len(hits)
    if trials == 0:
        return UNKNOWN
    share = int(np.count_nonzero(hits)) / trials
    independent = worth(hits.astype(np.float64))
    return Estimate(share, *proportion_interval(share * independent, independent), trials)


def _scalars(result: LoadResult, failed: NDArray[np.bool_], spending: Spending, *, counts_tokens: bool) -> dict[str, Estimate]:
    def estimate(flow: Flow) -> Estimate:
        low, high = flow_interval(flow.per_s, flow.blocks_per_s) if flow.is_long_enough else (math.nan, math.nan)
        return Estimate(flow.per_s, low, high, len(failed))

    def of_tokens(flow: Flow) -> Estimate:
        return estimate(flow) if counts_tokens else UNKNOWN

    flow = throughput(result)
    requests, output, total = estimate(flow.requests), of_tokens(flow.output_tokens), of_tokens(flow.total_tokens)
    return {
        "error_rate": _proportion(failed),
        "request_rate": requests,
        "output_tokens_per_s": output,
        "total_tokens_per_s": total,
        **cost_metrics(
            spending,
            {
                "requests": requests,
                "input_tokens": of_tokens(flow.input_tokens),
                "output_tokens": output,
                "total_tokens": total,
            },
        ),
    }
