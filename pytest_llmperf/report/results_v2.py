"""The results JSON, version 2. Strict JSON: a number that does not exist is null, never NaN or Infinity.

A reader of version 2 may rely on every field here; new fields may come, none goes or changes its meaning.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pytest_llmperf.report.results_parts import (
    BottleneckPart,
    ConfigurationPart,
    CostPart,
    Part,
    SeriesPart,
    ServerPart,
    ServerSeriesPart,
    ServerTimesPart,
)

__all__ = [
    "AchievedPart",
    "BottleneckPart",
    "CellPart",
    "ChangeName",
    "ChangePart",
    "CheckPart",
    "ClientPart",
    "ComparisonPart",
    "ConfigurationPart",
    "CostPart",
    "CountsPart",
    "DeploymentErrorPart",
    "DeploymentPart",
    "GradeName",
    "IsoTime",
    "LengthsPart",
    "MetricPart",
    "OutcomeName",
    "Part",
    "PhasePart",
    "RunDocument",
    "SeriesPart",
    "ServerPart",
    "ServerSeriesPart",
    "ServerTimesPart",
    "SessionDocument",
    "SlaPart",
    "SteadinessPart",
    "StoppedPart",
    "TimingPart",
    "Unbounded",
    "WorkerPart",
    "WorkloadPart",
]

Unbounded = Literal["value", "low", "high"]
OutcomeName = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
GradeName = Literal["target", "acceptable", "poor", "unacceptable"]
ChangeName = Literal["regressed", "improved", "unchanged", "noise", "new", "missing", "incomparable"]


def _instant(text: str) -> str:
    """The text, where it names an instant: a time without its zone is none. Raises ``ValueError``."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return text


IsoTime = Annotated[str, AfterValidator(_instant), Field(json_schema_extra={"format": "date-time"})]


class CellPart(Part):
    """The point of the matrix that was measured; ``count`` accelerators of one ``hardware`` name."""

    id: str
    platform: str
    hardware: str
    count: int
    method: str
    model: str
    variant: str


class LengthsPart(Part):
    """A distribution of token counts, as it was asked for."""

    distribution: str
    mean: int
    cv: float
    min: int
    max: int | None


class WorkloadPart(Part):
    """What was asked of the server."""

    name: str
    title: str
    api: str
    stream: bool
    ignore_eos: bool
    input: LengthsPart
    output: LengthsPart
    warmup_s: float
    timeout_s: float


class PhasePart(Part):
    """One stretch of the deployment's way to readiness."""

    name: str
    seconds: float


class DeploymentPart(Part):
    """What answered, and how it was made. Keys and tokens in ``command`` read ``***``."""

    target: str
    simulated: bool
    engine: str
    command: tuple[str, ...]
    phases: tuple[PhasePart, ...]
    ready_at: IsoTime | None = None
    """When it had answered: the end of the last phase."""


class TimingPart(Part):
    """When it happened. The window's bounds are seconds since ``started_at``; ``planned_s`` leaves the warm-up out.

    ``window_start_s`` is where the planned warm-up ends. Where that was lengthened (``steadiness``) counting begins later, and
    ``window_s`` is as much shorter.
    """

    started_at: IsoTime
    planned_s: float
    window_start_s: float
    window_end_s: float
    window_s: float
    interrupted: bool


class CountsPart(Part):
    """Requests scheduled in the window: total = ok + failed + cancelled. Those of the warm-up are apart."""

    total: int
    ok: int
    failed: int
    cancelled: int
    warmup: int


class MetricPart(Part):
    """A measured value in its unit, with its 95 % interval. null: unknown, or +infinity where ``unbounded`` names it."""

    title: str
    unit: str
    higher_is_better: bool
    value: float | None
    low: float | None
    high: float | None
    unbounded: tuple[Unbounded, ...]
    samples: int


class WorkerPart(Part):
    """What one worker of the load generator says of itself; times in seconds."""

    worker: int
    requests: int
    lateness_p50_s: float | None
    lateness_p99_s: float | None
    lateness_max_s: float | None
    loop_lag_p99_s: float | None
    loop_lag_max_s: float | None
    cpu_share: float | None
    connect_failures: int
    kernel_stamped_share: float | None = None
    """Of the token-bearing chunks, those whose arrival the kernel has timed; null where that was not told."""
    read_lag_p99_s: float | None = None
    """From the kernel's time of a chunk to the one at which the worker read it; null without the kernel's times."""


class AchievedPart(Part):
    """What the load made of its plan within the window; null where the plan has no such thing, or the window no length.

    ``planned_rate_per_s`` (open loop) and ``rate_per_s`` are requests due and sent per second; ``planned_in_flight`` (closed
    loop) the users, on average, ``mean_in_flight`` and ``peak_in_flight`` the requests that were sent and had not ended;
    ``busy_share`` (closed loop) what the client did not waste of its users' time by sending late.
    """

    planned_rate_per_s: float | None
    rate_per_s: float | None
    planned_in_flight: float | None
    mean_in_flight: float | None
    peak_in_flight: int | None
    busy_share: float | None


class ClientPart(Part):
    """The load generator's own health, and the reasons (if any) not to trust what it measured."""

    planned_requests: int
    sent_requests: int
    workers: tuple[WorkerPart, ...]
    notes: tuple[str, ...]
    distrust: tuple[str, ...]
    started_workers: int | None = None
    """Workers that drove the load; ``workers`` has those that lived to report."""
    achieved: AchievedPart | None = None
    limits: dict[str, float] = Field(default_factory=dict)
    """Up to where the client was trusted, by name; in seconds or as a fraction."""
    loosened: tuple[str, ...] = ()
    """Those of the limits that trust more than the defaults do: INVALID says less by them."""


