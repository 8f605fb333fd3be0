"""Verdicts at, around and far from their limits, and with too few samples for any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pytest_llmperf.experiment.sla import Gate, Sla, Threshold, parse_sla
from pytest_llmperf.judge.verdict import Check, Outcome, Verdict, judge, request_limits, samples_needed
from pytest_llmperf.load.records import Outcome as Ended
from pytest_llmperf.measure.compute import Metrics, measure
from pytest_llmperf.measure.latencies import PER_REQUEST
from pytest_llmperf.measure.run import Estimate
from pytest_llmperf.measure.trust import ClientDelay
from pytest_llmperf.metrics import METRICS, metric_key
from tests.unit.measure.logs import Asked, failed, result_of, streamed


def sla(document: Mapping[str, object]) -> Sla:
    return parse_sla("chat", document)


def metrics_of(*asked: Asked) -> Metrics:
    return measure(result_of(asked, window=(0.0, 1000.0)), price_per_hour=None)


def answered(requests: int, slow: int = 0, failures: int = 0) -> Metrics:
    """So many requests, of which the last ``slow`` take 2 s to the first token instead of 0.1 s, and ``failures`` more."""
    asked = [streamed(i / 10, 2.0 if i >= requests - slow else 0.1) for i in range(requests)]
    return metrics_of(*asked, *(failed(i / 10) for i in range(failures)))


def only(verdict: Verdict) -> Check:
    (check,) = verdict.checks
    return check


@pytest.mark.parametrize(
    ("key", "needed"),
    [
        ("ttft_p99", 299),
        ("ttft_p95", 59),
        ("ttft_p90", 29),
        ("ttft_p99.9", 2995),
        ("ttft_p50", 5),
        ("ttft_p5", 59),
        ("ttft_p0", 1),
        ("ttft_mean", 5),
        ("ttft_max", 5),
        ("error_rate", 1),
        ("output_tokens_per_s", 1),
    ],
)
def test_samples_needed(key: str, needed: int) -> None:
    assert samples_needed(metric_key(key)) == needed


def test_enough_fast_requests_pass() -> None:
    verdict = judge(answered(299), sla({"ttft": {"p99": "1s"}}))
    assert verdict
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons == ()
    assert only(verdict).margin == pytest.approx(0.1)


@pytest.mark.parametrize(("requests", "missing"), [(298, 1), (109, 190), (1, 298)])
def test_one_request_fewer_than_p99_needs_is_inconclusive_and_says_how_many_more(requests: int, missing: int) -> None:
    verdict = judge(answered(requests), sla({"ttft": {"p99": "1s"}}))
    assert not verdict
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert only(verdict).note == f"needs {missing} more samples ({requests} of 299)"
    assert verdict.reasons == (f"TTFT p99: {only(verdict).note}",)


@pytest.mark.parametrize(
    ("slow", "outcome"), [(2, Outcome.PASS), (3, Outcome.FAIL)], ids=["the 297th of 299 is fast", "the 297th is slow"]
)
def test_the_quantile_is_the_boundary(slow: int, outcome: Outcome) -> None:
    assert judge(answered(299, slow), sla({"ttft": {"p99": "1s"}})).outcome is outcome


@pytest.mark.parametrize(("slow", "outcome"), [(2, Outcome.INCONCLUSIVE), (3, Outcome.FAIL)])
def test_few_samples_fail_where_no_further_ones_could_mend_it(slow: int, outcome: Outcome) -> None:
    verdict = judge(answered(50, slow), sla({"ttft": {"p99": "1s"}}))
    assert verdict.outcome is outcome
    if outcome is Outcome.FAIL:
        assert only(verdict).note == "3 of 50 samples are beyond the limit; of 299 no more than 2 may be"


@pytest.mark.parametrize("limit", ["100ms", "97ms"])
def test_a_value_at_the_limit_keeps_it(limit: str) -> None:
    metrics = metrics_of(*(Asked(0.0, ((0.1, 1), (0.2, 1))) for _ in range(60)))
    expected = Outcome.PASS if limit == "100ms" else Outcome.FAIL
    assert judge(metrics, sla({"ttft": {"p95": limit}})).outcome is expected


def test_a_share_that_equals_the_limit_in_decimal_keeps_it() -> None:
    metrics = answered(993, failures=7)
    # 0.7 / 100 is less than 7 / 1000 in binary.
    assert 0.7 / 100 < 7 / 1000
    assert judge(metrics, sla({"error_rate": "0.7%"})).outcome is Outcome.PASS
    assert judge(answered(992, failures=8), sla({"error_rate": "0.7%"})).outcome is Outcome.FAIL


def test_an_error_rate_is_judged_as_measured_with_its_interval_beside() -> None:
    check = only(judge(answered(100), sla({"error_rate": "0.1%"})))
    assert check.outcome is Outcome.PASS
    assert check.estimate.low == 0.0
    assert check.estimate.high == pytest.approx(0.0362, abs=1e-4)


def test_failures_fail_a_latency_however_fast_the_rest_was() -> None:
    verdict = judge(answered(296, failures=4), sla({"ttft": {"p99": "1s"}}))
    assert verdict.outcome is Outcome.FAIL
    assert only(verdict).estimate.value == math.inf
    assert only(verdict).margin == math.inf
    assert verdict.reasons == (
        "TTFT p99 is inf, required <= 1s: 4 of 300 requests failed and count as never answered; all: timeout",
    )


def test_a_miss_by_failures_names_the_most_frequent_error() -> None:
    asked = [failed(i / 10, error="http 401" if i < 6 else "timeout") for i in range(10)]
    metrics = measure(result_of(asked, window=(0.0, 10.0)), price_per_hour=None)
    limits = {"error_rate": "1%", "goodput": {"min": "90%", "within": {"ttft": "1s"}}, "ttft": {"p50": "1s", "p99": "1s"}}
    notes = {check.threshold.key.name: check.note for check in judge(metrics, sla(limits)).checks}
    assert notes["error_rate"] == notes["goodput"] == "10 of 10 requests failed; most: http 401, 6"
    assert notes["ttft_p50"] == "10 of 10 requests failed and count as never answered; most: http 401, 6"
    assert "(10 requests failed; most: http 401, 6)" in notes["ttft_p99"]


def test_a_goodput_missed_by_slow_answers_blames_no_failure() -> None:
    check = only(judge(answered(95, failures=5, slow=50), sla({"goodput": {"min": "90%", "within": {"ttft": "1s"}}})))
    assert (check.outcome, check.note) == (Outcome.FAIL, "")


def test_two_failures_in_300_leave_p99_as_it_is() -> None:
    assert judge(answered(298, failures=2), sla({"ttft": {"p99": "1s"}})).outcome is Outcome.PASS


def test_a_mean_needs_a_few_and_an_extreme_is_certain_once_missed() -> None:
    assert judge(answered(4), sla({"ttft": {"mean": "1s"}})).outcome is Outcome.INCONCLUSIVE
    assert judge(answered(5), sla({"ttft": {"mean": "1s"}})).outcome is Outcome.PASS
    assert judge(answered(4), sla({"ttft": {"max": "1s"}})).outcome is Outcome.INCONCLUSIVE
    assert judge(answered(2, slow=1), sla({"ttft": {"max": "1s"}})).outcome is Outcome.FAIL


def test_a_mean_of_the_answered_alone_is_not_kept() -> None:
    check = only(judge(answered(299, failures=1), sla({"e2e": {"mean": "9s"}})))
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.note == "1 of 300 requests failed and have no value: judge a percentile, or limit error_rate too"
    assert judge(answered(299, failures=1), sla({"e2e": {"mean": "1ms"}})).outcome is Outcome.FAIL
    assert judge(answered(0, failures=5), sla({"e2e": {"mean": "9s"}})).outcome is Outcome.FAIL


def test_a_mean_stands_where_another_limit_answers_for_what_failed() -> None:
    some_failed = answered(299, failures=1)
    assert judge(some_failed, sla({"e2e": {"mean": "9s"}, "error_rate": "1%"})).outcome is Outcome.PASS
    mean, errors = judge(some_failed, sla({"e2e": {"mean": "9s"}, "error_rate": "0.1%"})).checks
    assert (mean.outcome, errors.outcome) == (Outcome.PASS, Outcome.FAIL)


def test_a_request_that_failed_misses_every_maximum() -> None:
    verdict = judge(answered(299, failures=1), sla({"e2e": {"max": "9s"}}))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons == (
        "E2E max is inf, required <= 9s: 1 of 300 requests failed and count as never answered; all: timeout",
    )
    assert judge(answered(1, failures=1), sla({"e2e": {"max": "9s"}})).outcome is Outcome.FAIL


def test_higher_is_better_is_judged_the_other_way_round() -> None:
    metrics = answered(100)  # 200 tokens in 1,000 s
    assert judge(metrics, sla({"output_tokens_per_s": 0.2})).outcome is Outcome.PASS
    verdict = judge(metrics, sla({"output_tokens_per_s": 0.4}))
    assert verdict.outcome is Outcome.FAIL
    assert only(verdict).margin == pytest.approx(0.5)


def test_no_request_never_passes() -> None:
    document = {"ttft": {"p50": "1s"}, "error_rate": "1%", "output_tokens_per_s": 0}
    verdict = judge(metrics_of(), sla(document))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert {check.note for check in verdict.checks} == {"no request was counted"}
    only_warmup = metrics_of(*(streamed(1.0, 0.1, warmup=True) for _ in range(500)))
    assert judge(only_warmup, sla(document)).outcome is Outcome.INCONCLUSIVE
    cancelled = metrics_of(Asked(1.0, outcome=Ended.CANCELLED))
    assert judge(cancelled, sla(document)).outcome is Outcome.INCONCLUSIVE


def test_an_sla_without_a_threshold_never_passes() -> None:
    assert judge(answered(10), Sla("empty", ())).outcome is Outcome.INCONCLUSIVE


def test_one_fail_beats_what_is_open_and_what_is_open_beats_a_pass() -> None:
    metrics = answered(100)
    both = judge(metrics, sla({"ttft": {"p50": "1s", "p99": "1s"}}))
    assert both.outcome is Outcome.INCONCLUSIVE
    assert [check.outcome for check in both.checks] == [Outcome.PASS, Outcome.INCONCLUSIVE]
    assert judge(metrics, sla({"ttft": {"p50": "50ms", "p99": "1s"}})).outcome is Outcome.FAIL


@pytest.mark.parametrize("limit", ["1s", "1ms"])
def test_a_client_that_is_not_trusted_makes_any_verdict_invalid(limit: str) -> None:
    verdict = judge(answered(300), sla({"ttft": {"p99": limit}}), ("worker 0 was late",))
    assert verdict.outcome is Outcome.INVALID
    assert not verdict
    assert verdict.reasons == ("worker 0 was late",)
    assert only(verdict).outcome in {Outcome.PASS, Outcome.FAIL}  # what was measured is still shown


@pytest.mark.parametrize(
    ("limits", "delay", "outcome"),
    [
        # Every request took 100 ms to its first token, and its other gaps are 100 ms too.
        ({"itl": {"p50": "95ms"}}, ClientDelay(reading_s=0.006), Outcome.INVALID),
        ({"itl": {"p50": "95ms"}}, ClientDelay(sending_s=0.009, reading_s=0.004), Outcome.FAIL),
        ({"tpot": {"p50": "95ms"}}, ClientDelay(sending_s=0.009, reading_s=0.009), Outcome.FAIL),
        ({"ttft": {"p50": "90ms"}}, ClientDelay(sending_s=0.009, reading_s=0.009), Outcome.INVALID),
        ({"ttft": {"p50": "80ms"}}, ClientDelay(sending_s=0.009, reading_s=0.009), Outcome.FAIL),
        ({"ttft": {"p50": "101ms"}}, ClientDelay(sending_s=0.009, reading_s=0.009), Outcome.PASS),
        ({"service_ttft": {"p50": "90ms"}}, ClientDelay(sending_s=0.02, reading_s=0.009), Outcome.FAIL),
        ({"error_rate": "0.1%"}, ClientDelay(sending_s=0.009, reading_s=0.009), Outcome.PASS),
        # A stall that less than 1 % of the requests met may have made the highest, but no p99.
        ({"ttft": {"max": "50ms"}}, ClientDelay(sending_max_s=0.03, reading_max_s=0.03), Outcome.INVALID),
        ({"ttft": {"max": "30ms"}}, ClientDelay(sending_max_s=0.03, reading_max_s=0.03), Outcome.FAIL),
        ({"ttft": {"p99": "99ms"}}, ClientDelay(sending_max_s=0.03, reading_max_s=0.03), Outcome.FAIL),
        ({"itl": {"max": "80ms"}}, ClientDelay(sending_max_s=0.03, reading_max_s=0.03), Outcome.INVALID),
        ({"itl": {"max": "60ms"}}, ClientDelay(sending_max_s=0.03, reading_max_s=0.03), Outcome.FAIL),
        # A mean has a hundredth of it.
        ({"ttft": {"mean": "95ms"}}, ClientDelay(sending_max_s=0.3, reading_max_s=0.3), Outcome.INVALID),
        ({"ttft": {"mean": "90ms"}}, ClientDelay(sending_max_s=0.3, reading_max_s=0.3), Outcome.FAIL),
        ({"goodput": {"min": "99.5%", "within": {"ttft": "50ms"}}}, ClientDelay(reading_max_s=0.06), Outcome.INVALID),
        ({"goodput": {"min": "99%", "within": {"ttft": "50ms"}}}, ClientDelay(reading_max_s=0.06), Outcome.FAIL),
    ],
)
def test_a_miss_that_the_client_may_have_caused_is_invalid(
    limits: Mapping[str, object], delay: ClientDelay, outcome: Outcome
) -> None:
    verdict = judge(replace(answered(299), client_delay=delay), sla(limits))
    assert verdict.outcome is outcome
    assert any("the client's own delay may be" in reason for reason in verdict.reasons) == (outcome is Outcome.INVALID)


def test_a_quantile_above_p99_may_have_been_made_by_a_stall() -> None:
    metrics = replace(answered(2000), client_delay=ClientDelay(reading_max_s=0.06))
    for quantile, outcome in (("p99", Outcome.FAIL), ("p99.5", Outcome.INVALID), ("p99.9", Outcome.INVALID)):
        assert judge(metrics, sla({"ttft": {quantile: "50ms"}})).outcome is outcome, quantile


def test_a_client_that_may_have_caused_one_miss_of_two_excuses_neither() -> None:
    metrics = replace(answered(299), client_delay=ClientDelay(sending_s=0.009, reading_s=0.009))
    narrowly, by_far = {"ttft": {"p50": "90ms"}}, {"ttft": {"p50": "50ms", "p95": "90ms"}}
    assert judge(metrics, sla(narrowly)).outcome is Outcome.INVALID
    assert judge(metrics, sla(by_far)).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("document", "slow", "outcome"),
    [
        # Every request took 100 ms to its first token, of which up to 18 ms are the client's.
        ({"goodput": {"min": "95%", "within": {"ttft": "90ms"}}}, 0, Outcome.INVALID),
        ({"goodput": {"min": "95%", "within": {"ttft": "80ms"}}}, 0, Outcome.FAIL),
        ({"goodput": {"min": "95%", "within": {"ttft": "90ms"}}}, 14, Outcome.INVALID),
        ({"goodput": {"min": "95%", "within": {"ttft": "90ms"}}}, 15, Outcome.FAIL),
        ({"goodput": {"min": "95%", "within": {"tpot": "99ms"}}}, 0, Outcome.FAIL),
        ({"goodput": {"min": "95%", "within": {"ttft": "101ms"}}}, 0, Outcome.PASS),
        ({"ttft": {"p50": "90ms"}, "goodput": "95%"}, 0, Outcome.INVALID),
        ({"ttft": {"p50": "90ms"}, "goodput": "95%", "error_rate": "0%"}, 0, Outcome.INVALID),
        ({"ttft": {"p50": "90ms"}, "goodput": "95%", "request_rate": "9/s"}, 0, Outcome.FAIL),
    ],
)
def test_a_miss_of_goodput_that_the_client_may_have_caused_is_invalid(
    document: Mapping[str, object], slow: int, outcome: Outcome
) -> None:
    metrics = replace(answered(299, slow), client_delay=ClientDelay(sending_s=0.009, reading_s=0.009))
    verdict = judge(metrics, sla(document))
    assert verdict.outcome is outcome
    if outcome is Outcome.INVALID:
        (reason,) = (reason for reason in verdict.reasons if reason.startswith("goodput"))
        good = {0: "100%", 14: "95.3%"}[slow]
        assert reason.startswith("goodput >= 95%: measured 0%, which without what the client's own delay may be would be " + good)


def test_a_metric_the_load_cannot_have_is_inconclusive_and_says_why() -> None:
    whole = metrics_of(*(Asked(1.0, end_s=2.0, output_tokens=5) for _ in range(300)))
    assert "no request has a TTFT" in only(judge(whole, sla({"ttft": {"p99": "1s"}}))).note
    assert only(judge(whole, sla({"cost_per_mtok": "$1"}))).note == "the cell has no price"


def test_goodput_is_held_against_the_limits_of_the_same_sla() -> None:
    metrics = answered(100, slow=10)
    document: dict[str, object] = {"ttft": {"p50": "1s"}, "goodput": "90%"}
    good = judge(metrics, sla(document)).checks[1]
    assert good.outcome is Outcome.PASS
    assert good.estimate.value == pytest.approx(0.9)
    assert judge(metrics, sla({**document, "goodput": "91%"})).checks[1].outcome is Outcome.FAIL


@pytest.mark.parametrize("gate", ["target", "acceptable"])
def test_a_request_is_good_by_the_targets_whatever_the_gate(gate: Gate) -> None:
    document = {
        "ttft": {"p99": {"target": "1s", "acceptable": "3s"}},
        "goodput": {"target": "99%", "acceptable": "95%", "poor": "85%"},
    }
    # 10 % take 2 s: not good by the target, good by what is acceptable.
    verdict = judge(answered(300, slow=30), sla(document).at(gate))
    latency, goodput = verdict.checks
    assert (latency.grade, goodput.grade) == ("acceptable", "poor")
    assert goodput.estimate.value == pytest.approx(0.9)
    assert verdict.outcome is Outcome.FAIL
    assert request_limits(sla(document).at(gate).thresholds) == {"ttft": 1.0}


def test_goodput_within_a_latency_that_no_answer_has_is_inconclusive() -> None:
    whole = metrics_of(*(Asked(1.0, end_s=31.0, output_tokens=5) for _ in range(300)))
    check = only(judge(whole, sla({"goodput": {"min": "95%", "within": {"ttft": "1s"}}})))
    assert check.outcome is Outcome.INCONCLUSIVE
    assert "fewer than half of the answers have one of the latencies" in check.note


def test_goodput_with_limits_of_its_own_is_held_against_those() -> None:
    metrics = answered(100, slow=10)  # 2 s to the first token, else 0.1 s
    document: dict[str, object] = {"ttft": {"p50": "3s"}, "goodput": {"min": "95%", "within": {"ttft": "1s", "e2e": "20s"}}}
    strict = judge(metrics, sla(document)).checks[1]
    assert strict.estimate.value == pytest.approx(0.9)
    assert strict.outcome is Outcome.FAIL
    # By the SLA's other line, TTFT p50 <= 3s, every request is good.
    assert judge(metrics, sla({**document, "goodput": "95%"})).checks[1].outcome is Outcome.PASS
    without = sla({"goodput": {"min": "90%", "within": {"ttft": "1s"}}})
    assert judge(metrics, without).outcome is Outcome.PASS
    assert request_limits(sla(document).thresholds) == {"ttft": 1.0, "e2e": 20.0}


def test_the_registry_and_the_measurement_agree_on_what_a_request_has() -> None:
    assert tuple(metric.name for metric in METRICS.values() if metric.per_request) == PER_REQUEST


def test_a_request_may_take_what_the_highest_quantile_allows() -> None:
    document = {
        "ttft": {"p50": "300ms", "p99": "1s"},
        "e2e": {"max": "9s", "p99": "5s"},
        "tpot": {"mean": "50ms"},
        "itl": {"p99": "1s"},
    }
    assert request_limits(sla(document).thresholds) == {"ttft": 1.0, "e2e": 9.0}


@pytest.mark.parametrize(("value", "margin"), [(0.0, 1.0), (0.001, math.inf)])
def test_the_margin_to_a_limit_of_nothing(value: float, margin: float) -> None:
    threshold = Threshold(metric_key("error_rate"), "<=", 0.0)
    assert Check(threshold, Estimate(value, 0.0, 0.1, 10), Outcome.PASS, "").margin == margin


def test_itl_needs_as_many_answers_as_a_latency_needs_requests() -> None:
    few = metrics_of(*(streamed(i, 0.1, tokens=100, gap_s=0.01) for i in range(20)))
    check = only(judge(few, sla({"itl": {"p99": "50ms"}})))
    assert (check.outcome, check.note) == (Outcome.INCONCLUSIVE, "needs 279 more samples (20 of 299)")
