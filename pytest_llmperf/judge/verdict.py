"""Whether a run keeps an SLA, by the measured values: PASS, FAIL, or why neither can be said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.text import shown
from pytest_llmperf.measure.interval import quantile_rank
from pytest_llmperf.measure.run import Steadiness
from pytest_llmperf.metrics import metric_key

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Gate, Grade, Sla, Threshold
    from pytest_llmperf.measure.compute import Metrics
    from pytest_llmperf.measure.run import Estimate, Stopped
    from pytest_llmperf.metrics import MetricKey

_OF_PROMPTS = ("total_tokens_per_s", "cost_per_mtok_total", "cost_per_mtok_input")
STEADY = Steadiness()
"""Nothing is known against a steady state."""
_RISK = 0.05
_FEWEST = 5
"""Samples that a mean or an extreme needs: as many as ``samples_needed`` asks for a median."""


class Outcome(StrEnum):
    """What can be said of a threshold, and of a whole SLA."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    """The samples cannot tell."""
    INVALID = "INVALID"
    """The measurement itself cannot be trusted."""


@dataclass(frozen=True)
class Check:
    """One threshold held against what was measured."""

    threshold: Threshold
    estimate: Estimate
    outcome: Outcome
    note: str
    """Why it is not simply kept or missed: ``needs 190 more samples (109 of 299)``; empty where the numbers say it all."""

    @property
    def margin(self) -> float:
        """Measured / limit: 1.8 for 1.8 s where 1 s is allowed. nan where nothing was measured, +inf beyond a limit of 0."""
        value, limit = self.estimate.value, self.threshold.limit
        if limit == 0:
            return math.nan if math.isnan(value) else 1.0 if value == 0 else math.inf
        return value / limit

    @property
    def grade(self) -> Grade | None:
        """Which grade the measured value reaches; None for an ungraded limit, and where the samples cannot tell."""
        return None if self.outcome is Outcome.INCONCLUSIVE else self.threshold.grade(self.estimate.value)


@dataclass(frozen=True)
class Verdict:
    """An SLA's thresholds, checked. True only for PASS: what cannot be told has not been shown."""

    sla_name: str
    outcome: Outcome
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    """Why it is no PASS, one sentence each: the reasons to distrust the run, or what the run as a whole shows (it was unstable,
    its load ended because the verdict was settled) and a line for each check that does not pass."""
    policy: Policy = Policy.MEASURED
    gate: Gate = "target"

    def __bool__(self) -> bool:
        return self.outcome is Outcome.PASS


def samples_needed(key: MetricKey) -> int:
    """The samples below which a statistic says nothing: 59 for p95, 299 for p99; 1 for a scalar.

    For a quantile q, the fewest that would all keep a limit with no more than 5 % chance if q did not: ``ln 0.05 / ln q``,
    rounded up. For q below a half the mirror image (1 - q), since there it is the lower tail that is seldom seen.
    """
    if key.quantile is None:
        return _FEWEST if key.metric.is_distribution else 1
    rarer = max(key.quantile, 1 - key.quantile)
    return math.ceil(math.log(_RISK) / math.log(rarer)) if rarer < 1 else 1


def request_limits(thresholds: Iterable[Threshold]) -> dict[str, float]:
    """What one request must keep for goodput (latency's name -> seconds): the limits that goodput's own line gives.

    Where it gives none, per latency the limit of the highest quantile (max is the highest): an SLA of TTFT p50 <= 300 ms and
    p99 <= 1 s lets a single request take 1 s. Means bind no single request. Of a graded limit it is the target at every gate:
    one run has one goodput, and its grade does not depend on the gate.
    """
    highest: dict[str, tuple[float, float]] = {}
    for threshold in thresholds:
        name, level = threshold.key.metric.name, threshold.request_level
        if threshold.within:
            return dict(threshold.within)
        if level is not None and level >= highest.get(name, (0.0,))[0]:
            highest[name] = (level, threshold.limits["target"])
    return {name: limit for name, (_, limit) in highest.items()}


def limits_failures(sla: Sla) -> bool:
    """Whether the SLA bounds how many requests may fail: its means then need not answer for those that did."""
    return any(threshold.key.metric.name in {"error_rate", "goodput"} for threshold in sla.thresholds)