class CheckPart(Part):
    """One threshold of the SLA. ``margin`` is measured / limit."""

    metric: str
    title: str
    unit: str
    required: str
    comparator: Literal["<=", ">="]
    limit: float
    measured: float | None
    low: float | None
    high: float | None
    unbounded: tuple[Unbounded, ...]
    samples: int
    margin: float | None
    outcome: OutcomeName
    note: str
    grade: GradeName | None = None
    """The best grade whose limit the measured value keeps, where the threshold is graded; ``unacceptable`` beyond them all."""


class SlaPart(Part):
    """The SLA the run was held against, threshold by threshold. ``gate``: the grade that had to be reached."""

    name: str
    policy: Literal["measured", "certain"] = "measured"
    gate: Literal["target", "acceptable"] = "target"
    outcome: OutcomeName
    reasons: tuple[str, ...]
    checks: tuple[CheckPart, ...]
    judged_at: IsoTime | None = None
    """When judging began, and how long it took."""
    judging_s: float | None = None


class SteadinessPart(Part):
    """Whether the run had a steady state; ``unstable`` says why not."""

    extra_warmup_s: float
    unstable: str


class StoppedPart(Part):
    """Why and when the load ended before its plan did; ``at_s`` in seconds since ``started_at``."""

    reason: str
    outcome: OutcomeName
    at_s: float
    saved_s: float


class ChangePart(Part):
    """One metric beside the baseline's; ``ratio`` is measured / baseline.

    ``low`` and ``high`` bound what ``scale`` names: the ratio, or the difference (measured - baseline, in the unit). They are a
    90 % interval, each end of which holds with 95 %; null: no bound is known there.
    """

    metric: str
    title: str
    unit: str
    higher_is_better: bool
    measured: float | None
    baseline: float | None
    unbounded: tuple[Literal["measured", "baseline"], ...] = ()
    """Which of the two is null because it is +infinity: so many requests failed."""
    ratio: float | None
    scale: Literal["ratio", "difference"] = "ratio"
    low: float | None
    high: float | None
    tolerance: str
    gated: bool
    verdict: ChangeName
    note: str


class ComparisonPart(Part):
    """The run, and the repetitions of it before, beside the baseline's runs of the same test.

    ``runs`` are the baseline's, by their ids. ``verdict`` is the worst of the gated metrics, where none is gated of those that
    are by default. ``differences``: what may differ and does, as ``was -> is``; where the verdict is ``incomparable``, what must
    not. ``note``: why nothing was compared, or what was assumed.
    """

    baseline: str
    runs: tuple[str, ...]
    repeats: int = 1
    """How many runs of this session were held against them."""
    verdict: ChangeName
    changes: tuple[ChangePart, ...]
    differences: dict[str, str]
    note: str = ""


class RunDocument(Part):
    """Everything that is kept of one run, but its requests."""

    kind: Literal["run"] = "run"
    schema_version: Literal["2"] = "2"
    run_id: str
    node_id: str
    simulated: bool
    cell: CellPart
    workload: WorkloadPart
    profile: str
    seed: int
    deployment: DeploymentPart
    timing: TimingPart
    counts: CountsPart
    errors: dict[str, int]
    metrics: dict[str, MetricPart]
    client: ClientPart
    profile_name: str = ""
    """The catalog's name of the profile, where it has one."""
    ordinal: int = 1
    """Which of its test's runs it is, from 1."""
    label: str = ""
    """Which part of an experiment of several runs it is; empty for a run that stands alone."""
    steadiness: SteadinessPart | None = None
    stopped: StoppedPart | None = None
    fingerprint: dict[str, str] = Field(default_factory=dict)
    """What must be equal in two runs for their comparison to mean anything."""
    context: dict[str, str] = Field(default_factory=dict)
    """What may differ between two runs that are compared, and is shown where it does."""
    comparison: ComparisonPart | None = None
    sla: SlaPart | None
    verdict: OutcomeName | None
    """The SLA's; INVALID also for a run without an SLA that cannot be trusted; null where nothing was judged."""
    configuration: ConfigurationPart
    series: SeriesPart | None = None
    server: ServerPart | None = None
    bottleneck: BottleneckPart | None = None
    cost: CostPart | None = None
    artifacts: dict[str, str]
    """Files that belong to the run, by what they are (``requests``, ``stats``); paths relative to the run's directory."""

    @property
    def test(self) -> str:
        """``test_meets_sla``: the test's name without its file and parameters."""
        return self.node_id.partition("[")[0].rpartition("::")[2]

    @property
    def counted_from_s(self) -> float:
        """When the requests begin that count, in seconds since it started: the warm-up is over, also one that was lengthened."""
        return self.timing.window_start_s + (self.steadiness.extra_warmup_s if self.steadiness is not None else 0.0)


class DeploymentErrorPart(Part):
    """A cell that never became ready, and why."""

    cell_id: str
    target: str
    error: str


class SessionDocument(Part):
    """One pytest session: its runs in the order they ended. ``simulated``: its target is the simulator."""

    kind: Literal["session"] = "session"
    schema_version: Literal["2"] = "2"
    created: IsoTime
    arguments: tuple[str, ...]
    target: str
    simulated: bool
    commit: str | None = None
    """The full hash of what was checked out in pytest's rootdir; null without git or a repository."""
    dirty: bool = False
    """Whether tracked files differed from the commit."""
    runs: tuple[RunDocument, ...]
    deployment_errors: tuple[DeploymentErrorPart, ...] = ()
