"""The ``load`` fixture: drives one load, keeps what was measured, and gives the test a run it can judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from time import time
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4
from zlib import crc32

from pytest_llmperf.deploy.base import check_standing
from pytest_llmperf.errors import ConfigError, LlmperfError, LoadError, UnitError, Where
from pytest_llmperf.experiment.catalog import Catalog
from pytest_llmperf.judge.policy import Policy, Settled
from pytest_llmperf.measure.server_sources import ITS_OWN_PAGE, ServerSources
from pytest_llmperf.measure.trust import DEFAULT_LIMITS, TrustLimits
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.plugin.asserted import Rules, asserted
from pytest_llmperf.plugin.cells import SlaGiven, sla_given
from pytest_llmperf.report.run_context import NO_SESSION, RunContext
from pytest_llmperf.units import format_duration, parse_duration

if TYPE_CHECKING:
    import pandas

    from pytest_llmperf.deploy.base import Deployment
    from pytest_llmperf.experiment.profile import LoadProfile
    from pytest_llmperf.experiment.records import NamedProfile, Price, Workload
    from pytest_llmperf.experiment.sla import Sla
    from pytest_llmperf.judge.verdict import Verdict
    from pytest_llmperf.load.plan import LoadPlan
    from pytest_llmperf.load.records import LoadResult, RequestLog
    from pytest_llmperf.load.watch import Sighting
    from pytest_llmperf.load.worker_process import SpareWorkers
    from pytest_llmperf.measure.compute import Metrics
    from pytest_llmperf.measure.cost import Cost
    from pytest_llmperf.measure.run import Run, RunIdentity, Steadiness, Stopped
    from pytest_llmperf.measure.server_watch import Told, Watching
    from pytest_llmperf.plugin.progress import ProgressLine
    from pytest_llmperf.report.document import RunDocument

ReadSla = Callable[[object, Where], "Sla"]
"""Called with what a test gives for an SLA, and where: the SLA. Raises ``ConfigError``."""
_WITHOUT_CATALOG: ReadSla = partial(sla_given, catalog=Catalog())


class Keep(Protocol):
    """Called with a run's document whenever it changes, at first with its requests: stores them at once and remembers the former
    for the session's reports."""

    def __call__(self, document: RunDocument, log: RequestLog | None = None) -> None: ...


class SlaMissError(AssertionError):
    """A run did not meet its SLA; the message is the table. An assertion, so that the test *fails*."""

    def __init__(self, verdict: Verdict, table: str) -> None:
        self.verdict = verdict
        super().__init__(table)


@dataclass(frozen=True)
class LoadRun:
    """One measured run, as a test sees it."""

    run: Run
    keep: Keep = field(repr=False)
    rules: Rules = field(default=Rules(), repr=False)
    read_sla: ReadSla = field(default=_WITHOUT_CATALOG, repr=False)
    session: RunContext = field(default=NO_SESSION, repr=False)

    def __getitem__(self, key: str) -> float:
        """``run["ttft_p99"]``: a metric's value in its base unit (seconds, fraction, 1/s). Raises ``KeyError``."""
        try:
            return self.run.metrics.estimate(metric_key(key)).value
        except UnitError as error:
            raise KeyError(str(error)) from None

    @property
    def requests(self) -> pandas.DataFrame:
        """One row a request; ``docs/results.md`` describes the columns."""
        from pytest_llmperf.measure.frame import requests_frame

        return requests_frame(self.run.result.log)

    def judge(self, sla: SlaGiven) -> Verdict:
        """The verdict of ``sla`` on this run; it is kept with the run. Falsy unless PASS.

        ``sla`` may also be limits (``{"ttft": {"p99": "1s"}}``) or the name of an SLA of the catalog. Raises ``ConfigError``.
        """
        return self._judged(self.read_sla(sla, Where(key="run.judge()")))

    def _judged(self, sla: Sla) -> Verdict:
        from pytest_llmperf.judge.ruling import judge_run
        from pytest_llmperf.report.document import judged_between, run_document

        began = time()
        verdict = judge_run(self.run, sla.on(self.run.identity.cell), self.rules.policy)
        self.keep(judged_between(run_document(self.run, verdict, session=self.session), began, time()))
        return verdict

    def meets(self, sla: SlaGiven) -> bool:
        """True when the verdict is PASS; otherwise raises ``SlaMissError`` with the table of what was missed and by how far.

        ``sla`` may be what ``judge`` takes.
        What INCONCLUSIVE and INVALID do instead is for ``--llmperf-inconclusive`` and ``--llmperf-invalid`` to say.
        """
        from pytest_llmperf.report.tables import sla_table

        __tracebackhide__ = True
        verdict = self._judged(self.read_sla(sla, Where(key="run.meets()")))
        table = sla_table(verdict, self.run.identity.simulated)
        return asserted(verdict.outcome, self.rules, table, "; ".join(verdict.reasons), SlaMissError(verdict, table))


