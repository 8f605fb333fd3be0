"""Metrics of small logs, against values worked out by hand."""

from __future__ import annotations

import math
import pickle
import time

import numpy as np
import pytest

from pytest_llmperf.load.records import LoadResult, Outcome, RequestLog
from pytest_llmperf.measure.compute import Metrics, RequestCounts, measure
from pytest_llmperf.metrics import METRICS, metric_key
from tests.unit.measure.logs import Asked, failed, healthy, log_of, result_of, streamed


def measured(*asked: Asked, window: tuple[float, float] = (0.0, 10.0)) -> Metrics:
    return measure(result_of(asked, window), price_per_hour=None)


def value(metrics: Metrics, key: str) -> float:
    return metrics.estimate(metric_key(key)).value


def test_latencies_run_from_the_scheduled_start_and_service_latencies_from_the_sending() -> None:
    metrics = measured(Asked(1.0, ((1.7, 1), (1.8, 1), (2.0, 1)), sent_s=1.4))
    assert value(metrics, "ttft_p50") == pytest.approx(0.7)
    assert value(metrics, "e2e_p50") == pytest.approx(1.0)
    assert value(metrics, "service_ttft_p50") == pytest.approx(0.3)
    assert value(metrics, "service_e2e_p50") == pytest.approx(0.6)
    assert value(metrics, "tpot_p50") == pytest.approx(0.15)


def test_counted_are_requests_scheduled_in_the_window_that_are_no_warmup() -> None:
    metrics = measured(
        streamed(0.5, 9.0, warmup=True),
        streamed(1.0, 0.1),
        streamed(9.0, 0.3),
        streamed(9.01, 7.0),
        Asked(8.5, outcome=Outcome.CANCELLED),
        failed(8.0),
        window=(1.0, 9.0),
    )
    assert metrics.counts == RequestCounts(total=4, ok=2, failed=1, cancelled=1, warmup=1)
    assert metrics.counts.ended == 3
    assert sorted(metrics.distributions["ttft"].values) == pytest.approx([0.1, 0.3])
    assert value(metrics, "error_rate") == pytest.approx(1 / 3)


def test_a_warmup_request_inside_the_window_is_not_counted_either() -> None:
    assert measured(streamed(2.0, 0.1, warmup=True)).counts == RequestCounts(0, 0, 0, 0, warmup=1)


def test_a_failed_request_is_an_infinite_latency_in_quantiles_and_max_and_absent_from_mean_and_min() -> None:
    metrics = measured(*(streamed(i / 10, 0.1 + i / 100) for i in range(9)), failed(5.0))
    assert value(metrics, "ttft_p90") == pytest.approx(0.18)
    for name in ("ttft", "tpot", "itl", "e2e", "service_ttft", "service_e2e"):
        assert value(metrics, f"{name}_p99") == math.inf
        assert value(metrics, f"{name}_max") == math.inf
    assert value(metrics, "ttft_mean") == pytest.approx(0.14)
    assert value(metrics, "ttft_min") == pytest.approx(0.10)
    assert metrics.exceedances(metric_key("ttft_p99"), 0.165) == 3


def test_a_mean_says_what_it_leaves_out() -> None:
    some = measured(streamed(1.0, 0.1), failed(2.0), failed(3.0))
    assert some.left_out(metric_key("e2e_mean")) == (
        "2 of 3 requests failed and have no value: judge a percentile, or limit error_rate too"
    )
    assert some.left_out(metric_key("e2e_max")) == some.left_out(metric_key("error_rate")) == ""
    assert measured(streamed(1.0, 0.1)).left_out(metric_key("e2e_mean")) == ""


def test_a_failed_request_is_as_many_gaps_as_an_answered_one_has() -> None:
    # 3 of 10 failed, each answer has 100 gaps: 30 % of the gaps never ended.
    metrics = measured(*(streamed(i / 10, 0.1, 0.02, 101) for i in range(7)), *(failed(1.0 + i) for i in range(3)))
    gaps = metrics.distributions["itl"]
    assert (gaps.failures, gaps.samples) == (300, 10)
    assert value(metrics, "itl_p70") == pytest.approx(0.02)
    assert value(metrics, "itl_p71") == math.inf
    assert metrics.exceedances(metric_key("itl_p99"), 0.05) == 3