def judge(
    metrics: Metrics, sla: Sla, invalid: tuple[str, ...] = (), *, steadiness: Steadiness = STEADY, stopped: Stopped | None = None
) -> Verdict:
    """Hold a run's metrics against an SLA by the measured values.

    ``invalid``: reasons not to trust the run; any makes the verdict INVALID, whatever was measured, as do misses so small that
    the client's own delay may have caused them all. Else one FAIL fails it, else one INCONCLUSIVE leaves it open. Too few samples
    fail a quantile only where no further ones could mend it. ``stopped``: how the load ended, if it was to run until *this* SLA
    was settled; a settled FAIL fails it even where no check shows it. Without a steady state there is no PASS: a saturating
    server gets worse the longer it is loaded.
    """
    limits = request_limits(sla.thresholds)
    leaves_out = not limits_failures(sla)
    checks = tuple(_check(metrics, threshold, limits, leaves_out) for threshold in sla.thresholds)
    invalid = invalid or _decided_by_the_client(metrics, checks, limits)
    if invalid:
        return Verdict(sla.name, Outcome.INVALID, checks, invalid, gate=sla.gate)
    outcome, reasons = _of_the_run(_worst(checks), steadiness, stopped)
    reasons += tuple(reason_of(check) for check in checks if check.outcome is not Outcome.PASS)
    return Verdict(sla.name, outcome, checks, reasons, gate=sla.gate)


def reason_of(check: Check) -> str:
    """One sentence on a check that does not pass: by how much it fails, or why it is open."""
    key = check.threshold.key
    missed = f"{key.title} is {shown(key.metric, check.estimate.value)}, required {check.threshold.required}"
    if check.outcome is not Outcome.FAIL:
        return f"{key.title}: {check.note}"
    return f"{missed}: {check.note}" if check.note else missed


def _of_the_run(outcome: Outcome, steadiness: Steadiness, stopped: Stopped | None) -> tuple[Outcome, tuple[str, ...]]:
    """The outcome of the checks, turned by what the run as a whole shows, and the reasons that the run gives."""
    reasons: tuple[str, ...] = ()
    if stopped is not None and stopped.outcome == Outcome.FAIL and outcome is not Outcome.FAIL:
        outcome, reasons = Outcome.FAIL, (stopped.reason,)
    if steadiness.unstable:
        outcome = Outcome.INCONCLUSIVE if outcome is Outcome.PASS else outcome
        reasons += (f"unstable: {steadiness.unstable}",)
    return outcome, reasons


def _decided_by_the_client(metrics: Metrics, checks: Iterable[Check], limits: Mapping[str, float]) -> tuple[str, ...]:
    """Every miss, where the client's own delay may have caused all of them; empty where the server missed a limit by itself.

    The delay only adds, so a limit that is kept was kept by the server.
    """
    reasons = []
    for check in checks:
        if check.outcome is not Outcome.FAIL:
            continue
        delay = _excuse(metrics, check, limits)
        if delay is None:
            return ()
        measured = shown(check.threshold.key.metric, check.estimate.value)
        reasons.append(
            f"{check.threshold.key.title} {check.threshold.required}: measured {measured}, {delay}; use a less busy machine or "
            "more workers"
        )
    return tuple(reasons)


def _excuse(metrics: Metrics, check: Check, limits: Mapping[str, float]) -> str | None:
    """What of a miss the client's own delay may be; None where it cannot be all of it.

    Of the metrics with one value a run, only goodput is made of latencies.
    """
    metric, limit = check.threshold.key.metric, check.threshold.limit
    if metric.name == "goodput":
        delay = metrics.client_delay
        later = {name: limit_s + delay.in_quantile(name, check.threshold.limit) for name, limit_s in limits.items()}
        without = metrics.goodput_at_most(later).value
        without_delay = f"which without what the client's own delay may be would be {shown(metric, without)}"
        return without_delay if check.threshold.met_by(without) else None
    delay_s = metrics.client_delay.in_metric(check.threshold.key) if metric.is_distribution else 0.0
    may_be_delay = f"of which the client's own delay may be {shown(metric, delay_s)}"
    return may_be_delay if limit < check.estimate.value <= limit + delay_s else None


def _worst(checks: tuple[Check, ...]) -> Outcome:
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE


