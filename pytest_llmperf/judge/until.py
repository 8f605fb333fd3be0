"""When a load has said enough: what settles an SLA's verdict while it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.judge.policy import Policy, Settled
from pytest_llmperf.judge.questions import Question, questions_of
from pytest_llmperf.judge.replay import LOOK_EVERY_S, LOOKS, gross_ruling
from pytest_llmperf.judge.sequential import ALPHA, GROSS, Ruling, evidence_of, is_gross, rule
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.judge.wording import decided
from pytest_llmperf.measure.steady import LOOK_EVERY_S as BACKLOG_EVERY_S
from pytest_llmperf.measure.steady import extra_warmup, growth_sentence, is_speeding_up, overload_since

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Sla
    from pytest_llmperf.load.plan import LoadPlan
    from pytest_llmperf.measure.observations import Observations


_GETS_WARM_S = 8.0
"""In so many seconds the beginning of a cold server and of an overloaded one look the same: slow, and no answer to compare."""


def counted_requests(plan: LoadPlan) -> int | None:
    """How many requests a load will count at most; None where that depends on the answers: in a closed loop, and where a
    session has turns."""
    return len(plan.arrivals_s) if plan.open_loop and plan.workload.turns is None else None


def _soonest_s(plan: LoadPlan) -> float:
    """Before when, in seconds since the run's start, no limit is called missed."""
    if plan.window_end_s is None:
        return _GETS_WARM_S
    # What is cut from a window as its warm-up is at most its first half.
    return min(_GETS_WARM_S, (plan.window_start_s + plan.window_end_s) / 2)


