"""The ``load`` fixture: drives one load, keeps what was measured, and gives the test a run it can judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4
from zlib import crc32

from pytest_llmperf.deploy.base import check_standing
from pytest_llmperf.errors import ConfigError, LoadError, UnitError, Where
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.units import parse_duration

if TYPE_CHECKING:
    import pandas

    from pytest_llmperf.deploy.base import Deployment
    from pytest_llmperf.experiment.profile import LoadProfile
    from pytest_llmperf.experiment.records import NamedProfile, Workload
    from pytest_llmperf.experiment.sla import Sla
    from pytest_llmperf.judge.verdict import Verdict
    from pytest_llmperf.load.records import LoadResult
    from pytest_llmperf.measure.run import Run
    from pytest_llmperf.plugin.progress import ProgressLine
    from pytest_llmperf.report.document import RunDocument

Keep = Callable[["RunDocument"], None]
"""Called with a run's document whenever it changes: stores it at once and remembers it for the session's reports."""


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

    def judge(self, sla: Sla) -> Verdict:
        """The verdict of ``sla`` on this run; it is kept with the run. Falsy unless PASS."""
        from pytest_llmperf.judge.verdict import judge
        from pytest_llmperf.report.document import run_document

        verdict = judge(self.run.metrics, sla, self.run.invalid)
        self.keep(run_document(self.run, verdict))
        return verdict

    def meets(self, sla: Sla) -> bool:
        """True when the verdict is PASS; otherwise raises ``SlaMissError`` with the table of what was missed and by how far."""
        from pytest_llmperf.report.tables import sla_table

        __tracebackhide__ = True
        verdict = self.judge(sla)
        if not verdict:
            raise SlaMissError(verdict, sla_table(verdict, self.run.identity.simulated))
        return True


@dataclass(repr=False)
class Load:
    """Callable: ``load(poisson("4/s"), "60s")`` drives the deployment with the test's workload."""

    deployment: Deployment
    workload: Workload
    node_id: str
    seed: int
    workers: int
    price_per_hour: float | None
    keep: Keep
    progress: ProgressLine
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
    ) -> LoadRun:
        """Drive ``profile`` for ``duration`` (``"60s"``; a named profile has its own) or until ``requests`` were made.

        ``warmup`` (default: the workload's) is the stretch of the same load before it that primes and is not counted.
        Raises ``ConfigError`` for a duration without a unit or a profile that makes no request. What was measured is kept
        also when the load did not end well; then a lost deployment raises ``DeployError``, a lost worker ``LoadError``, and
        after Ctrl-C ``KeyboardInterrupt`` goes on.
        """
        from pytest_llmperf.experiment.records import NamedProfile
        from pytest_llmperf.load.engine import LoadOptions, run_load
        from pytest_llmperf.load.plan import plan_load

        run_seed = seed if seed is not None else self._next_seed()
        duration_s = _seconds(duration, "duration") if duration is not None else None
        if isinstance(profile, NamedProfile):
            duration_s = profile.duration if duration_s is None and requests is None else duration_s
            profile = profile.load_profile
        plan = plan_load(
            profile,
            self.workload,
            duration_s,
            seed=run_seed,
            warmup_s=_seconds(warmup, "warmup") if warmup is not None else self.workload.warmup,
            max_requests=requests,
        )
        with self.progress.loading(f"{self.deployment.cell.id} {self.workload.name}") as report:
            result = run_load(plan, self.deployment.endpoint, LoadOptions(workers=self.workers), report)
        run = self._measured(profile, duration_s or result.window_end_s - result.window_start_s, run_seed, result)
        self._check_end(result)
        return run

    def _check_end(self, result: LoadResult) -> None:
        """Raises for what ended the load early, now that what was measured is kept."""
        if result.health.lost_workers:
            raise LoadError("the load ended early: " + "\n  ".join(result.health.notes), hint="What was measured is kept.")
        if result.interrupted:
            raise KeyboardInterrupt
        check_standing(self.deployment)

    def _next_seed(self) -> int:
        # Stable from session to session, and different for every load, so that two runs never share their arrivals.
        self.runs += 1
        return crc32(f"{self.seed}:{self.node_id}:{self.runs}".encode())

    def _measured(self, profile: LoadProfile, duration_s: float, seed: int, result: LoadResult) -> LoadRun:
        from pytest_llmperf.measure.compute import measure
        from pytest_llmperf.measure.run import Run, RunIdentity
        from pytest_llmperf.measure.trust import TrustLimits, distrust
        from pytest_llmperf.report.document import run_document

        identity = RunIdentity(
            run_id=uuid4().hex[:12],
            cell=self.deployment.cell,
            workload=self.workload,
            profile=str(profile),
            seed=seed,
            node_id=self.node_id,
            simulated=self.deployment.info.simulated,
            duration_s=duration_s,
        )
        run = Run(
            identity=identity,
            deployment=self.deployment.info,
            result=result,
            metrics=measure(result, price_per_hour=self.price_per_hour),
            invalid=distrust(result.health, TrustLimits()),
        )
        self.keep(run_document(run, None))
        return LoadRun(run, self.keep)


def _seconds(text: str, name: str) -> float:
    try:
        return parse_duration(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key=f"load(…, {name}=)")) from None


@dataclass
class Recorder:
    """The runs of the test that is being run, newest state of each, on disk the moment it changes."""

    storage: Path
    runs: dict[str, RunDocument] = field(default_factory=dict)

    def keep(self, document: RunDocument) -> None:
        """Write the run to the storage and remember it. Raises ``LlmperfError`` when the disk refuses."""
        from pytest_llmperf.report.storage import write_run

        self.runs[document.run_id] = document
        write_run(self.storage, document)

    def drain(self) -> Sequence[RunDocument]:
        """The runs since the last call."""
        runs = list(self.runs.values())
        self.runs.clear()
        return runs
