"""The end of a run against its beginning: a server that stays as it is, one that slows down, one that forgets to answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.judge.drift import drift
from pytest_llmperf.judge.paired import Comparison
from pytest_llmperf.judge.verdict import Outcome
from pytest_llmperf.load.records import LoadResult, RequestLog
from pytest_llmperf.measure.run import Steadiness
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.plugin.drift import drift as drift_of
from pytest_llmperf.plugin.load import LoadRun
from pytest_llmperf.report.document import RunDocument
from tests.unit.measure.logs import failed, result_of, streamed
from tests.unit.report.runs import run_of

LENGTH_S = 90.0


def forget(document: RunDocument, log: RequestLog | None = None) -> None:
    """A test without a session has nobody who keeps its runs."""


def run(ttft_s: Callable[[float], float]) -> LoadResult:
    """Ten requests a second, whose TTFT depends on when they are made; every second one is a tenth faster."""
    asked = [streamed(i / 10, ttft_s(i / 10) * (0.9 if i % 2 else 1.0)) for i in range(int(10 * LENGTH_S))]
    return result_of(asked, window=(0.0, LENGTH_S))


def ttft(result: LoadResult, margin: float = 0.1, blocks: int = 6) -> Comparison:
    return drift(result, metric_key("ttft_p50"), margin, blocks=blocks)


def test_what_stays_as_it_is_passes() -> None:
    comparison = ttft(run(lambda t: 0.1 + 0.01 * math.sin(t)))
    assert comparison.verdict.outcome is Outcome.PASS
    assert comparison.verdict.pairs == 6


def test_what_slows_down_fails() -> None:
    comparison = ttft(run(lambda t: 0.1 * (1 + 0.5 * t / LENGTH_S)))
    assert comparison.verdict.outcome is Outcome.FAIL
    # From the middle of the first third (a sixth) to that of the last: 1.4167 / 1.0833.
    assert comparison.verdict.ratio == pytest.approx(1.31, abs=0.03)
    assert comparison.candidate / comparison.base == pytest.approx(comparison.verdict.ratio)


def test_the_middle_third_is_left_out() -> None:
    assert ttft(run(lambda t: 5.0 if 31 < t < 59 else 0.1)).verdict.outcome is Outcome.PASS


def test_what_was_still_warming_up_is_no_beginning() -> None:
    result = run(lambda t: 0.5 if t < 30 else 0.1 * (1 + 0.5 * t / LENGTH_S))
    assert ttft(result).verdict.outcome is Outcome.PASS, "the slow warm-up hides that it got slower afterwards"
    trimmed = drift(result, metric_key("ttft_p50"), 0.1, extra_warmup_s=30.0)
    assert trimmed.verdict.outcome is Outcome.FAIL
    assert trimmed.base == pytest.approx(0.1 * (1 + 0.5 * 40 / LENGTH_S), rel=0.1)


def test_the_drift_of_a_run_begins_where_it_is_measured_from() -> None:
    """A warm-up that was lengthened is no first third: here it would be all that had got slower."""
    asked = [streamed(i / 10, 0.05 if i < 300 else 0.1) for i in range(900)]
    whole = run_of(asked)
    settled = replace(whole, steadiness=Steadiness(extra_warmup_s=30.0))
    outcomes = [drift_of(LoadRun(run, keep=forget), "ttft_p50").outcome for run in (whole, settled)]
    assert outcomes == [Outcome.FAIL, Outcome.PASS]


def test_a_load_that_changes_is_refused() -> None:
    asked = [streamed(i / 10, 0.05 if i < 300 else 0.1) for i in range(900)]
    ramped = replace(run_of(asked, profile="poisson 5/s to 20/s in 90s"), is_stationary=False)
    with pytest.raises(ConfigError) as caught:
        drift_of(LoadRun(ramped, keep=forget), "ttft_p50")
    assert str(caught.value) == (
        "drift(): poisson 5/s to 20/s in 90s changes by plan, so that its end cannot be held against its beginning\n"
        '  Load with a closed loop without a ramp, concurrency(8), or at one rate: constant("4/s"), poisson("4/s").'
    )


def test_throughput_that_falls_is_worse() -> None:
    asked = [streamed(t / 10, 0.1) for t in range(900) if t < 500 or t % 2]
    comparison = drift(result_of(asked, window=(0.0, LENGTH_S)), metric_key("request_rate"), 0.1)
    assert comparison.verdict.outcome is Outcome.FAIL
    assert comparison.verdict.ratio == pytest.approx(2.0, rel=0.05)


def test_an_end_without_answers_is_worse() -> None:
    asked = [streamed(i / 10, 0.1) if i < 500 else failed(i / 10) for i in range(900)]
    assert ttft(result_of(asked, window=(0.0, LENGTH_S))).verdict.outcome is Outcome.FAIL


def test_blocks_without_requests_cannot_be_told() -> None:
    asked = [streamed(i / 10, 0.1) for i in range(300)]
    comparison = ttft(result_of(asked, window=(0.0, LENGTH_S)))
    assert comparison.verdict.outcome is Outcome.INCONCLUSIVE
    assert "not measured" in comparison.verdict.note


def test_fewer_blocks_than_a_test_needs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        ttft(run(lambda _: 0.1), blocks=2)