class Until:
    """Watches one load for one SLA. Ask it about once a second; the first verdict it gives is the last.

    Under both policies FAIL is settled by the paths that dependence cannot mislead: twenty times too many requests beyond a
    limit, a gross miss over 2,000 requests, or a backlog that grows. Under ``measured`` also once no further request could mend
    the measured value; under ``certain`` by the sequential test, and PASS once it passes every threshold at the same look.
    Requests of a lengthened warm-up do not count, and but for the backlog nothing is settled while the warm-up may yet lengthen.
    The beginning of a load that changes (stages, a ramp of users, a trace) tells nothing of the rest: it is settled only where no
    further request could mend what is missed.
    """

    def __init__(self, sla: Sla, policy: Policy, plan: LoadPlan) -> None:
        self._policy = policy
        self._window_start_s = plan.window_start_s
        # Where the rate itself may grow, the backlog grows with it.
        self._asks_backlog = plan.has_one_rate
        self._is_stationary = plan.is_stationary
        self._soonest_s = _soonest_s(plan)
        self._planned = counted_requests(plan)
        self._questions = questions_of(sla)
        self._asked = [question for question in self._questions if question is not None]
        self._alpha_fail = ALPHA / len(sla.thresholds)
        self._next_look_s = self._next_backlog_s = -math.inf
        self._next_look_at = 0

    def look(self, observations: Observations) -> Settled | None:
        """Whether everything seen so far settles the verdict."""
        found = next(self._found(observations), None)
        return Settled(*found, at_s=observations.now_s) if found is not None else None

    def _found(self, seen: Observations) -> Iterator[tuple[Outcome, str]]:
        """What settles it, the cheapest to find first: an outcome and its sentence."""
        if not self._is_stationary:
            for question in self._asked:
                if (why := self._lost_by_count(question, seen)) is not None:
                    yield Outcome.FAIL, f"{question.name}: {why}"
            return
        settling = extra_warmup(seen, self._window_start_s)
        steady = seen.counted_from(self._window_start_s + settling.extra_warmup_s)
        may_be_cold = seen.now_s < self._soonest_s or is_speeding_up(steady)
        if not may_be_cold:
            for question in self._asked:
                if (why := self._lost(question, steady)) is not None:
                    yield Outcome.FAIL, f"{question.name}: {why}"
        if self._asks_backlog and seen.now_s >= self._next_backlog_s:
            self._next_backlog_s = seen.now_s + BACKLOG_EVERY_S
            if (since_s := overload_since(seen)) is not None:
                yield Outcome.FAIL, f"unstable: no steady state, {growth_sentence(seen, since_s)}"
        if not may_be_cold and self._is_due(seen):
            yield from self._by_evidence(steady, is_settled=not settling.unstable)

    def _lost(self, question: Question, seen: Observations) -> str | None:
        """Why a threshold cannot be kept any more, by rules that may be asked at any time."""
        series = question.series(seen)
        if (gross := gross_ruling(series, question.p0)) is not None:
            return decided(gross, question.p0)
        return self._lost_by_count(question, seen)

    def _lost_by_count(self, question: Question, seen: Observations) -> str | None:
        """Why a threshold cannot be kept any more, whatever is still to come."""
        series = question.series(seen)
        if self._policy is Policy.CERTAIN:
            beyond = int(np.count_nonzero(series.exceeds))
            return f"{beyond:,} of {len(series):,} requests beyond the limit, none may be" if question.p0 <= 0 < beyond else None
        beyond, most = question.beyond(seen), self._planned
        if most is not None and question.is_lost(beyond, most):
            verb = "request is" if beyond == 1 else "requests are"
            return f"{beyond:,} {verb} beyond the limit: missed even if every other of the {most:,} planned keeps it"
        return None

    def _is_due(self, seen: Observations) -> bool:
        """Looks at the evidence are rarer: every fortieth of the planned requests or 5 s, whichever is longer."""
        counted = int(np.count_nonzero(seen.counted))
        if seen.now_s < self._next_look_s or counted < self._next_look_at:
            return False
        self._next_look_s = seen.now_s + LOOK_EVERY_S
        self._next_look_at = counted + math.ceil((self._planned or 0) / LOOKS)
        return True

    def _by_evidence(self, steady: Observations, *, is_settled: bool) -> Iterator[tuple[Outcome, str]]:
        if self._policy is not Policy.CERTAIN or not is_settled:
            yield from self._gross(steady)
            return
        rulings = [(question, self._rule(question, steady)) for question in self._asked]
        for question, ruling in rulings:
            if ruling.outcome is Outcome.FAIL:
                yield Outcome.FAIL, f"{question.name}: {decided(ruling, question.p0, self._alpha_fail)}"
        if len(rulings) == len(self._questions) and all(ruling.outcome is Outcome.PASS for _, ruling in rulings):
            kept = "; ".join(_passed(question, ruling) for question, ruling in rulings)
            yield Outcome.PASS, f"every limit is kept: {kept}"

    def _gross(self, seen: Observations) -> Iterator[tuple[Outcome, str]]:
        for question in self._asked:
            series = question.series(seen)
            if 0 < question.p0 < 1 and is_gross(series.exceeds, question.p0, self._alpha_fail):
                evidence = evidence_of(series.exceeds, series.values, series.in_flight, question.p0)
                yield Outcome.FAIL, f"{question.name}: {decided(Ruling(Outcome.FAIL, GROSS, evidence), question.p0)}"

    def _rule(self, question: Question, seen: Observations) -> Ruling:
        series = question.series(seen)
        if 0 < question.p0 < 1:
            ruling = rule(series.exceeds, series.values, series.in_flight, question.p0, alpha_fail=self._alpha_fail)
            return ruling if ruling.outcome is not Outcome.PASS or question.may_pass(seen) else replace(ruling, outcome=None)
        # A minimum is kept by any one request; that a maximum is kept, no number of requests shows.
        kept = question.p0 >= 1 and bool((series.exceeds == 0).any())
        return Ruling(Outcome.PASS if kept else None, "", None)


def _passed(question: Question, ruling: Ruling) -> str:
    return f"{question.name}, {decided(ruling, question.p0)}" if ruling.evidence is not None else question.name
