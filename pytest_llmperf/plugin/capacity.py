"""The ``find_capacity`` and ``sweep`` fixtures: loads at several rates, each a run of its own, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pytest_llmperf.deploy.base import say_nothing
from pytest_llmperf.errors import ConfigError, UnitError, Where, unknown
from pytest_llmperf.experiment.profile import Constant, Poisson, positive_rate
from pytest_llmperf.experiment.records import NamedProfile
from pytest_llmperf.judge.capacity import Capacity, Ending, Probe, probe_duration_s, search
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.plugin.asserted import asserted
from pytest_llmperf.units import format_rate, parse_duration, parse_fraction

if TYPE_CHECKING:
    from pytest_llmperf.experiment.profile import LoadProfile
    from pytest_llmperf.judge.verdict import Verdict
    from pytest_llmperf.plugin.asserted import Rules
    from pytest_llmperf.plugin.cells import SlaGiven
    from pytest_llmperf.plugin.load import Load, LoadRun

Arrivals = Literal["poisson", "constant"]
Tell = Callable[[str], None]
"""Called with an experiment's table once it is over: it goes on the test's report."""

_FIND_CAPACITY, _SWEEP = Where(key="find_capacity()"), Where(key="sweep()")


@dataclass(frozen=True)
class CapacityProbe:
    """One rate of a search: the run made there and its verdict."""

    rate_per_s: float
    run: LoadRun
    verdict: Verdict


@dataclass(frozen=True, repr=False)
class CapacityResult:
    """The highest rate that met the SLA, and every probe in the order made. ``capacity`` holds the bracket and the reason."""

    capacity: Capacity
    probes: tuple[CapacityProbe, ...]
    rules: Rules

    @property
    def rate_per_s(self) -> float:
        """The highest rate (1/s) that met the SLA; 0 where none did, so that it can be compared: ``rate_per_s >= 8``."""
        return self.capacity.rate_per_s or 0.0

    def reaches(self, rate: str | float) -> bool:
        """True when ``rate`` (``"8/s"``, or a number of 1/s) is within the capacity; else raises ``ExperimentMissError``.

        What INCONCLUSIVE and INVALID do instead is for ``--llmperf-inconclusive`` and ``--llmperf-invalid`` to say.
        """
        __tracebackhide__ = True
        wanted = positive_rate(rate, "reaches()") if isinstance(rate, str) else rate
        reason = f"the capacity does not reach {format_rate(wanted)}: {self.capacity.reason}"
        return asserted(self.outcome_at(wanted), self.rules, self.table(), reason)

    def outcome_at(self, rate_per_s: float) -> Outcome:
        """PASS where a rate as high passed, FAIL where one no higher failed; else the probes leave it open, or the client did."""
        if rate_per_s <= self.rate_per_s:
            return Outcome.PASS
        if any(probe.outcome is Outcome.FAIL and probe.rate_per_s <= rate_per_s for probe in self.capacity.probes):
            return Outcome.FAIL
        return Outcome.INVALID if self.capacity.ending is Ending.INVALID else Outcome.INCONCLUSIVE

    def table(self) -> str:
        """The walk as text."""
        from pytest_llmperf.report.experiment_tables import capacity_table

        return capacity_table(self.capacity, [(probe.run.run, probe.verdict) for probe in self.probes])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        # One line: pytest shows it in a failing comparison.
        return f"CapacityResult({self.capacity.reason})"


@dataclass(repr=False)
class FindCapacity:
    """Callable: ``find_capacity(sla, "1/s", "64/s")`` searches for the highest rate at which the deployment meets the SLA."""

    load: Load
    tell: Tell = say_nothing

    def __repr__(self) -> str:
        return f"FindCapacity({self.load.workload.name} on {self.load.deployment.cell.id})"

    def __call__(
        self,
        sla: SlaGiven,
        lo: str,
        hi: str,
        *,
        probe: str = "30s",
        precision: str = "5%",
        arrivals: Arrivals = "poisson",
        max_probes: int = 12,
    ) -> CapacityResult:
        """Search from ``lo``, doubling up to ``hi``, then halving the bracket until it is ``precision`` wide.

        ``sla`` is the fixture of that name, limits (``{"ttft": {"p95": "1s"}}``), or the name of an SLA of the catalog.
        Each probe loads for ``probe``, or for as long as the SLA's statistics need samples under the session's policy (a p99 at
        1/s takes almost six minutes to measure and forty to be certain of, so begin near the rate that is expected), and
        ends as soon as its verdict is settled. Each is a run of its own.
        Raises ``ConfigError`` for an SLA, rates, durations or a precision that make no sense, and whatever ``load`` raises.
        """
        least_s, wanted = _search_settings(probe, precision, max_probes, arrivals)
        held = self.load.read_sla(sla, _FIND_CAPACITY).on(self.load.deployment.cell)
        low, high = positive_rate(lo, "find_capacity(…, lo)"), positive_rate(hi, "find_capacity(…, hi)")
        if low > high:
            raise ConfigError(f"the lowest rate {lo!r} is more than the highest {hi!r}", where=_FIND_CAPACITY)
        made: list[CapacityProbe] = []

        def probed(rate_per_s: float) -> Probe:
            profile = Poisson(rate_per_s) if arrivals == "poisson" else Constant(rate_per_s)
            duration_s = probe_duration_s(held, rate_per_s, least_s, self.load.rules.policy)
            run = self.load(profile, f"{duration_s:.3f}s", until=held, label=format_rate(rate_per_s))
            verdict = run.judge(held)
            made.append(CapacityProbe(rate_per_s, run, verdict))
            return Probe(rate_per_s, verdict.outcome, "; ".join(verdict.reasons))

        capacity = search(low, high, probed, precision=wanted, max_probes=max_probes)
        result = CapacityResult(capacity, tuple(made), self.load.rules)
        self.tell(result.table())
        return result


@dataclass(frozen=True, repr=False)
class SweepResult:
    """The runs of a sweep, in the order measured."""

    runs: tuple[LoadRun, ...]

    def __getitem__(self, index: int) -> LoadRun:
        return self.runs[index]

    def __iter__(self) -> Iterator[LoadRun]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def table(self) -> str:
        """Latency against throughput as text."""
        from pytest_llmperf.report.experiment_tables import sweep_table

        return sweep_table([run.run for run in self.runs])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"SweepResult({', '.join(run.run.identity.profile for run in self.runs)})"


@dataclass(repr=False)
class Sweep:
    """Callable: ``sweep(["4/s", "8/s", concurrency(16)], "20s")`` loads at each point in turn."""

    load: Load
    tell: Tell = say_nothing

    def __repr__(self) -> str:
        return f"Sweep({self.load.workload.name} on {self.load.deployment.cell.id})"

    def __call__(
        self, points: Sequence[str | LoadProfile | NamedProfile], duration: str | None = None, *, until: SlaGiven | None = None
    ) -> SweepResult:
        """Load for ``duration`` at each point: a rate (Poisson arrivals) or a load profile. Each is a run of its own.

        Only points that end by themselves (stages, a trace, a named profile) need no duration.
        ``until`` ends a point early once the SLA's verdict there is settled, as overload would otherwise take its time.
        Raises ``ConfigError`` for an empty sweep or a point that cannot be loaded, before anything is loaded.
        """
        profiles = _points(points, duration)
        runs = tuple(self.load(profile, duration, until=until, label=label) for label, profile in profiles)
        result = SweepResult(runs)
        self.tell(result.table())
        return result


def _points(points: object, duration: str | None) -> list[tuple[str, LoadProfile | NamedProfile]]:
    """The load at each point of a sweep, with the label of its run. Raises ``ConfigError``."""
    from pytest_llmperf.load.plan import check_profile

    if isinstance(points, str) or not isinstance(points, Sequence) or not points:
        raise ConfigError('needs a list of points: sweep(["4/s", "8/s"], "20s")', where=_SWEEP)
    profiles = [Poisson(positive_rate(point, "sweep()")) if isinstance(point, str) else point for point in points]
    try:
        duration_s = parse_duration(duration) if duration is not None else None
    except UnitError as error:
        raise ConfigError(f"'duration': {error}", where=_SWEEP) from None
    for profile in profiles:
        check_profile(profile, duration_s is not None, _SWEEP, duration_s)
    return [(profile.name if isinstance(profile, NamedProfile) else str(profile), profile) for profile in profiles]


def _search_settings(probe: str, precision: str, max_probes: int, arrivals: str) -> tuple[float, float]:
    """A probe's least duration in seconds, and the precision as a fraction. Raises ``ConfigError``."""
    if arrivals not in get_args(Arrivals):
        raise unknown("arrivals", str(arrivals), get_args(Arrivals), _FIND_CAPACITY)
    if not isinstance(max_probes, int):
        raise ConfigError(f"'max_probes' must be a whole number, not {max_probes!r}", where=_FIND_CAPACITY)
    try:
        least_s, wanted = parse_duration(probe), parse_fraction(precision)
    except UnitError as error:
        raise ConfigError(str(error), where=_FIND_CAPACITY) from None
    if not (least_s > 0 and wanted > 0 and max_probes >= 1):
        raise ConfigError("'probe', 'precision' and 'max_probes' must be more than 0", where=_FIND_CAPACITY)
    return least_s, wanted
