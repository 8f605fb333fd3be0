"""A run and its verdict -> the document that is kept; documents <-> JSON; their JSON Schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import pydantic_core
from pydantic import Field, TypeAdapter

from pytest_llmperf.judge.fingerprint import context, fingerprint
from pytest_llmperf.judge.text import required_in_full
from pytest_llmperf.judge.verdict import request_limits
from pytest_llmperf.measure.compute import standard_keys
from pytest_llmperf.measure.trust import loosened, named_limits
from pytest_llmperf.report.configuration_part import configuration_part
from pytest_llmperf.report.cost_part import cost_part
from pytest_llmperf.report.migrate import migrated
from pytest_llmperf.report.redact import without_secrets
from pytest_llmperf.report.results_parts import finite
from pytest_llmperf.report.results_v2 import (
    AchievedPart,
    CellPart,
    CheckPart,
    ClientPart,
    CountsPart,
    DeploymentErrorPart,
    DeploymentPart,
    LengthsPart,
    MetricPart,
    OutcomeName,
    PhasePart,
    RunDocument,
    SessionDocument,
    SlaPart,
    SteadinessPart,
    StoppedPart,
    TimingPart,
    Unbounded,
    WorkerPart,
    WorkloadPart,
)
from pytest_llmperf.report.run_context import NO_SESSION, RunContext
from pytest_llmperf.report.series_part import series_part
from pytest_llmperf.report.server_part import bottleneck_part, server_part

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import DeploymentInfo
    from pytest_llmperf.experiment.records import Cell, Lengths, Workload
    from pytest_llmperf.judge.verdict import Check, Verdict
    from pytest_llmperf.load.records import Achieved, ClientHealth, WorkerHealth
    from pytest_llmperf.measure.run import Estimate, Run
    from pytest_llmperf.measure.trust import TrustLimits
    from pytest_llmperf.metrics import MetricKey
    from pytest_llmperf.report.commit import Commit

__all__ = [
    "DeploymentErrorPart",
    "Document",
    "RunDocument",
    "SessionDocument",
    "from_json",
    "iso_time",
    "judged_between",
    "run_document",
    "schema",
    "session_document",
    "to_json",
]

Document = RunDocument | SessionDocument
_DOCUMENT: TypeAdapter[Document] = TypeAdapter(Annotated[Document, Field(discriminator="kind")])


def iso_time(epoch_s: float) -> str:
    """Seconds since the epoch -> ``2025-03-01T12:00:00.250+00:00``."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")


def to_json(document: Document) -> str:
    """A document as strict JSON text, indented, with a newline at its end."""
    return document.model_dump_json(indent=2) + "\n"