def test_equal_to_a_limit_by_rounding_is_not_beyond_it() -> None:
    # 0.1 + i / 10 - i / 10 is a little more than 0.1 for most i.
    metrics = measured(*(streamed(i / 10, 0.1) for i in range(50)))
    assert max(metrics.latencies["ttft"]) > 0.1
    assert metrics.goodput({"ttft": 0.1}).value == 1.0
    assert metrics.exceedances(metric_key("ttft_p95"), 0.1) == 0


def test_a_truncated_answer_is_a_failure_however_fast_its_first_token_was() -> None:
    cut = Asked(1.0, ((1.1, 1), (1.2, 1)), outcome=Outcome.TRUNCATED, error="truncated")
    metrics = measured(cut, streamed(2.0, 0.5))
    assert value(metrics, "ttft_p99") == math.inf
    assert metrics.distributions["ttft"].values == pytest.approx([0.5])
    assert metrics.errors == {"truncated": 1}


def test_errors_are_counted_by_class_the_most_frequent_first() -> None:
    metrics = measured(
        failed(1.0, Outcome.RESET, ""), failed(2.0, Outcome.HTTP_ERROR, "http 503"), failed(3.0, Outcome.HTTP_ERROR, "http 503")
    )
    assert list(metrics.errors.items()) == [("http 503", 2), ("reset", 1)]


def test_when_every_request_failed_every_latency_is_infinite() -> None:
    metrics = measured(failed(1.0), failed(2.0))
    for statistic in ("p50", "mean", "max", "min"):
        assert metrics.estimate(metric_key("ttft", statistic)).value == math.inf
    assert value(metrics, "error_rate") == 1.0


def test_without_a_request_everything_is_unknown_but_the_flow() -> None:
    metrics = measured()
    assert not metrics.estimate(metric_key("ttft_p50")).is_known
    assert not metrics.estimate(metric_key("error_rate")).is_known
    assert value(metrics, "request_rate") == 0.0


def test_tpot_needs_two_tokens_and_one_token_is_no_failure_of_it() -> None:
    single = Asked(1.0, ((1.5, 1),))
    assert not measured(single).estimate(metric_key("tpot_p50")).is_known
    both = measured(single, streamed(2.0, 0.1, gap_s=0.2, tokens=3))
    assert value(both, "tpot_max") == pytest.approx(0.2)
    assert both.estimate(metric_key("tpot_p50")).samples == 1


@pytest.mark.parametrize("chunks", [((6.0, 128),), ((6.0, 1),) * 128], ids=["one chunk", "many at once"])
def test_an_answer_that_arrived_at_one_instant_has_neither_tpot_nor_itl(chunks: tuple[tuple[float, int], ...]) -> None:
    buffered = Asked(1.0, chunks)
    both = measured(buffered, streamed(2.0, 0.1, gap_s=0.2, tokens=3))
    for name in ("tpot", "itl"):
        assert not measured(buffered).estimate(metric_key(f"{name}_p50")).is_known
        assert value(both, f"{name}_min") == pytest.approx(0.2)
        assert both.estimate(metric_key(f"{name}_p50")).samples == 1
    assert not measured(buffered, buffered, streamed(2.0, 0.1)).goodput({"tpot": 0.1}).is_known


def test_an_answer_without_tokens_has_an_end_but_no_first_token() -> None:
    metrics = measured(Asked(1.0, end_s=1.25, output_tokens=0))
    assert value(metrics, "e2e_max") == pytest.approx(0.25)
    assert not metrics.estimate(metric_key("ttft_p50")).is_known
    assert value(metrics, "error_rate") == 0.0
    assert value(metrics, "output_tokens_per_s") == 0.0


