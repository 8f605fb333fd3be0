"""Error rates of verdicts: many runs of a system, each judged against limits on both sides of the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from pytest_llmperf.judge.verdict import Outcome
from tests.montecarlo.crowd import Crowd
from tests.montecarlo.policies import POLICIES, Decision, Question
from tests.montecarlo.systems import System, Trace, simulate

QUESTIONS = (Question("ttft", 0.99), Question("ttft", 0.95), Question("tpot", 0.95), Question("e2e", 0.99))
RATIOS = (0.7, 0.9, 1.0, 1.1, 1.5)
"""True quantile over limit: below 1 the server keeps the limit, above 1 it misses it, at 1 each verdict is a coin's worth."""


@dataclass(frozen=True)
class Tally:
    """What many runs of the same system were told by one policy against one limit."""

    runs: int
    passed: int
    failed: int
    mean_s: float
    """Seconds of load until the decision; the whole run where there was none."""

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Tally:
        """Count outcomes and average the seconds."""
        outcomes = [decision.outcome for decision in decisions]
        seconds = float(np.mean([decision.at_s for decision in decisions]))
        return cls(len(decisions), outcomes.count(Outcome.PASS), outcomes.count(Outcome.FAIL), seconds)


@dataclass(frozen=True)
class Row:
    """One cell of the study: a system, a metric's quantile and how it lies to the limit, judged by every policy."""

    system: System
    question: Question
    ratio: float
    true_s: float
    """The quantile over all runs."""
    tallies: dict[str, Tally]
    """By the name of the policy."""

    def wrong(self, policy: str, outcome: Outcome) -> int | None:
        """How often the policy gave this verdict where the truth forbids it; None where the truth allows it."""
        tally = self.tallies[policy]
        if outcome is Outcome.PASS:
            return tally.passed if self.ratio >= 1 else None
        return tally.failed if self.ratio <= 1 else None


def study(systems: Sequence[System], runs: int, budget: int, *, processes: int = 1) -> list[Row]:
    """Simulate ``runs`` runs of ``budget`` requests on each system, and judge each of them against every limit."""
    with Crowd(processes) as crowd:
        return [row for system in systems for row in _rows(crowd, system, runs, budget)]


def _rows(crowd: Crowd, system: System, runs: int, budget: int) -> Iterator[Row]:
    traces = crowd.run(simulate, [(system, budget, seed) for seed in range(runs)])
    truths = {question: _true_quantile(traces, question) for question in QUESTIONS}
    judged = crowd.run(_judge, [(trace, truths) for trace in traces])
    for question, true_s in truths.items():
        for ratio in RATIOS:
            tallies = {policy: Tally.of([run[question, ratio, policy] for run in judged]) for policy in POLICIES}
            yield Row(system, question, ratio, true_s, tallies)


def _true_quantile(traces: Sequence[Trace], question: Question) -> float:
    pooled = np.concatenate([trace.latencies[question.metric] for trace in traces])
    return float(np.quantile(pooled, question.quantile, method="inverted_cdf"))


def _judge(trace: Trace, truths: dict[Question, float]) -> dict[tuple[Question, float, str], Decision]:
    return {
        (question, ratio, name): policy(trace, question, true_s / ratio)
        for question, true_s in truths.items()
        for ratio in RATIOS
        for name, policy in POLICIES.items()
    }


def most_allowed(runs: int, rate: float) -> int:
    """Errors in so many runs that a policy whose true rate is ``rate`` exceeds with a probability below 0.1 %."""
    return int(binom.ppf(0.999, runs, rate))