def _check(metrics: Metrics, threshold: Threshold, limits: Mapping[str, float], leaves_out: bool) -> Check:
    key = threshold.key
    estimate = metrics.goodput(limits) if key.metric.name == "goodput" else metrics.estimate(key)
    if metrics.counts.ended == 0:
        return Check(threshold, estimate, Outcome.INCONCLUSIVE, "no request was counted")
    if not estimate.is_known:
        at_most = metrics.goodput_at_most(limits) if key.metric.name == "goodput" else estimate
        if at_most.is_known and not threshold.met_by(at_most.value):
            return Check(threshold, at_most, Outcome.FAIL, f"at most; {_why_unknown(key, metrics)}")
        return Check(threshold, estimate, Outcome.INCONCLUSIVE, _why_unknown(key, metrics))
    needed = samples_needed(key)
    if estimate.samples < needed:
        return _short_of_samples(metrics, threshold, estimate, needed)
    if threshold.met_by(estimate.value):
        left_out = metrics.left_out(key) if leaves_out else ""
        return Check(threshold, estimate, Outcome.INCONCLUSIVE if left_out else Outcome.PASS, left_out)
    return Check(threshold, estimate, Outcome.FAIL, _why_missed(metrics, threshold, estimate))


def _why_unknown(key: MetricKey, metrics: Metrics) -> str:
    if metrics.uncounted and key.metric.name in ("tpot", "itl", "goodput"):
        return f"{metrics.uncounted:,} of {metrics.counts.ok:,} answers do not say how many tokens they have"
    if key.metric.is_distribution:
        return f"no request has a {key.metric.title} (it needs a streamed answer of several tokens)"
    if key.metric.name == "goodput":
        which = "one of the latencies within which a request would be good"
        return f"fewer than half of the answers have {which} (they need a streamed answer of several tokens)"
    return _why_no_flow(key, metrics)


def _why_no_flow(key: MetricKey, metrics: Metrics) -> str:
    if not metrics.window_s > 0:
        return "the measured window has no length"
    name = key.metric.name
    if name == "requests_per_gpu_hour":
        return "it is not known how many accelerators the cell has"
    if name == "tokens_per_dollar" and metrics.estimate(metric_key("cost_per_mtok")).is_known:
        return "the cell's price is $0, and no number of tokens comes to a dollar"
    if name != "request_rate" and not metrics.estimate(metric_key("output_tokens_per_s")).is_known:
        return "the answers do not say how many tokens they have"
    if name in _OF_PROMPTS and not metrics.estimate(metric_key("total_tokens_per_s")).is_known:
        return "the answers do not say how many tokens their prompts have"
    return "the accelerators' power is not known" if name == "joules_per_token" else "the cell has no price"


def _why_missed(metrics: Metrics, threshold: Threshold, estimate: Estimate) -> str:
    """Of a miss by failures, what failed; empty for any other."""
    counts, name = metrics.counts, threshold.key.metric.name
    if counts.failed == 0:
        return ""
    if name == "error_rate" or (name == "goodput" and not threshold.met_by(counts.ok / counts.ended)):
        return f"{counts.failed:,} of {counts.ended:,} requests failed{_most_frequent_error(metrics)}"
    if not math.isinf(estimate.value):
        return ""
    return f"{counts.failed:,} of {counts.ended:,} requests failed and count as never answered{_most_frequent_error(metrics)}"


def _most_frequent_error(metrics: Metrics) -> str:
    """``; most: http 401 Unauthorized, 80``; of a single kind ``; all: http 401 Unauthorized``."""
    error, count = next(iter(metrics.errors.items()))
    return f"; all: {error}" if count == metrics.counts.failed else f"; most: {error}, {count:,}"


def _short_of_samples(metrics: Metrics, threshold: Threshold, estimate: Estimate, needed: int) -> Check:
    """FAIL where even ``needed`` samples, the missing ones all good, would miss the limit; else INCONCLUSIVE."""
    key, have = threshold.key, estimate.samples
    more = f"needs {needed - have:,} more samples ({have:,} of {needed:,})"
    if threshold.comparator != "<=" or key.statistic == "mean":
        return Check(threshold, estimate, Outcome.INCONCLUSIVE, more)
    level = 1.0 if key.statistic == "max" else key.quantile or 0.0
    allowed = needed - quantile_rank(needed, level)
    beyond = metrics.exceedances(key, threshold.limit)
    if beyond > allowed:
        failed = f" ({metrics.counts.failed:,} requests failed{_most_frequent_error(metrics)})" if metrics.counts.failed else ""
        note = f"{beyond:,} of {have:,} samples are beyond the limit{failed}; of {needed:,} no more than {allowed:,} may be"
        return Check(threshold, estimate, Outcome.FAIL, note)
    return Check(threshold, estimate, Outcome.INCONCLUSIVE, more)
