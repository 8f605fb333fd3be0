"""The gate and the grades of a verdict, and what a run that was stopped or unstable makes of one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_llmperf.experiment.sla import Gate, parse_sla
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.verdict import Outcome, judge, reason_of
from pytest_llmperf.measure.compute import Metrics, measure
from pytest_llmperf.measure.run import Steadiness, Stopped
from tests.unit.measure.logs import failed, result_of, streamed

GRADED = {"ttft": {"p50": {"target": "1s", "acceptable": "3s", "poor": "5s"}}}
KEPT: Mapping[str, object] = {"ttft": {"p50": "1s"}}
MISSED: Mapping[str, object] = {"ttft": {"p50": "50ms"}}
OPEN: Mapping[str, object] = {"ttft": {"p99": "1s"}}
BACKLOG = Stopped("the backlog grows by 3 requests/s", "FAIL", at_s=8.0, saved_s=52.0)
SETTLED = Stopped("TTFT p50 <= 1s is certain", "PASS", at_s=8.0, saved_s=52.0)
SATURATING = Steadiness(unstable="the backlog grew by 40 requests")


def metrics_of(requests: int = 60, ttft_s: float = 0.1, failures: int = 0) -> Metrics:
    asked = [streamed(i / 10, ttft_s) for i in range(requests)] + [failed(i / 10) for i in range(failures)]
    return measure(result_of(asked, window=(0.0, 1000.0)), price_per_hour=None)


@pytest.mark.parametrize(
    ("gate", "ttft_s", "outcome", "grade"),
    [
        ("target", 1.0, Outcome.PASS, "target"),
        ("target", 2.0, Outcome.FAIL, "acceptable"),
        ("acceptable", 1.0, Outcome.PASS, "target"),
        ("acceptable", 3.0, Outcome.PASS, "acceptable"),
        ("acceptable", 3.1, Outcome.FAIL, "poor"),
        ("acceptable", 5.1, Outcome.FAIL, "unacceptable"),
    ],
)
def test_the_gate_decides_and_the_grade_is_reported(gate: Gate, ttft_s: float, outcome: Outcome, grade: str) -> None:
    verdict = judge(metrics_of(ttft_s=ttft_s), parse_sla("chat", GRADED).at(gate))
    (check,) = verdict.checks
    assert (verdict.outcome, check.outcome, check.grade) == (outcome, outcome, grade)
    assert (verdict.gate, verdict.policy) == (gate, Policy.MEASURED)
    assert check.margin == pytest.approx(ttft_s / (1.0 if gate == "target" else 3.0))


def test_too_few_samples_have_no_grade_and_failures_the_worst() -> None:
    sla = parse_sla("chat", {"ttft": {"p99": {"target": "1s", "acceptable": "3s"}}})
    (few,) = judge(metrics_of(20), sla).checks
    assert (few.outcome, few.grade) == (Outcome.INCONCLUSIVE, None)
    (broken,) = judge(metrics_of(20, failures=5), sla).checks
    assert (broken.outcome, broken.grade) == (Outcome.FAIL, "unacceptable")


def test_an_ungraded_limit_has_no_grade_at_either_gate() -> None:
    for gate in ("target", "acceptable"):
        (check,) = judge(metrics_of(), parse_sla("chat", KEPT).at(gate)).checks
        assert (check.outcome, check.grade) == (Outcome.PASS, None)


@pytest.mark.parametrize(
    ("document", "stopped", "outcome"),
    [
        (KEPT, BACKLOG, Outcome.FAIL),
        (OPEN, BACKLOG, Outcome.FAIL),
        (MISSED, BACKLOG, Outcome.FAIL),
        (KEPT, SETTLED, Outcome.PASS),
        (OPEN, SETTLED, Outcome.INCONCLUSIVE),
        (MISSED, SETTLED, Outcome.FAIL),
        (OPEN, None, Outcome.INCONCLUSIVE),
    ],
)
def test_a_load_that_was_stopped_by_a_settled_fail_fails(
    document: Mapping[str, object], stopped: Stopped | None, outcome: Outcome
) -> None:
    verdict = judge(metrics_of(), parse_sla("chat", document), stopped=stopped)
    assert verdict.outcome is outcome
    # A check that fails by itself says it with numbers; only where none does is the stop the reason.
    assert (BACKLOG.reason in verdict.reasons) == (stopped is BACKLOG and document is not MISSED)
    assert {reason_of(check) for check in verdict.checks if check.outcome is not Outcome.PASS} <= set(verdict.reasons)


def test_a_settled_fail_needs_no_request_that_ended() -> None:
    assert judge(metrics_of(0), parse_sla("chat", KEPT), stopped=BACKLOG).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("document", "outcome"), [(KEPT, Outcome.INCONCLUSIVE), (OPEN, Outcome.INCONCLUSIVE), (MISSED, Outcome.FAIL)]
)
def test_without_a_steady_state_there_is_no_pass(document: Mapping[str, object], outcome: Outcome) -> None:
    verdict = judge(metrics_of(), parse_sla("chat", document), steadiness=SATURATING)
    assert verdict.outcome is outcome
    assert verdict.reasons[0] == "unstable: the backlog grew by 40 requests"
    assert not verdict


def test_a_longer_warm_up_alone_changes_nothing() -> None:
    verdict = judge(metrics_of(), parse_sla("chat", KEPT), steadiness=Steadiness(extra_warmup_s=4.0))
    assert (verdict.outcome, verdict.reasons) == (Outcome.PASS, ())


def test_unstable_and_stopped_is_a_fail_with_both_reasons() -> None:
    verdict = judge(metrics_of(), parse_sla("chat", KEPT), steadiness=SATURATING, stopped=BACKLOG)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons == (BACKLOG.reason, f"unstable: {SATURATING.unstable}")


def test_a_run_that_is_not_trusted_stays_invalid() -> None:
    sla = parse_sla("chat", GRADED).at("acceptable")
    verdict = judge(metrics_of(), sla, ("worker 0 was late",), steadiness=SATURATING, stopped=BACKLOG)
    assert (verdict.outcome, verdict.reasons, verdict.gate) == (Outcome.INVALID, ("worker 0 was late",), "acceptable")