def test_a_latency_the_load_cannot_have_is_unknown_and_not_infinite_because_something_failed() -> None:
    whole = Asked(1.0, end_s=3.0, output_tokens=50)
    metrics = measured(whole, failed(2.0))
    assert not metrics.estimate(metric_key("ttft_p99")).is_known
    assert value(metrics, "e2e_p50") == pytest.approx(2.0)


def test_itl_shares_a_gap_among_the_tokens_of_its_later_chunk() -> None:
    # Gaps: 0.30 s / 3 tokens, 0.05 s / 1 token; then another request with one gap of 0.40 s / 2.
    metrics = measured(Asked(1.0, ((1.2, 5), (1.5, 3), (1.55, 1))), Asked(2.0, ((2.1, 1), (2.5, 2))))
    assert value(metrics, "itl_p50") == pytest.approx(0.1)
    assert value(metrics, "itl_max") == pytest.approx(0.2)
    assert value(metrics, "itl_mean") == pytest.approx((0.1 + 0.05 + 0.2) / 3)
    # Gaps of one answer go together: three gaps, two observations.
    assert metrics.estimate(metric_key("itl_p50")).samples == 2


def test_itl_knows_no_gap_between_requests_nor_of_requests_not_counted() -> None:
    asked = [
        streamed(0.5, 0.1, gap_s=3.0, warmup=True),
        failed(1.5),
        streamed(2.0, 0.1, gap_s=0.2),
        Asked(2.5, end_s=2.6, output_tokens=0),
        Asked(3.0, ((3.1, 1),)),
        streamed(4.0, 0.1, gap_s=0.3, tokens=3),
        Asked(5.0, ((5.1, 1), (9.0, 1)), outcome=Outcome.CANCELLED),
    ]
    metrics = measured(*asked, window=(1.0, 10.0))
    gaps = metrics.distributions["itl"]
    assert sorted(gaps.values) == pytest.approx([0.2, 0.3, 0.3])
    assert (gaps.failures, gaps.samples) == (1, 3)


def test_tokens_are_credited_when_they_arrive_inside_the_window() -> None:
    asked = [
        Asked(0.5, ((0.9, 1), (1.1, 4)), warmup=True, prompt_tokens=100),  # 4 tokens inside, the prompt was read before
        Asked(2.0, ((2.1, 2), (4.9, 3), (5.2, 7)), prompt_tokens=30),  # 5 inside
        Asked(4.5, ((5.5, 9),), prompt_tokens=50),  # nothing inside
        Asked(3.0, ((3.5, 1),), outcome=Outcome.CANCELLED, prompt_tokens=7),  # its token had come
    ]
    metrics = measured(*asked, window=(1.0, 5.0))
    assert value(metrics, "output_tokens_per_s") == pytest.approx((4 + 5 + 1) / 4)
    assert value(metrics, "total_tokens_per_s") == pytest.approx((4 + 5 + 1 + 30 + 7) / 4)
    # Only the warm-up's answer was complete within the window: rates are flows, not counts of the counted.
    assert value(metrics, "request_rate") == pytest.approx(1 / 4)


def test_an_answer_that_came_whole_is_credited_at_its_end() -> None:
    inside, outside = Asked(1.0, end_s=3.0, output_tokens=40), Asked(8.0, end_s=11.0, output_tokens=40)
    metrics = measured(inside, outside)
    assert value(metrics, "output_tokens_per_s") == pytest.approx(4.0)
    assert value(metrics, "total_tokens_per_s") == pytest.approx(5.0)


def test_a_failed_answers_planned_tokens_are_not_credited() -> None:
    lost = Asked(1.0, outcome=Outcome.RESET, output_tokens=500)
    assert value(measured(lost), "total_tokens_per_s") == 0.0


def test_price_per_million_tokens() -> None:
    result = result_of([Asked(1.0, ((2.0, 1000),))])
    key = metric_key("cost_per_mtok")
    assert measure(result, price_per_hour=3.6).estimate(key).value == pytest.approx(3.6 / (100 * 3600) * 1e6)
    assert math.isnan(measure(result, price_per_hour=None).estimate(key).value)
    assert measure(result_of([]), price_per_hour=3.6).estimate(key).value == math.inf


