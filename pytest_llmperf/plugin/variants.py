"""The ``compare_variants`` fixture: two deployments side by side, loaded in turn, judged pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from zlib import crc32

from pytest_llmperf.deploy.base import say_nothing
from pytest_llmperf.errors import ConfigError, UnitError, Where, nearest
from pytest_llmperf.experiment.fit import fits
from pytest_llmperf.judge.paired import FIRST_LOOK, PAIRS_MOST, Comparison, compare
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.metrics import MetricKey, metric_key
from pytest_llmperf.plugin.asserted import asserted
from pytest_llmperf.plugin.capacity import Tell
from pytest_llmperf.units import format_fraction, parse_duration, parse_fraction

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Deployment
    from pytest_llmperf.experiment.catalog import Catalog
    from pytest_llmperf.experiment.profile import LoadProfile
    from pytest_llmperf.experiment.records import Cell, NamedProfile
    from pytest_llmperf.plugin.asserted import Rules
    from pytest_llmperf.plugin.load import Load, LoadRun
    from pytest_llmperf.plugin.session import Deployments

_WHERE = Where(key="compare_variants()")
_ONE_BY_ONE = "compare two sessions with --llmperf-save and --llmperf-compare"
Judges = Callable[[str], None]
"""Called with the id of each run that is judged here, be it valid or not."""


def judges_unheard(_: str) -> None:
    """Where nobody asks which runs were judged."""


@dataclass(frozen=True)
class Pair:
    """The two runs of one pair: same arrivals and lengths, one after the other."""

    a: LoadRun
    b: LoadRun

    @property
    def invalid(self) -> tuple[str, ...]:
        """The reasons not to trust one of its runs; empty when both can be trusted."""
        return (*self.a.run.invalid, *self.b.run.invalid)

    def values(self, key: MetricKey) -> tuple[float, float]:
        """A metric's value in both, in its base unit."""
        return self.a[key.name], self.b[key.name]


@dataclass(frozen=True, repr=False)
class VariantsResult:
    """Whether ``b`` is worse than ``a``, metric by metric. True only when it is shown that none is worse than its margin."""

    a: str
    b: str
    comparisons: tuple[Comparison, ...]
    pairs: tuple[Pair, ...]
    invalid: tuple[str, ...]
    """Why the last pair, repeated once, could not be trusted; empty when every pair could."""
    rules: Rules

    @property
    def outcome(self) -> Outcome:
        """INVALID before FAIL before INCONCLUSIVE; PASS when every metric passes."""
        if self.invalid:
            return Outcome.INVALID
        outcomes = {comparison.verdict.outcome for comparison in self.comparisons}
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE

    def __bool__(self) -> bool:
        return self.outcome is Outcome.PASS

    def __getitem__(self, metric: str) -> Comparison:
        """``result["tpot_p50"]``: one metric's values and verdict. Raises ``KeyError``."""
        return {comparison.key.name: comparison for comparison in self.comparisons}[metric]

    def meets(self) -> bool:
        """True when no metric is worse than its margin; else raises ``ExperimentMissError`` with the table.

        What INCONCLUSIVE and INVALID do instead is for ``--llmperf-inconclusive`` and ``--llmperf-invalid`` to say.
        """
        __tracebackhide__ = True
        return asserted(self.outcome, self.rules, self.table(), self._reason())

    def table(self) -> str:
        """One line a metric, as text."""
        from pytest_llmperf.report.experiment_tables import variants_table

        return variants_table(self.a, self.b, self.comparisons, [(pair.a.run, pair.b.run) for pair in self.pairs])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        # One line: pytest shows it where `assert compare_variants(…)` fails.
        return f"VariantsResult({self.outcome}: {self._reason()})"

    def _reason(self) -> str:
        if self.invalid:
            return "; ".join(self.invalid)
        open_or_worse = [each for each in self.comparisons if each.verdict.outcome is not Outcome.PASS]
        return "; ".join(how_much_worse(each, self.b, self.a) for each in open_or_worse)


def how_much_worse(comparison: Comparison, candidate: str, base: str) -> str:
    """``TPOT p50 of fp8 is 9.9% worse than that of default (margin 5%)``; where that cannot be told, why."""
    verdict, title = comparison.verdict, comparison.key.title
    if verdict.note:
        return f"{title}: {verdict.note}"
    change = f"{format_fraction(abs(verdict.ratio - 1))} {'worse' if verdict.ratio > 1 else 'better'}"
    return f"{title} of {candidate} is {change} than that of {base} (margin {format_fraction(comparison.margin)})"


