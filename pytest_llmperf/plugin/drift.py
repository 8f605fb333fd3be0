"""``drift(run)``: whether a long run got worse from its beginning to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.judge.drift import drift as judged_drift
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.plugin.asserted import asserted
from pytest_llmperf.plugin.variants import how_much_worse, metrics_to_judge

if TYPE_CHECKING:
    from pytest_llmperf.judge.paired import Comparison
    from pytest_llmperf.measure.run import Run
    from pytest_llmperf.plugin.load import LoadRun


@dataclass(frozen=True, repr=False)
class DriftResult:
    """Whether the last third of a run is worse than its first. True only when it is shown not to be."""

    run: LoadRun
    comparison: Comparison

    @property
    def outcome(self) -> Outcome:
        """INVALID where the run is; else what the blocks say."""
        if self.run.run.invalid:
            return Outcome.INVALID
        return self.comparison.verdict.outcome or Outcome.INCONCLUSIVE

    def __bool__(self) -> bool:
        return self.outcome is Outcome.PASS

    def meets(self) -> bool:
        """True when the run did not get worse; else raises ``ExperimentMissError`` with the table."""
        __tracebackhide__ = True
        return asserted(self.outcome, self.run.rules, self.table(), self._reason())

    def table(self) -> str:
        """Both ends of the run side by side, as text."""
        from pytest_llmperf.report.experiment_tables import variants_table

        run = self.run.run
        return variants_table("the first third of the run", "the last third", [self.comparison], [(run, run)])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"DriftResult({self.outcome}: {self._reason()})"

    def _reason(self) -> str:
        if self.run.run.invalid:
            return "; ".join(self.run.run.invalid)
        return how_much_worse(self.comparison, "the last third", "the first")


def drift(run: LoadRun, metric: str = "tpot_p50", margin: str = "10%") -> DriftResult:
    """Compare the end of a run with its beginning: ``assert drift(run, "tpot_p50", margin="10%").meets()``.

    The load has to be the same from its beginning to its end: one rate, or a closed loop without a ramp. Under any other it would
    be the load that is told. Raises ``ConfigError`` for such a run, and for a metric or margin that cannot be.
    """
    _check_load(run.run)
    (judged,) = metrics_to_judge(metric, margin, "drift()")
    measured = run.run
    found = judged_drift(measured.result, judged.key, judged.margin, extra_warmup_s=measured.steadiness.extra_warmup_s)
    return DriftResult(run, found)


def _check_load(run: Run) -> None:
    if not run.is_stationary:
        raise ConfigError(
            f"{run.identity.profile} changes by plan, so that its end cannot be held against its beginning",
            where=Where(key="drift()"),
            hint='Load with a closed loop without a ramp, concurrency(8), or at one rate: constant("4/s"), poisson("4/s").',
        )