def test_a_window_without_length_has_no_rates() -> None:
    assert math.isnan(value(measured(streamed(1.0, 0.1), window=(1.0, 1.0)), "output_tokens_per_s"))


def test_goodput_counts_requests_that_meet_every_limit() -> None:
    metrics = measured(
        streamed(1.0, 0.1, gap_s=0.01),
        streamed(2.0, 0.9, gap_s=0.01),  # late
        streamed(3.0, 0.1, gap_s=0.50),  # slow
        Asked(4.0, ((4.1, 1),)),  # has no TPOT that could be too long
        failed(5.0),
    )
    assert metrics.goodput({"ttft": 0.5, "tpot": 0.1}).value == pytest.approx(2 / 5)
    assert metrics.goodput({"ttft": 0.5}).value == pytest.approx(3 / 5)
    assert metrics.goodput({"tpot": 0.1}).value == pytest.approx(3 / 5)
    mostly_single = measured(streamed(1.0, 0.1), *(Asked(2.0 + i, ((2.1 + i, 1),)) for i in range(2)))
    assert not mostly_single.goodput({"tpot": 0.1}).is_known
    assert not metrics.goodput({}).is_known
    assert not metrics.estimate(metric_key("goodput")).is_known


def test_the_standard_metrics_are_the_whole_registry() -> None:
    standard = measured(streamed(1.0, 0.1)).standard()
    scalars = {metric.name for metric in METRICS.values() if not metric.is_distribution}
    distributions = {metric.name for metric in METRICS.values() if metric.is_distribution}
    assert set(standard) == scalars | {f"{d}_{s}" for d in distributions for s in ("p50", "p90", "p95", "p99", "mean", "max")}


def test_metrics_survive_pickling() -> None:
    metrics = measured(streamed(1.0, 0.1), failed(2.0))
    again = pickle.loads(pickle.dumps(metrics))
    assert again.counts == metrics.counts
    assert again.estimate(metric_key("ttft_p50")) == metrics.estimate(metric_key("ttft_p50"))


def large_log(requests: int, tokens: int) -> RequestLog:
    """An even log without a Python loop over its requests."""
    small = log_of([streamed(0.0, 0.1)])
    scheduled = np.arange(requests) / 100
    chunk_s = (scheduled[:, None] + 0.1 + 0.02 * np.arange(tokens)[None, :]).ravel()
    ones = {
        name: np.repeat(getattr(small, name), requests)
        for name in ("outcome", "http_status", "prompt_tokens", "usage_reported", "received_bytes", "session", "turn", "worker")
    }
    return RequestLog(
        **ones,
        scheduled_s=scheduled,
        sent_s=scheduled,
        connected_s=scheduled,
        first_byte_s=scheduled + 0.1,
        first_token_s=scheduled + 0.1,
        last_token_s=chunk_s[tokens - 1 :: tokens],
        end_s=chunk_s[tokens - 1 :: tokens],
        output_tokens=np.full(requests, tokens),
        planned_prompt_tokens=np.full(requests, 10),
        planned_output_tokens=np.full(requests, tokens),
        warmup=np.zeros(requests, np.bool_),
        error=("",) * requests,
        chunk_start=np.arange(requests + 1) * tokens,
        chunk_s=chunk_s,
        chunk_tokens=np.ones(requests * tokens, np.uint16),
    )


def test_a_hundred_thousand_answers_of_a_hundred_tokens_are_measured_in_seconds() -> None:
    requests = 100_000
    result = LoadResult(large_log(requests, 100), healthy(requests), 0.0, 0.0, 1000.0, interrupted=False)
    began = time.process_time()
    standard = measure(result, price_per_hour=2.0).standard()
    assert time.process_time() - began < 6  # it takes under 2 s on an idle core; loaded CI machines get three times that
    assert standard["ttft_p99"].value == pytest.approx(0.1)
    assert standard["itl_p99"].value == pytest.approx(0.02)
    assert standard["itl_p99"].samples == requests
