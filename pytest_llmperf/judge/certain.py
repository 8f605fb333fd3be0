"""The policy ``certain``: PASS and FAIL at a stated error, for requests that depend on each other; else why it cannot be said."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.judge.means import SHORTEST_BLOCK_S, Mean, mean_of_flow, mean_of_requests
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.questions import allowed_share, question_of
from pytest_llmperf.judge.replay import first_ruling, gross_ruling, ruling_of
from pytest_llmperf.judge.sequential import ALPHA, E_VALUE, FEWEST_ERGODIC, Ruling, memories_for_fail, memories_for_pass
from pytest_llmperf.judge.text import shown
from pytest_llmperf.judge.verdict import Check, Outcome, Verdict, judge, limits_failures, reason_of, request_limits
from pytest_llmperf.judge.wording import decided, more_requests, undecided
from pytest_llmperf.measure.cost import OF_FLOW
from pytest_llmperf.measure.dependence import BLOCKS, FEWEST, design_effect
from pytest_llmperf.measure.observations import Observations, Series, as_of, gaps_beyond, observations
from pytest_llmperf.measure.steady import is_warming_up, without_warmup
from pytest_llmperf.measure.throughput import throughput
from pytest_llmperf.metrics import with_rounding
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Sla, Threshold
    from pytest_llmperf.load.records import LoadResult
    from pytest_llmperf.measure.run import Run
    from pytest_llmperf.measure.throughput import Flow

_FLOWS = {"request_rate": "requests", "output_tokens_per_s": "output_tokens", "total_tokens_per_s": "total_tokens"}
"""The scalar metrics that are flows themselves, and what of ``Throughput`` they are."""
_NO_STEADY_STATE = "unstable: no steady state"


def judge_certain(run: Run, sla: Sla) -> Verdict:
    """Hold a run against an SLA by the sequential test.

    Each threshold may PASS wrongly with 5 %: all of them passing wrongly is less likely still. A FAIL of any would be more
    likely the more there are, so the evidence for it must be as many times stronger. An open loop whose backlog grew FAILs; a
    server that never got warm neither passes nor fails, but by a gross miss.
    """
    measured = judge(run.metrics, sla, run.invalid)
    if measured.outcome is Outcome.INVALID:
        return replace(measured, policy=Policy.CERTAIN)
    examination = _Examination(run, sla)
    rulings = [examination.rule(check) for check in measured.checks]
    unstable = f"{_NO_STEADY_STATE}, {run.steadiness.unstable}" if run.steadiness.unstable else ""
    warming = is_warming_up(run.steadiness)
    if unstable:
        rulings = [_without_steady_state(check, is_gross, run, warming=warming) for check, is_gross in rulings]
    checks = tuple(check for check, _ in rulings)
    outcomes = {check.outcome for check in checks}
    fails = Outcome.FAIL in outcomes or (unstable and not warming)
    outcome = Outcome.FAIL if fails else Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE
    reasons = tuple(reason_of(check) for check in checks if check.outcome is not Outcome.PASS)
    return replace(
        measured,
        policy=Policy.CERTAIN,
        outcome=outcome,
        checks=checks,
        reasons=((unstable,) if unstable else ()) + reasons,
    )


_Ruled = tuple[Check, bool]
"""A check with its outcome, and whether that holds without a steady state."""


def _without_steady_state(check: Check, is_gross: bool, run: Run, *, warming: bool) -> _Ruled:
    """Without one a PASS says nothing, and while the server is warming up nor does a FAIL, but for a gross one."""
    stands = check.outcome is Outcome.FAIL and (is_gross or not warming)
    if stands:
        return check, is_gross
    return replace(check, outcome=Outcome.INCONCLUSIVE, note=run.steadiness.unstable), is_gross


@dataclass(frozen=True)
class _Examination:
    """One run, asked about one SLA."""

    run: Run
    sla: Sla

    @cached_property
    def _seen(self) -> Observations:
        return observations(self.run.result, self.run.steadiness.extra_warmup_s)

    @cached_property
    def _when_ended(self) -> Observations | None:
        stopped = self.run.stopped
        return as_of(self.run.result, stopped.at_s, self.run.steadiness.extra_warmup_s) if stopped is not None else None

    @cached_property
    def _result(self) -> LoadResult:
        return without_warmup(self.run.result, self.run.steadiness.extra_warmup_s)

    @property
    def _alpha_fail(self) -> float:
        return ALPHA / len(self.sla.thresholds)

    def rule(self, measured: Check) -> _Ruled:
        """The outcome of one threshold. What was not measured stays as it is."""
        threshold = measured.threshold
        if self.run.metrics.counts.ended == 0 or not measured.estimate.is_known:
            return measured, False
        p0 = allowed_share(threshold)
        if p0 is not None:
            return self._of_a_share(measured, p0)
        if threshold.key.metric.is_distribution:
            return self._of_a_mean(measured), False
        return self._of_a_flow(measured), False

    def _of_a_share(self, measured: Check, p0: float) -> _Ruled:
        series, ended_at = self._series(measured.threshold)
        if not 0 < p0 < 1:
            return _without_exception(measured, series, none_may=p0 <= 0), True
        ruling = self._gross_when_ended(measured.threshold, p0)
        if ruling is None and ended_at is not None:
            ruling = first_ruling(series, p0, alpha_fail=self._alpha_fail, ended_at=ended_at)
        if ruling is None:
            ruling = ruling_of(series, p0, alpha_fail=self._alpha_fail)
        if ended_at is not None and ruling.outcome is Outcome.PASS and not measured.threshold.met_by(measured.estimate.value):
            passed_at = ruling.evidence.n if ruling.evidence is not None else 0
            note = f"passed after {passed_at:,} requests, but the whole run misses it"
            return replace(measured, outcome=Outcome.INCONCLUSIVE, note=note), False
        if ruling.outcome is None:
            note = undecided(ruling.evidence, p0, self._rate_per_s(len(series)), self._alpha_fail)
            return replace(measured, outcome=Outcome.INCONCLUSIVE, note=note), False
        alpha = ALPHA if ruling.outcome is Outcome.PASS else self._alpha_fail
        check = replace(measured, outcome=ruling.outcome, note=decided(ruling, p0, alpha))
        return check, ruling.rule != E_VALUE

    def _series(self, threshold: Threshold) -> tuple[Series, int | None]:
        """The requests against a threshold, and how many of them were known when the load was ended, if it was."""
        question = question_of(threshold, request_limits(self.sla.thresholds))
        if question is None:
            return self._gaps(with_rounding(threshold.limit)), None
        ended = self._when_ended
        return question.series(self._seen), len(question.series(ended)) if ended is not None else None

    def _gross_when_ended(self, threshold: Threshold, p0: float) -> Ruling | None:
        question = question_of(threshold, request_limits(self.sla.thresholds))
        if question is None or self.run.stopped is None or self.run.stopped.outcome != Outcome.FAIL:
            return None
        return gross_ruling(question.series(self._seen), p0)

    def _of_a_mean(self, measured: Check) -> Check:
        """A mean over the answered requests: missed where none was, open where some failed that nothing else bounds."""
        failed, ended = self.run.metrics.counts.failed, self.run.metrics.counts.ended
        if failed == ended >= FEWEST_ERGODIC:
            return replace(measured, outcome=Outcome.FAIL, note=f"all of {ended:,} requests failed")
        checked = self._of_an_answered_mean(measured)
        left_out = "" if limits_failures(self.sla) else self.run.metrics.left_out(measured.threshold.key)
        if left_out and failed < ended and checked.outcome is not Outcome.FAIL:
            return replace(checked, outcome=Outcome.INCONCLUSIVE, note=left_out)
        return checked

    def _of_an_answered_mean(self, measured: Check) -> Check:
        """It waits as long as a share: bursts rarer than the run move means as well."""
        name = measured.threshold.key.metric.name
        # Of ITL, each request's mean gap: requests are what is drawn.
        series = self._seen.latency(name, math.inf) if name != "itl" else self._gaps(math.inf)
        answered = np.isfinite(series.values)
        values, in_flight = series.values[answered], series.in_flight[answered]
        if len(values) < FEWEST:
            answered_share = len(values) / len(series) if len(values) else 1.0
            return self._short(measured, FEWEST / answered_share - len(series), len(series))
        checked = self._of_bounds(measured, mean_of_requests(values), measured.threshold.limit)
        memories = memories_for_pass if checked.outcome is Outcome.PASS else memories_for_fail
        needed = memories(design_effect(values), design_effect(in_flight))
        if checked.outcome is Outcome.INCONCLUSIVE or len(values) >= needed:
            return checked
        return self._short(measured, needed - len(values), len(values))

    def _short(self, measured: Check, more: float, have: int) -> Check:
        note = f"too few independent samples: needs about {more_requests(more, self._rate_per_s(have))}"
        return replace(measured, outcome=Outcome.INCONCLUSIVE, note=note)

    def _rate_per_s(self, requests: int) -> float:
        return requests / self.run.metrics.window_s if self.run.metrics.window_s > 0 else 0.0

    def _gaps(self, limit: float) -> Series:
        return gaps_beyond(self.run.result, limit, self.run.steadiness.extra_warmup_s)

    def _of_a_flow(self, measured: Check) -> Check:
        """A flow of tokens or answers, or what follows from one: a price is kept when enough tokens flow for the money."""
        threshold, estimate = measured.threshold, measured.estimate
        name, limit = threshold.key.metric.name, threshold.limit
        of_flow = OF_FLOW.get(name)
        flow: Flow = getattr(throughput(self._result), of_flow.flow if of_flow is not None else _FLOWS[name])
        if of_flow is not None:
            limit = _flow_at(limit, flow.per_s, estimate.value, falls=of_flow.falls)
        if (note := _too_short(flow)) is not None:
            return replace(measured, outcome=Outcome.INCONCLUSIVE, note=note)
        if not flow.is_long_enough and not self._has_run_dry(measured, flow, limit):
            note = f"too few independent samples: only {flow.events:,.0f} arrived in the window"
            return replace(measured, outcome=Outcome.INCONCLUSIVE, note=note)
        if flow.events == 0:
            note = f"nothing arrived in the {format_duration(flow.window_s)} of the window"
            return replace(measured, outcome=Outcome.FAIL, note=note)
        return self._of_bounds(measured, mean_of_flow(flow), limit)

    def _has_run_dry(self, measured: Check, flow: Flow, limit: float) -> bool:
        """Whether so little arrived because the server does little: a rate below its limit is missed, not unknown.

        Not where the limit asks for less than one in each of the window's 20 stretches, nor while the answers may just take long:
        20 requests were answered within the window, or failed.
        """
        seen = self._seen
        answered = seen.counted & (seen.scheduled_s + seen.latencies["e2e"] <= self._result.window_end_s)
        told = np.count_nonzero(answered) + self.run.metrics.counts.failed
        asks_enough = limit * flow.window_s >= BLOCKS
        return not measured.threshold.met_by(measured.estimate.value) and asks_enough and bool(told >= BLOCKS)

    def _of_bounds(self, measured: Check, mean: Mean, limit: float) -> Check:
        metric = measured.threshold.key.metric
        of_flow = OF_FLOW.get(metric.name)
        falls = of_flow is not None and of_flow.falls
        # What falls as the flow rises is at most its limit where the flow is at least what that asks for.
        at_most = (measured.threshold.comparator == "<=") is not falls
        outcome = mean.against(limit, at_most=at_most, alpha_fail=self._alpha_fail)
        if outcome is None:
            longer = mean.more_needed(limit)
            how = f"a window about {longer:,.1f}x as long would tell" if longer < 1000 else "too close to the limit to tell"
            return replace(measured, outcome=Outcome.INCONCLUSIVE, note=f"too few independent samples: {how}")
        bound = mean.bound(ALPHA if outcome is Outcome.PASS else self._alpha_fail)
        above = (outcome is Outcome.PASS) == at_most
        end = mean.value + bound if above else max(0.0, mean.value - bound)
        if falls:
            # As the flow, so the price, the other way round.
            above, end = not above, measured.estimate.value * mean.value / end if end > 0 else math.inf
        elif of_flow is not None and mean.value > 0:
            end *= measured.estimate.value / mean.value
        return replace(measured, outcome=outcome, note=f"at {'most' if above else 'least'} {shown(metric, end)}")


def _without_exception(measured: Check, series: Series, *, none_may: bool) -> Check:
    """A limit that no request may miss (a maximum), or that any one keeps (a minimum)."""
    beyond, n = int(np.count_nonzero(series.exceeds)), len(series)
    if none_may and beyond:
        note = f"{beyond:,} of {n:,} requests {'is' if beyond == 1 else 'are'} beyond the limit, and none may be"
        return replace(measured, outcome=Outcome.FAIL, note=note)
    if none_may:
        note = f"none of {n:,} requests is beyond the limit, but no number of them shows that none ever will be; limit a quantile"
        return replace(measured, outcome=Outcome.INCONCLUSIVE, note=note)
    if beyond < n:
        return replace(measured, outcome=Outcome.PASS, note="")
    return replace(
        measured, outcome=Outcome.INCONCLUSIVE, note=f"all of {n:,} requests are beyond the limit, but one may yet not"
    )


def _flow_at(limit: float, per_s: float, measured: float, *, falls: bool) -> float:
    """How much must flow a second for a metric that follows from the flow (``OF_FLOW``) to be at ``limit``.

    No flow makes what costs anything cost nothing.
    """
    if not falls:
        return per_s * limit / measured if measured > 0 else 0.0 if limit == 0 else math.inf
    if math.isinf(measured) or limit == 0:
        return 0.0 if measured == 0 else math.inf
    return per_s * measured / limit


def _too_short(flow: Flow) -> str | None:
    """Why a flow's window says nothing of its steadiness; None where it does."""
    needed_s = BLOCKS * SHORTEST_BLOCK_S
    if flow.window_s >= needed_s:
        return None
    return f"too few independent samples: needs a window of {format_duration(needed_s)} ({format_duration(flow.window_s)})"
