"""What the ``baseline`` fixture keeps with a run, gates and leaves to the last repetition; beside runs made of numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.judge.tolerance import DEFAULT_TOLERANCES
from pytest_llmperf.plugin.baseline import Baseline, BaselineOfTest, RegressionError
from pytest_llmperf.plugin.load import LoadRun
from pytest_llmperf.plugin.recorder import Recorder
from pytest_llmperf.report.comparison import cannot_tell, regressed
from pytest_llmperf.report.document import run_document
from pytest_llmperf.report.saved import History, Source
from tests.unit.report.runs import answered, run_of

DEFAULTS = {tolerance.key.name: tolerance for tolerance in DEFAULT_TOLERANCES}


def baseline_in(storage: Path, *, decides: bool) -> BaselineOfTest:
    """The fixture of a test without tolerances of its own, whose baseline has three runs."""
    runs = tuple(run_document(run_of(answered(300), run_id=run_id), None) for run_id in ("b1", "b2", "b3"))
    passed_over: list[ConfigError] = []
    baseline = Baseline(History(Source("0001_main", runs), (), passed_over.append), {})
    return BaselineOfTest(baseline, DEFAULTS, {}, Recorder(storage), decides)


def made(baseline: BaselineOfTest, run_id: str, scale: float = 1.0, invalid: tuple[str, ...] = ()) -> LoadRun:
    run = run_of(answered(300, scale=scale), run_id=run_id, invalid=invalid)
    baseline.recorder.keep(run_document(run, None))
    return LoadRun(run, baseline.recorder.keep)


@pytest.mark.parametrize(("scale", "invalid"), [(3.0, ()), (1.0, ("worker 0 was late",))], ids=["slow", "disturbed"])
def test_before_the_last_repetition_nothing_is_held_against_a_run(tmp_path: Path, scale: float, invalid: tuple[str, ...]) -> None:
    baseline = baseline_in(tmp_path, decides=False)
    run = made(baseline, "first", scale, invalid)
    assert baseline.holds(run)
    part = baseline.compare(run)
    assert part is not None
    assert baseline.recorder.runs["first"].comparison is None
    # The last repetition knows of the run, and of what was asked.
    assert baseline.baseline is not None
    ((key, tolerances),) = baseline.baseline.postponed.items()
    assert tolerances == DEFAULTS
    assert list(baseline.baseline.seen[key]) == ["first"]


def test_the_last_repetition_decides_on_what_holds_asks(tmp_path: Path) -> None:
    baseline = baseline_in(tmp_path, decides=True)
    for run_id in ("first", "second"):
        made(baseline, run_id, 3.0)
        assert baseline.baseline is not None
        baseline.baseline.remember(baseline.recorder.runs[run_id])
    with pytest.raises(RegressionError, match="0001_main: REGRESSED"):
        baseline.holds(made(baseline, "last", 3.0))
    kept = baseline.recorder.runs["last"].comparison
    assert kept is not None
    assert (kept.repeats, regressed(kept)) == (3, True)


def test_to_compare_gates_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    baseline = baseline_in(tmp_path, decides=True)
    part = baseline.compare(made(baseline, "slow", 3.0))
    assert part is not None
    assert (part.verdict, regressed(part), cannot_tell(part)) == ("regressed", False, False)
    assert baseline.recorder.runs["slow"].comparison == part
