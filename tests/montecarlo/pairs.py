"""A/B sessions in virtual time: two servers on a machine whose speed wanders, judged pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import mannwhitneyu

from pytest_llmperf.judge.paired import judge_pairs
from pytest_llmperf.judge.verdict import Outcome
from tests.montecarlo.crowd import Crowd
from tests.montecarlo.systems import Floats, System, simulate

MARGIN = 0.05
PAIRS_MAX = 8
_RISK = 0.05
_RUN_NOISE, _DRIFT = 0.02, 0.01
"""Standard deviations of the machine's speed: of each run on its own, and of its random walk from run to run."""


@dataclass(frozen=True)
class Session:
    """How one A/B session ended."""

    outcome: Outcome
    pairs: int
    """How many it took."""
    load_s: float
    """Seconds of load on both servers together."""
    first_log_ratio: float
    """Of the first pair, which every session has."""
    pooled_alarm: bool
    """Whether Mann-Whitney's test on the pooled requests of all pairs calls B slower at 5 %."""


@dataclass(frozen=True)
class Sessions:
    """What many sessions with the same two servers came to."""

    slowdown: float
    """B's step times over A's."""
    effect: float
    """How much more B's quantile is: the mean over the sessions' first pairs, 0.1 for +10 %."""
    sessions: int
    passed: int
    failed: int
    pooled_alarms: int
    mean_pairs: float
    mean_load_s: float


def compare(system: System, slowdown: float, sessions: int, n_requests: int, *, processes: int = 1) -> Sessions:
    """Run so many ABAB sessions of A against B, which is slower by ``slowdown``, and count how they end."""
    with Crowd(processes) as crowd:
        ended = crowd.run(_session, [(system, slowdown, n_requests, seed) for seed in range(sessions)])
    outcomes = [session.outcome for session in ended]
    return Sessions(
        slowdown=slowdown,
        effect=float(np.expm1(np.mean([session.first_log_ratio for session in ended]))),
        sessions=sessions,
        passed=outcomes.count(Outcome.PASS),
        failed=outcomes.count(Outcome.FAIL),
        pooled_alarms=sum(session.pooled_alarm for session in ended),
        mean_pairs=float(np.mean([session.pairs for session in ended])),
        mean_load_s=float(np.mean([session.load_s for session in ended])),
    )


def _session(system: System, slowdown: float, n_requests: int, seed: int) -> Session:
    machine = _machine(np.random.default_rng((seed, 7)), 2 * PAIRS_MAX)
    before: list[Floats] = []
    after: list[Floats] = []
    log_ratios: list[float] = []
    load_s, outcome = 0.0, Outcome.INCONCLUSIVE
    for pair in range(PAIRS_MAX):
        slots = (2 * pair, 2 * pair + 1) if pair % 2 == 0 else (2 * pair + 1, 2 * pair)
        for side, slot, factor in ((before, slots[0], 1.0), (after, slots[1], slowdown)):
            server = replace(system.server, slowdown=factor * machine[slot])
            run = simulate(system, n_requests, 1000 * seed + pair, server)
            side.append(run.latencies["tpot"])
            load_s += float(run.known_s[-1])
        log_ratios.append(float(np.log(np.quantile(after[-1], 0.95) / np.quantile(before[-1], 0.95))))
        verdict = judge_pairs(log_ratios, MARGIN, PAIRS_MAX)
        if verdict.outcome is not None:
            outcome = verdict.outcome
            break
    return Session(outcome, len(log_ratios), load_s, log_ratios[0], _pooled_alarm(before, after))


def _machine(draw: np.random.Generator, slots: int) -> list[float]:
    """How slow the machine is in each slot of a session: every run has its own luck, and the mean wanders."""
    wander = np.cumsum(draw.normal(0, _DRIFT, slots))
    factors: list[float] = np.exp(wander + draw.normal(0, _RUN_NOISE, slots)).tolist()
    return factors


def _pooled_alarm(before: Sequence[Floats], after: Sequence[Floats]) -> bool:
    test = mannwhitneyu(np.concatenate(after), np.concatenate(before), alternative="greater")
    return bool(test.pvalue <= _RISK)
