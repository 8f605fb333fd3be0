"""How many processes a plan needs to be driven in time. The plan is the same whatever their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.schedule import peak_per_s

TOKENS_PER_S = 40_000.0
"""Streamed tokens that one worker reads in a second at about a quarter of a core: what is left takes the bursts."""
REQUESTS_PER_S = 2_000.0
"""Requests that one worker writes and sends in a second, at about half of a core."""
USERS = 500.0
"""Users of a closed loop for one worker: at 40 tokens a second each they read 20,000. A server sets their pace, not the plan."""
_SLACK = 0.05
"""Of one worker's work: so little more is not worth another process."""


@dataclass(frozen=True)
class CrewSize:
    """``workers`` that are used; ``note`` says where those are fewer than the plan, or somebody, asks for."""

    workers: int
    note: str = ""


def crew_size(plan: LoadPlan, workers: int | None, cores: int) -> CrewSize:
    """``workers`` where somebody has chosen, else the default for the plan on ``cores``; never one that has nothing to do."""
    wanted = wanted_workers(plan) if workers is None else workers
    if wanted > 1 and not plan.is_divisible:
        return CrewSize(1, f"1 of {wanted} workers used: a number of requests cannot be shared out while users are still to come")
    if workers is None:
        used = min(wanted, max(1, cores))
        note = f"{used} of {wanted} load workers that the plan asks for: no more cores are free" if used < wanted else ""
        return CrewSize(used, note)
    most, of_what = _most_at_work(plan)
    if most < workers:
        return CrewSize(most, f"{most} of {workers} workers used: there are no more {of_what}")
    return CrewSize(workers)


def wanted_workers(plan: LoadPlan) -> int:
    """The workers that the plan asks for, however many cores there are."""
    if not plan.open_loop:
        users = plan.users if plan.max_sessions is None else min(plan.users, plan.max_sessions)
        return _for(users / USERS)
    tokens_per_s = (plan.planned_tokens_per_s or 0.0) if plan.workload.stream else 0.0
    return max(_for(tokens_per_s / TOKENS_PER_S), _for(_peak_requests_per_s(plan) / REQUESTS_PER_S))


def _most_at_work(plan: LoadPlan) -> tuple[int, str]:
    """How many workers a plan can keep busy, and what each of them needs one of."""
    sessions = "planned requests" if plan.workload.turns is None else "planned sessions"
    if plan.open_loop:
        return max(len(plan.arrivals_s), len(plan.warmup_arrivals_s)), sessions
    if plan.max_sessions is not None and plan.max_sessions < plan.users:
        return plan.max_sessions, sessions
    return plan.users, "users"


def _for(shares: float) -> int:
    """Workers for so many times what one can do."""
    return max(1, math.ceil(shares - _SLACK))


def _peak_requests_per_s(plan: LoadPlan) -> float:
    """The most requests that are planned for one second; a session's later turns count with its first."""
    turns = plan.workload.turns.count.mean if plan.workload.turns is not None else 1
    return peak_per_s(plan.arrivals_s, np.full(len(plan.arrivals_s), float(turns)))
