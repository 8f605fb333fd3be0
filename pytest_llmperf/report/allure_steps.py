"""The way of a test as Allure's steps: deploy, ready, warm-up, load, judge, each at the time it really had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.report.allure_attachments import Attachment
    from pytest_llmperf.report.results_v2 import DeploymentPart, OutcomeName, RunDocument

Status = Literal["passed", "failed", "broken"]
"""Allure's words: *failed* is what was measured, *broken* what could not be measured."""
_STATUSES: dict[OutcomeName, Status] = {"PASS": "passed", "FAIL": "failed", "INCONCLUSIVE": "failed", "INVALID": "broken"}
_READY_PHASES = frozenset({"cold start", "ready", "first completion"})
"""The phases of a deployment in which it is waited for; in those before them it is made."""


@dataclass(frozen=True)
class Step:
    """One stretch of a test. Instants are seconds since the epoch."""

    name: str
    started: float
    ended: float
    status: Status = "passed"
    message: str = ""
    """Why it did not pass."""
    parameters: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = ()
    attachments: tuple[Attachment, ...] = ()


def steps_of(
    documents: Sequence[RunDocument], attached: Sequence[tuple[Attachment, ...]], test_started: float
) -> tuple[Step, ...]:
    """The steps of a test that made these runs; ``attached`` is what belongs to each of them.

    One run's steps are the test's own. Of several runs each is a step, which holds its attachments.
    """
    if not documents:
        return ()
    deployed = tuple(deployment_steps(documents[0].deployment, test_started))
    if len(documents) == 1:
        return (*deployed, *run_steps(documents[0]))
    runs = (_whole_run(run, files, len(documents)) for run, files in zip(documents, attached, strict=True))
    return (*deployed, *runs)


def failed_deployment(started: float, ended: float, message: str) -> Step:
    """The one step of a test whose deployment never came up."""
    return Step("Deploy", started, ended, "broken", message)


def deployment_steps(part: DeploymentPart, test_started: float) -> Iterator[Step]:
    """``Deploy`` and ``Ready``; what an earlier test of the cell has waited for says so."""
    if part.ready_at is None:
        return
    phases: list[Step] = []
    ended = _seconds(part.ready_at)
    for phase in reversed(part.phases):
        phases.insert(0, Step(phase.name, ended - phase.seconds, ended))
        ended -= phase.seconds
    shared = " (before this test: the cell's tests share the deployment)" if _seconds(part.ready_at) < test_started else ""
    for name, is_ready in (("Deploy", False), ("Ready", True)):
        own = tuple(phase for phase in phases if (phase.name in _READY_PHASES) is is_ready)
        if own:
            yield Step(name + shared, own[0].started, own[-1].ended, steps=own)


def run_steps(run: RunDocument) -> Iterator[Step]:
    """``Warm-up`` (where there is one), ``Load`` and, where an SLA was held against the run, ``Judge``."""
    begins = _seconds(run.timing.started_at)
    if run.counted_from_s > 0:
        yield Step("Warm-up", begins, begins + run.counted_from_s)
    yield _load(run, begins)
    if run.sla is not None and run.sla.judged_at is not None:
        judged = _seconds(run.sla.judged_at)
        yield Step(
            f"Judge by the SLA {run.sla.name}: {run.sla.outcome}",
            judged,
            judged + (run.sla.judging_s or 0.0),
            _STATUSES[run.sla.outcome],
            "\n".join(run.sla.reasons),
        )


def _load(run: RunDocument, begins: float) -> Step:
    counts = run.counts
    distrust = run.client.distrust if run.sla is None else ()
    troubles = [*(["interrupted"] if run.timing.interrupted else []), *distrust]
    asked = (("profile", run.profile), ("seed", str(run.seed)))
    seen = (("requests", f"{counts.ok:,} ok, {counts.failed:,} failed"), ("window", format_duration(run.timing.window_s)))
    return Step(
        f"Load: {run.profile}",
        begins + run.counted_from_s,
        begins + run.timing.window_end_s,
        "broken" if troubles else "passed",
        "\n".join(troubles),
        (*asked, *seen),
    )


def _whole_run(run: RunDocument, files: tuple[Attachment, ...], of: int) -> Step:
    steps = tuple(run_steps(run))
    name = f"Run {run.ordinal} of {of}: {run.label or run.profile}"
    worst = max(steps, key=lambda step: ("passed", "failed", "broken").index(step.status))
    whole = Step(name, steps[0].started, steps[-1].ended, steps=steps, attachments=files)
    return replace(whole, status=worst.status, message=worst.message)


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