@dataclass(repr=False)
class Load:
    """Callable: ``load(poisson("4/s"), "60s")`` drives the deployment with the test's workload."""

    deployment: Deployment
    workload: Workload
    node_id: str
    seed: int
    workers: int | None
    """Load workers; None: as many as the plan asks for, on at most ``cores``."""
    price: Price | None
    """What one of the cell's accelerators costs; None: the price book does not say."""
    keep: Keep
    progress: ProgressLine
    rules: Rules = field(default_factory=Rules)
    read_sla: ReadSla = _WITHOUT_CATALOG
    cores: int | None = None
    trust: TrustLimits = DEFAULT_LIMITS
    session: RunContext = NO_SESSION
    server: ServerSources = ITS_OWN_PAGE
    spare: SpareWorkers | None = None
    runs: int = 0

    def __repr__(self) -> str:
        # Short: pytest shows it above a failing test.
        return f"Load({self.workload.name} on {self.deployment.cell.id})"

    def __call__(
        self,
        profile: LoadProfile | NamedProfile,
        duration: str | None = None,
        *,
        warmup: str | None = None,
        requests: int | None = None,
        seed: int | None = None,
        until: SlaGiven | None = None,
        label: str = "",
    ) -> LoadRun:
        """Drive ``profile`` for ``duration`` (``"60s"``) or until ``requests`` were made.

        Stages, a trace and a named profile have a duration of their own.
        ``warmup`` (default: the workload's) is the stretch of the same load before it that primes and is not counted.
        ``until`` (an SLA, limits, or a name) ends the load as soon as its verdict is settled; what is in flight is finished.
        ``label`` names the run among others of its test; a run with a label is part of an experiment and not compared.
        Raises ``ConfigError`` for a duration without a unit or a profile that makes no request. What was measured is kept
        also when the load did not end well; then a lost deployment raises ``DeployError``, a lost worker ``LoadError``, and
        after Ctrl-C ``KeyboardInterrupt`` goes on.
        """
        from pytest_llmperf.experiment.records import NamedProfile
        from pytest_llmperf.load.plan import plan_load
        from pytest_llmperf.measure.run import RunIdentity

        settle = self.read_sla(until, Where(key="load(…, until=)")) if until is not None else None
        self.runs += 1
        run_seed = seed if seed is not None else self.seed_of_run()
        duration_s = _seconds(duration, "duration") if duration is not None else None
        profile_name = ""
        if isinstance(profile, NamedProfile):
            duration_s = profile.duration if duration_s is None and requests is None else duration_s
            profile_name = profile.name
            profile = profile.load_profile
        plan = plan_load(
            profile,
            self.workload,
            duration_s,
            seed=run_seed,
            warmup_s=_seconds(warmup, "warmup") if warmup is not None else self.workload.warmup,
            max_requests=requests,
        )
        with self._watched(plan) as watching:
            result, stopped = self._driven(plan, settle, watching)
            identity = RunIdentity(
                run_id=uuid4().hex[:12],
                cell=self.deployment.cell,
                workload=self.workload,
                profile=str(profile),
                seed=run_seed,
                node_id=self.node_id,
                simulated=self.deployment.info.simulated,
                duration_s=plan.length_s or result.window_end_s - plan.window_start_s,
                profile_name=profile_name,
                ordinal=self.runs,
                label=label,
            )
            run = self._measured(identity, result, stopped, plan, watching)
        self._check_end(result)
        return run

    def _watched(self, plan: LoadPlan) -> AbstractContextManager[Watching]:
        from pytest_llmperf.measure.server_watch import watching_server

        return watching_server(self.server, self.deployment.endpoint, self.deployment.cell.hardware.count, plan)

    def _driven(self, plan: LoadPlan, until: Sla | None, watching: Watching) -> tuple[LoadResult, Stopped | None]:
        from pytest_llmperf.load.engine import LoadOptions, run_load

        what = f"{self.deployment.cell.id} {self.workload.name}"
        stop = _StopWhenSettled(plan, until.on(self.deployment.cell), self.rules.policy) if until is not None else None
        deployment, stop_when = self.deployment, stop.watch if stop is not None else None
        with self.progress.loading(what) as report:
            options = LoadOptions(
                workers=self.workers,
                cores=self.cores,
                first_token_timeout_s=self.workload.first_token_timeout,
                idle_timeout_s=self.workload.idle_timeout,
            )
            result = run_load(plan, deployment.endpoint, options, watching.also(report), stop_when, self.spare)
        watching.ended()
        if deployment.info.pods_ready_at is not None:
            self.progress.first_request(deployment.cell.id, deployment.info.pods_ready_at, result.started_at)
        result = result.noted(*deployment.info.notes)
        stopped = stop.stopped(result) if stop is not None else None
        if stopped is not None:
            self.progress.note(f"{stopped.outcome} was settled after {format_duration(stopped.at_s)}: {stopped.reason}")
        return result, stopped

    def _check_end(self, result: LoadResult) -> None:
        """Raises for what ended the load early, now that what was measured is kept."""
        if result.health.lost_workers:
            raise LoadError("the load ended early: " + "\n  ".join(result.health.notes), hint="What was measured is kept.")
        if result.interrupted:
            raise KeyboardInterrupt
        check_standing(self.deployment)

    def seed_of_run(self) -> int:
        """The seed of the load that is the test's ``runs``-th: the same in every session, and another for every load, so that
        two runs never share their arrivals."""
        # How many repetitions follow changes nothing in what the first of them asks.
        node_id = re.sub(r"(\d+)of\d+(?=[\]-])", r"\1", self.node_id)
        return crc32(f"{self.seed}:{node_id}:{self.runs}".encode())

    def _measured(
        self, identity: RunIdentity, result: LoadResult, stopped: Stopped | None, plan: LoadPlan, watching: Watching | None = None
    ) -> LoadRun:
        from pytest_llmperf.measure.steady import steadiness
        from pytest_llmperf.report.document import run_document

        # A load that changes has a backlog and a TPOT that change with it: neither is overload or warm-up.
        steady = steadiness(result, open_loop=plan.has_one_rate, stationary=plan.is_stationary)
        run = self._run(identity, result, stopped, plan, steady)
        # Before the server's side is waited for or read: whatever becomes of that, what was measured is there.
        self._store(run_document(run, None, session=self.session), run, result.log)
        if watching is not None:
            run = self._with_server(run, plan, watching)
        return LoadRun(run, self.keep, self.rules, self.read_sla, self.session)

    def _run(self, identity: RunIdentity, result: LoadResult, stopped: Stopped | None, plan: LoadPlan, steady: Steadiness) -> Run:
        from pytest_llmperf.measure.run import Run
        from pytest_llmperf.measure.trust import distrust

        metrics, cost = self._metrics(result, plan, steady)
        return Run(
            identity=identity,
            deployment=self.deployment.info,
            result=result,
            metrics=metrics,
            cost=cost,
            invalid=distrust(result.health, self.trust),
            trust=self.trust,
            steadiness=steady,
            stopped=stopped,
            is_stationary=plan.is_stationary,
        )

    def _metrics(
        self, result: LoadResult, plan: LoadPlan, steady: Steadiness, power_w: float | None = None
    ) -> tuple[Metrics, Cost | None]:
        from pytest_llmperf.measure.compute import measure
        from pytest_llmperf.measure.cost import cost_of, price_of_all

        accelerators = self.deployment.cell.hardware.count
        metrics = measure(
            result,
            price_per_hour=price_of_all(self.price, accelerators),
            accelerators=accelerators,
            power_w=power_w,
            extra_warmup_s=steady.extra_warmup_s,
            counts_tokens=plan.workload.http is None or plan.workload.http.output_tokens is not None,
        )
        return metrics, cost_of(self.price, accelerators, metrics)

    def _with_server(self, run: Run, plan: LoadPlan, watching: Watching) -> Run:
        """The run with what the server said of itself, stored anew; where that cannot be had, with a note that says so."""
        from pytest_llmperf.measure.server_watch import Told
        from pytest_llmperf.report.document import run_document

        try:
            seen = self._told_by(run, plan, watching.told(run.result, run.steadiness.extra_warmup_s))
            document = run_document(seen, None, session=self.session)
        except Exception as error:  # noqa: BLE001 - what a server says of itself ends no run
            note = f"the server's side is not known: what it says cannot be reckoned ({type(error).__name__})"
            seen = replace(run, result=Told(None, note).noted_in(run.result))
            document = run_document(seen, None, session=self.session)
        self._store(document, seen)
        return seen

    def _told_by(self, run: Run, plan: LoadPlan, told: Told) -> Run:
        seen = replace(run, result=told.noted_in(run.result), server=told.server)
        if told.server is None or told.server.gpu_power_w is None:
            return seen
        metrics, cost = self._metrics(run.result, plan, run.steadiness, told.server.gpu_power_w)
        return replace(seen, metrics=metrics, cost=cost)

    def _store(self, document: RunDocument, run: Run, log: RequestLog | None = None) -> None:
        """Keep what was measured. Raises ``LlmperfError`` when the disk will not, but where the load's own end says more."""
        try:
            self.keep(document, log)
        except LlmperfError as error:
            if not run.result.interrupted:
                raise
            self.progress.note(str(error))


class _StopWhenSettled:
    """Watches one load and ends it once the SLA's verdict is settled."""

    def __init__(self, plan: LoadPlan, sla: Sla, policy: Policy) -> None:
        from pytest_llmperf.judge.until import Until

        self._window_start_s = plan.window_start_s
        self._until = Until(sla, policy, plan)
        self._settled: Settled | None = None

    def watch(self, seen: Sighting) -> bool:
        """Whether to end the load."""
        from pytest_llmperf.measure.observations import sighted

        self._settled = self._until.look(sighted(seen, self._window_start_s))
        return self._settled is not None

    def stopped(self, result: LoadResult) -> Stopped | None:
        """What ended the load, where it was this."""
        from pytest_llmperf.measure.run import Stopped

        if self._settled is None or result.stopped_s is None:
            return None
        saved_s = result.planned_end_s - result.window_end_s if result.planned_end_s is not None else 0.0
        return Stopped(self._settled.reason, self._settled.outcome.value, result.stopped_s, saved_s)


def _seconds(text: str, name: str) -> float:
    try:
        return parse_duration(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key=f"load(…, {name}=)")) from None