def from_json(text: str | bytes) -> Document:
    """Read a run's or a session's document, of this version or an older one.

    Raises ``ValueError`` (also ``pydantic.ValidationError``) for what is neither, or was written by a newer version.
    """
    try:
        raw = pydantic_core.from_json(text)
    except ValueError:
        # Read in this way it is refused in the words of every other flaw.
        return _DOCUMENT.validate_json(text)
    return _DOCUMENT.validate_python(migrated(raw))


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of both documents; a test keeps ``docs/schema/results-2.json`` equal to it."""
    generated = _DOCUMENT.json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pytest-llmperf results, version 2", **generated}


def run_document(
    run: Run, verdict: Verdict | None, *, keys: Iterable[MetricKey] = (), session: RunContext = NO_SESSION
) -> RunDocument:
    """The document of a run: the standard metrics, those its SLA speaks of, and any further ``keys``.

    ``session`` is what only the run's session knows. Its artifacts are for whoever writes them to name.
    """
    identity = run.identity
    return RunDocument(
        run_id=identity.run_id,
        node_id=identity.node_id,
        simulated=identity.simulated,
        cell=_cell(identity.cell),
        workload=_workload(identity.workload),
        profile=identity.profile,
        seed=identity.seed,
        deployment=_deployment(run.deployment),
        timing=_timing(run),
        counts=CountsPart(**asdict(run.metrics.counts)),
        errors=run.metrics.errors,
        metrics=_metrics(run, verdict, keys),
        client=_client(run.result.health, run.invalid, run.trust),
        profile_name=identity.profile_name,
        fingerprint=fingerprint(identity.cell, identity.workload, identity.profile, run.deployment.target, identity.simulated),
        context=context(identity.cell, run.deployment),
        ordinal=identity.ordinal,
        label=identity.label,
        steadiness=SteadinessPart(**asdict(run.steadiness)),
        stopped=StoppedPart(**asdict(run.stopped)) if run.stopped is not None else None,
        sla=_sla(verdict) if verdict is not None else None,
        verdict=_outcome(run, verdict),
        configuration=configuration_part(run.deployment, session),
        series=series_part(run.result.log),
        server=server_part(run),
        bottleneck=bottleneck_part(run),
        cost=cost_part(run),
        artifacts={},
    )


def judged_between(document: RunDocument, began: float, ended: float) -> RunDocument:
    """The document of a run that was judged between two instants, in seconds since the epoch."""
    if document.sla is None:
        return document
    times = {"judged_at": iso_time(began), "judging_s": ended - began}
    return document.model_copy(update={"sla": document.sla.model_copy(update=times)})


def session_document(
    runs: Sequence[RunDocument],
    *,
    created: float,
    arguments: Sequence[str],
    target: str,
    simulated: bool,
    deployment_errors: Sequence[DeploymentErrorPart] = (),
    commit: Commit | None = None,
) -> SessionDocument:
    """The document of a session. ``created``: seconds since the epoch. Secrets in ``arguments`` are masked."""
    return SessionDocument(
        created=iso_time(created),
        arguments=without_secrets(arguments),
        target=target,
        simulated=simulated,
        commit=commit.hash if commit is not None else None,
        dirty=commit is not None and commit.dirty,
        runs=tuple(runs),
        deployment_errors=tuple(deployment_errors),
    )


def _unbounded(estimate: Estimate) -> tuple[Unbounded, ...]:
    parts: tuple[tuple[Unbounded, float], ...] = (
        ("value", estimate.value),
        ("low", estimate.low),
        ("high", estimate.high),
    )
    return tuple(name for name, value in parts if value == math.inf)


def _cell(cell: Cell) -> CellPart:
    return CellPart(
        id=cell.id,
        platform=cell.platform.name,
        hardware=cell.hardware.name,
        count=cell.hardware.count,
        method=cell.method.name,
        model=cell.model.name,
        variant=cell.variant.name,
    )


def _lengths(lengths: Lengths) -> LengthsPart:
    return LengthsPart(distribution=lengths.distribution, mean=lengths.mean, cv=lengths.cv, min=lengths.min, max=lengths.max)


def _workload(workload: Workload) -> WorkloadPart:
    return WorkloadPart(
        name=workload.name,
        title=workload.title,
        api=workload.api,
        stream=workload.stream,
        ignore_eos=workload.ignore_eos,
        input=_lengths(workload.input),
        output=_lengths(workload.output),
        warmup_s=workload.warmup,
        timeout_s=workload.timeout,
    )


def _deployment(info: DeploymentInfo) -> DeploymentPart:
    return DeploymentPart(
        target=info.target,
        simulated=info.simulated,
        engine=info.engine,
        command=without_secrets(info.command),
        phases=tuple(PhasePart(name=phase.name, seconds=phase.seconds) for phase in info.phases),
        ready_at=iso_time(info.ready_at),
    )


def _timing(run: Run) -> TimingPart:
    result = run.result
    return TimingPart(
        started_at=iso_time(result.started_at),
        planned_s=run.identity.duration_s,
        window_start_s=result.window_start_s,
        window_end_s=result.window_end_s,
        window_s=run.metrics.window_s,
        interrupted=result.interrupted,
    )


def _metrics(run: Run, verdict: Verdict | None, keys: Iterable[MetricKey]) -> dict[str, MetricPart]:
    checks = verdict.checks if verdict is not None else ()
    wanted = {key.name: key for key in (*standard_keys(), *(check.threshold.key for check in checks), *keys)}
    # Goodput exists only against limits, and the SLA has them whether or not it speaks of goodput.
    goodput = run.metrics.goodput(request_limits(check.threshold for check in checks))
    return {
        name: _metric(key, goodput if key.metric.name == "goodput" else run.metrics.estimate(key)) for name, key in wanted.items()
    }


def _metric(key: MetricKey, estimate: Estimate) -> MetricPart:
    return MetricPart(
        title=key.title,
        unit=key.metric.unit.value,
        higher_is_better=key.metric.higher_is_better,
        value=finite(estimate.value),
        low=finite(estimate.low),
        high=finite(estimate.high),
        unbounded=_unbounded(estimate),
        samples=estimate.samples,
    )


def _client(health: ClientHealth, distrust: tuple[str, ...], limits: TrustLimits) -> ClientPart:
    return ClientPart(
        planned_requests=health.planned_requests,
        sent_requests=health.sent_requests,
        workers=tuple(_worker(worker) for worker in health.workers),
        notes=health.notes,
        distrust=distrust,
        started_workers=health.started_workers,
        achieved=_achieved(health.achieved),
        limits=named_limits(limits),
        loosened=loosened(limits),
    )


def _achieved(achieved: Achieved) -> AchievedPart:
    # A worker that proved nothing of its lateness leaves a share that is nan.
    busy = achieved.busy_share
    return AchievedPart(**{**asdict(achieved), "busy_share": None if busy is None else finite(busy)})


def _worker(health: WorkerHealth) -> WorkerPart:
    return WorkerPart(
        worker=health.worker,
        requests=health.requests,
        lateness_p50_s=finite(health.lateness_p50_s),
        lateness_p99_s=finite(health.lateness_p99_s),
        lateness_max_s=finite(health.lateness_max_s),
        loop_lag_p99_s=finite(health.loop_lag_p99_s),
        loop_lag_max_s=finite(health.loop_lag_max_s),
        cpu_share=finite(health.cpu_share),
        connect_failures=health.connect_failures,
        kernel_stamped_share=finite(health.kernel_stamped_share),
        read_lag_p99_s=finite(health.read_lag_p99_s) if health.kernel_stamped_share else None,
    )


def _sla(verdict: Verdict) -> SlaPart:
    return SlaPart(
        name=verdict.sla_name,
        policy=verdict.policy.value,
        gate=verdict.gate,
        outcome=verdict.outcome.value,
        reasons=verdict.reasons,
        checks=tuple(_check(check) for check in verdict.checks),
    )


def _check(check: Check) -> CheckPart:
    key, estimate = check.threshold.key, check.estimate
    return CheckPart(
        metric=key.name,
        title=key.title,
        unit=key.metric.unit.value,
        required=required_in_full(check.threshold),
        comparator=check.threshold.comparator,
        limit=check.threshold.limit,
        measured=finite(estimate.value),
        low=finite(estimate.low),
        high=finite(estimate.high),
        unbounded=_unbounded(estimate),
        samples=estimate.samples,
        margin=finite(check.margin),
        outcome=check.outcome.value,
        grade=check.grade,
        note=check.note,
    )


def _outcome(run: Run, verdict: Verdict | None) -> OutcomeName | None:
    if verdict is not None:
        return verdict.outcome.value
    return "INVALID" if run.invalid else None
