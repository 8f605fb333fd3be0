"""The one door to a verdict, whatever the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmperf.judge.certain import judge_certain
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.questions import questions_of
from pytest_llmperf.judge.replay import gross_ruling
from pytest_llmperf.judge.verdict import Outcome, judge
from pytest_llmperf.measure.observations import observations
from pytest_llmperf.measure.steady import is_warming_up

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Sla
    from pytest_llmperf.judge.verdict import Verdict
    from pytest_llmperf.measure.run import Run


def judge_run(run: Run, sla: Sla, policy: Policy) -> Verdict:
    """Hold a run against an SLA under a policy. ``sla`` need not be the one until which the load ran."""
    if policy is Policy.CERTAIN:
        return judge_certain(run, sla)
    stopped = run.stopped if _is_settled(run, sla) else None
    return judge(run.metrics, sla, run.invalid, steadiness=run.steadiness, stopped=stopped)


def _is_settled(run: Run, sla: Sla) -> bool:
    """Whether what ended the load fails this SLA as well: its backlog grew, or too many requests miss a limit of this one."""
    if run.stopped is None or run.stopped.outcome != Outcome.FAIL:
        return False
    if run.steadiness.unstable and not is_warming_up(run.steadiness):
        return True
    seen = observations(run.result, run.steadiness.extra_warmup_s)
    return any(q is not None and 0 < q.p0 < 1 and gross_ruling(q.series(seen), q.p0) is not None for q in questions_of(sla))