@dataclass(frozen=True)
class JudgedMetric:
    """A metric to judge, and how much worse it may be."""

    key: MetricKey
    margin: float


@dataclass(repr=False)
class CompareVariants:
    """Callable: ``compare_variants("default", "fp8")`` tells whether the second variant is worse than the first."""

    cell: Cell
    catalog: Catalog
    deployments: Deployments
    load_on: Callable[[Deployment], Load]
    default_profile: Callable[[], NamedProfile]
    tell: Tell = say_nothing
    judges: Judges = judges_unheard
    opened: list[str] = field(default_factory=list)
    """Ids of the cells that this stood up, other than the test's own."""

    def __repr__(self) -> str:
        return f"CompareVariants({self.cell.id})"

    def __call__(
        self,
        a: str,
        b: str,
        profile: LoadProfile | NamedProfile | None = None,
        duration: str | None = None,
        *,
        metric: str | Sequence[str] = "tpot_p50",
        margin: str | Mapping[str, str] = "5%",
        pairs: int = 8,
    ) -> VariantsResult:
        """Load variants ``a`` and ``b`` of the test's cell in turn (A B, B A, …), judge after each pair, stop when decided.

        Both stand at the same time. ``profile`` and ``duration``: the test's own profile by default; within a pair both get
        the same arrivals and lengths. ``metric``: one or several; ``margin``: how much worse is still as good, for all or by
        metric. At most ``pairs`` pairs. A pair with an INVALID run is repeated once.
        Raises ``ConfigError``, before anything is deployed, for a variant, metric or margin that cannot be, a variant that does
        not fit the hardware, or where a URL is given, which leads to one cell, or both have the host of one Ingress or Route; and
        whatever deploying and ``load`` raise.
        """
        judged = metrics_to_judge(metric, margin, "compare_variants()")
        _check_pairs(pairs)
        cells = self._cell(a), self._cell(b)
        self.deployments.check_together(cells, _ONE_BY_ONE)
        profile = profile if profile is not None else self.default_profile()
        _check_load(profile, duration)
        arms = _Arms(self._deployed(cells), self.load_on, profile, duration, pairs, self.judges)
        result = arms.compared((a, b), judged)
        self.tell(result.table())
        return result

    def close(self) -> None:
        """Take down what this stood up. Raises ``DeployError`` at the end when something is left behind."""
        opened, self.opened[:] = self.opened[::-1], []
        self.deployments.close_all(opened)

    def _cell(self, variant: str) -> Cell:
        if self.deployments.has_url:
            raise ConfigError(
                "a URL leads to one cell, so two variants cannot be compared at it",
                where=_WHERE,
                hint=f"Run it without --llmperf-url, or {_ONE_BY_ONE}.",
            )
        cell = replace(self.cell, variant=self.catalog.variant_named(variant, _WHERE))
        fit = fits(cell)
        if not fit.ok:
            raise ConfigError(f"{cell.id}: {fit.reason}", where=_WHERE)
        return cell

    def _deployed(self, cells: tuple[Cell, Cell]) -> tuple[Deployment, Deployment]:
        for cell in cells:
            # The test's own cell may be shared with the tests that follow, and is taken down after the last of them.
            if cell.id != self.cell.id and cell.id not in self.deployments.standing:
                self.opened.append(cell.id)
        return self.deployments.of(cells[0]), self.deployments.of(cells[1])


