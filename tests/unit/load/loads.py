"""Short ways to say a workload and run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import Concurrency, LoadProfile
from pytest_llmperf.experiment.records import Lengths, Workload
from pytest_llmperf.load.engine import LoadOptions, run_load
from pytest_llmperf.load.plan import LoadPlan, SessionPlan, plan_load
from pytest_llmperf.load.records import LoadResult, Outcome
from pytest_llmperf.load.watch import Watch

WORKLOAD = Workload("w", "W", Lengths(12), Lengths(6), timeout=20.0)


def workload(**changes: object) -> Workload:
    """The tests' usual workload (12 tokens in, 6 out), changed."""
    return replace(WORKLOAD, **changes)  # type: ignore[arg-type]


def run(
    endpoint: Endpoint,
    profile: LoadProfile | None = None,
    duration_s: float | None = None,
    *,
    asked: Workload = WORKLOAD,
    warmup_s: float = 0.0,
    max_requests: int | None = None,
    seed: int = 1,
    options: LoadOptions | None = None,
    watch: Watch | None = None,
) -> LoadResult:
    """Run a load; without a profile: two users, four requests."""
    if profile is None:
        profile, max_requests = Concurrency(2), max_requests or 4
    plan = plan_load(profile, asked, duration_s, seed=seed, warmup_s=warmup_s, max_requests=max_requests)
    return run_load(plan, endpoint, options or LoadOptions(), watch=watch)


def check_shares(plan: LoadPlan, shares: Sequence[Sequence[SessionPlan]]) -> None:
    """Whether each worker has as many sessions as any other; in a closed loop, as any other with as many users."""
    users = [len(range(worker, plan.users or len(shares), len(shares))) for worker in range(len(shares))]
    # In whole rounds of all users each has one; of the last round, which may have ended early, at most one.
    rounds = len(list(plan.sessions())) // sum(users)
    assert all(0 <= len(share) - rounds * mine <= mine for share, mine in zip(shares, users, strict=True))


def outcomes(result: LoadResult) -> dict[Outcome, int]:
    """How many requests ended how."""
    counts: dict[Outcome, int] = {}
    for value in result.log.outcome:
        counts[Outcome(value)] = counts.get(Outcome(value), 0) + 1
    return counts
