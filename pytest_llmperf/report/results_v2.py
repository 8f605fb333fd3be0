"""The results JSON, version 2. Strict JSON: a number that does not exist is null, never NaN or Infinity.

A reader of version 2 may rely on every field here; new fields may come, none goes or changes its meaning.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Unbounded = Literal["value", "low", "high"]
OutcomeName = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
GradeName = Literal["target", "acceptable", "poor", "unacceptable"]
ChangeName = Literal["regressed", "improved", "unchanged", "noise", "new", "missing", "incomparable"]
IsoTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Part(BaseModel):
    """What all parts of a document share: frozen, finite; a field that a later writer added is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


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


class TimingPart(Part):
    """When it happened. The window's bounds are seconds since ``started_at``; ``planned_s`` leaves the warm-up out."""

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


class ConfigurationPart(Part):
    """How everything was set up: enough to do it again, and to say later why two runs differ.

    ``settings`` are the session's, by their names (``policy``), as they were resolved; ``environment`` has those of the client's
    variables that an allow-list names. Neither holds a secret. ``packages`` and ``client_platform`` are of the machine that made
    the load.
    """

    settings: dict[str, str]
    environment: dict[str, str]
    packages: dict[str, str]
    client_platform: str
    commit: str | None = None
    """The full hash of what was checked out in pytest's rootdir; null without git or a repository."""
    dirty: bool = False
    """Whether tracked files differed from the commit."""
    engine_version: str | None = None
    engine_arguments: tuple[str, ...] = ()
    """The engine's own, without the command that they follow; keys and tokens read ``***``."""
    image: str | None = None
    image_digest: str | None = None
    gpu: str | None = None
    """The accelerator as the machine or the node names it; null where nobody says."""
    driver: str | None = None
    manifests: tuple[str, ...] = ()
    """What was applied, as YAML documents; secrets in them read ``***``."""


class SeriesPart(Part):
    """The run over time, warm-up included: bins of ``step_s`` from ``start_s``, both in seconds since ``started_at``.

    Every list has one value a bin. Counts are per second; ``in_flight`` is a mean; latencies, in seconds, are of the requests
    that ended well in the bin (TTFT: whose first token arrived in it), null where there was none.
    """

    start_s: float
    step_s: float
    sent_per_s: tuple[float, ...]
    ok_per_s: tuple[float, ...]
    failed_per_s: tuple[float, ...]
    output_tokens_per_s: tuple[float, ...]
    in_flight: tuple[float, ...]
    ttft_p50_s: tuple[float | None, ...]
    ttft_p99_s: tuple[float | None, ...]
    tpot_p50_s: tuple[float | None, ...]
    tpot_p99_s: tuple[float | None, ...]
    e2e_p50_s: tuple[float | None, ...]
    e2e_p99_s: tuple[float | None, ...]


class ServerTimesPart(Part):
    """One of the engine's own histograms over the window, in seconds; quantiles interpolated within its buckets.

    ``resolution_s`` is the width of the bucket in which p99 lies: it is known no better than that.
    """

    count: int
    mean_s: float
    p50_s: float | None
    p99_s: float | None
    resolution_s: float | None = None


class ServerSeriesPart(Part):
    """What the server said of itself, sample by sample: ``at_s`` in seconds since ``started_at``; null: not said then.

    ``values`` by name: ``running``, ``waiting``, ``kv_cache_usage`` (a fraction), ``prompt_tokens_per_s``,
    ``generation_tokens_per_s``, ``preemptions_per_s``, ``prefix_cache_hit_rate``; where they are known ``gpu_utilisation``,
    ``gpu_power_w``, ``gpu_memory_bytes``, ``cpu_cores``, ``memory_bytes``.
    """

    at_s: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]


class ServerPart(Part):
    """The server's side of the window. null where it does not say.

    ``source`` is where it was read: ``metrics`` (its own ``/metrics``, once a second) or ``prometheus``.
    """

    source: Literal["metrics", "prometheus"]
    samples: int
    failed_samples: int = 0
    running_mean: float | None = None
    running_max: float | None = None
    waiting_mean: float | None = None
    waiting_max: float | None = None
    kv_cache_usage_mean: float | None = None
    kv_cache_usage_max: float | None = None
    prefix_cache_hit_rate: float | None = None
    preemptions: int | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    gpu_utilisation_mean: float | None = None
    gpu_power_w: float | None = None
    """All of the cell's accelerators together, on average."""
    times: dict[str, ServerTimesPart] = Field(default_factory=dict)
    """``ttft``, ``itl``, ``e2e``, ``queue``, ``prefill``, ``decode``."""
    series: ServerSeriesPart | None = None
    notes: tuple[str, ...] = ()


class BottleneckPart(Part):
    """What the run waited for, and what shows it. ``none``: nothing was short; ``unknown``: too little is known to say."""

    kind: Literal["queueing", "kv_cache", "prefill", "decode", "client", "none", "unknown"]
    evidence: str


class CostPart(Part):
    """What the run's work cost, in US dollars, at a price of the price book; null where nothing was done to divide by.

    Input is the prompts' tokens, output the answers'; both are priced by all of the cell's cost, each as if it were alone: they
    say what a million of them costs at this mix, and do not add up. ``total`` is of both together.
    """

    price_per_gpu_hour: float
    price_per_hour: float
    """Of all the cell's accelerators."""
    source: str
    date: str
    """When the price was read."""
    per_million_input_tokens: float | None
    per_million_output_tokens: float | None
    per_million_total_tokens: float | None
    output_tokens_per_dollar: float | None
    requests_per_gpu_hour: float | None
    joules_per_output_token: float | None = None
    """null where the accelerators' power is not known."""


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