@dataclass
class _Arms:
    """The two deployments and how they are loaded."""

    deployments: tuple[Deployment, Deployment]
    load_on: Callable[[Deployment], Load]
    profile: LoadProfile | NamedProfile
    duration: str | None
    pairs_max: int
    judges: Judges

    def __post_init__(self) -> None:
        # One for both, so that its count of runs goes on.
        self._load = self.load_on(self.deployments[0])

    def compared(self, names: tuple[str, str], judged: Sequence[JudgedMetric]) -> VariantsResult:
        """Pairs until every metric is decided or the pairs are used up."""
        pairs: list[Pair] = []
        decided: dict[MetricKey, Comparison] = {}
        latest: dict[MetricKey, Comparison] = {}
        while len(decided) < len(judged):
            pair = self._trusted_pair(len(pairs) + 1)
            if pair.invalid:
                return VariantsResult(*names, tuple(latest.values()), (*pairs, pair), pair.invalid, self._load.rules)
            pairs.append(pair)
            latest = {each.key: decided.get(each.key) or self._judge(each, pairs) for each in judged}
            decided = {key: comparison for key, comparison in latest.items() if comparison.verdict.outcome is not None}
        return VariantsResult(*names, tuple(latest.values()), tuple(pairs), (), self._load.rules)

    def _judge(self, judged: JudgedMetric, pairs: Sequence[Pair]) -> Comparison:
        return compare(judged.key, judged.margin, [pair.values(judged.key) for pair in pairs], self.pairs_max)

    def _trusted_pair(self, number: int) -> Pair:
        """The pair; measured again, once, where a run of it is INVALID."""
        pair = self._pair(number, 1)
        return self._pair(number, 2) if pair.invalid else pair

    def _pair(self, number: int, attempt: int) -> Pair:
        seed = crc32(f"{self._load.seed}:{self._load.node_id}:pair {number}.{attempt}".encode())
        again = " again" if attempt > 1 else ""
        runs: dict[int, LoadRun] = {}
        # In every second pair B comes first, so that whatever drifts favours neither.
        for arm in (0, 1) if number % 2 else (1, 0):
            self._load.deployment = self.deployments[arm]
            label = f"{'AB'[arm]} {number} of {self.pairs_max}{again}"
            runs[arm] = self._load(self.profile, self.duration, seed=seed, label=label)
            self.judges(runs[arm].run.identity.run_id)
        return Pair(runs[0], runs[1])


def _check_pairs(pairs: object) -> None:
    if not isinstance(pairs, int) or not FIRST_LOOK <= pairs <= PAIRS_MOST:
        raise ConfigError(f"'pairs' must be a whole number from {FIRST_LOOK} to {PAIRS_MOST}, not {pairs!r}", where=_WHERE)


def _check_load(profile: LoadProfile | NamedProfile, duration: str | None) -> None:
    """Whether it is known what to load and for how long. Raises ``ConfigError``."""
    from pytest_llmperf.load.plan import check_profile

    try:
        duration_s = parse_duration(duration) if duration is not None else None
    except UnitError as error:
        raise ConfigError(f"'duration': {error}", where=_WHERE) from None
    check_profile(profile, duration_s is not None, _WHERE, duration_s)


def metrics_to_judge(metric: str | Sequence[str], margin: str | Mapping[str, str], call: str) -> list[JudgedMetric]:
    """The metrics with their margins; ``call`` is where they were written. Raises ``ConfigError``."""
    where = Where(key=call)
    keys = list(dict.fromkeys(_key(name, where) for name in _names(metric, where)))
    margins = _margins([key.name for key in keys], margin, where)
    return [JudgedMetric(key, _margin(margins[key.name], where)) for key in keys]


def _names(metric: object, where: Where) -> Sequence[object]:
    if not isinstance(metric, str | Sequence) or not metric:
        raise ConfigError("needs a metric to judge", where=where, hint='Write metric="tpot_p50", or a list of such names.')
    return [metric] if isinstance(metric, str) else metric


def _margins(judged: Sequence[str], margin: object, where: Where) -> Mapping[str, object]:
    """The margin of each metric that is judged, and of no other. Raises ``ConfigError``."""
    if not isinstance(margin, Mapping):
        return dict.fromkeys(judged, margin)
    for name in margin:
        if name not in judged:
            close = nearest(str(name), judged)
            meant = f"Did you mean {close!r}? " if close else ""
            hint = f"{meant}Judged: {', '.join(judged)}."
            raise ConfigError(f"'margin' names {name!r}, which is not judged", where=where, hint=hint)
    missing = [name for name in judged if name not in margin]
    if missing:
        raise ConfigError(f"'margin' has none for {', '.join(missing)}", where=where)
    return margin


def _key(name: object, where: Where) -> MetricKey:
    if not isinstance(name, str):
        raise ConfigError(f"{name!r} is no metric", where=where, hint='Write its name: metric="tpot_p50".')
    try:
        key = metric_key(name)
    except UnitError as error:
        raise ConfigError(str(error), where=where) from None
    if key.metric.name in {"error_rate", "goodput"}:
        raise ConfigError(
            f"{key.title} is no metric of ratios: a healthy server's is 0 or 1", where=where, hint="Hold it with an SLA."
        )
    return key


def _margin(text: object, where: Where) -> float:
    if not isinstance(text, str):
        raise ConfigError(f"{text!r} is no margin", where=where, hint="""Write it like "5%", or {"tpot_p50": "5%"} by metric.""")
    try:
        margin = parse_fraction(text)
    except UnitError as error:
        raise ConfigError(str(error), where=where) from None
    if not margin > 0:
        raise ConfigError(f"the margin must be more than 0, not {text!r}", where=where, hint="5% is a good one to begin with.")
    return margin
