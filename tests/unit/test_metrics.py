"""The registry of metrics: every key is found, read and shown in its own unit."""

from __future__ import annotations

import math

import pytest

from pytest_llmperf.errors import UnitError
from pytest_llmperf.metrics import METRICS, Metric, Unit, format_value, metric_key, parse_value


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_says_what_it_is(metric: Metric) -> None:
    assert metric.title
    assert metric.definition
    assert metric.source
    assert metric_key(metric.name, "p95" if metric.is_distribution else None).metric is metric


def test_key_of_a_distribution() -> None:
    key = metric_key("ttft_p99")
    assert key == metric_key("ttft", "p99")
    assert (key.name, key.title, key.quantile) == ("ttft_p99", "TTFT p99", 0.99)
    assert metric_key("service_ttft_p50").metric.name == "service_ttft"
    assert metric_key("ttft_p99.9").quantile == pytest.approx(0.999)
    assert metric_key("ttft_mean").quantile is None


@pytest.mark.parametrize(
    ("written", "statistic"), [("p50.0", "p50"), ("p99.90", "p99.9"), ("p05", "p5"), ("p99.999999", "p99.999999"), ("p10", "p10")]
)
def test_a_quantile_has_one_key_however_it_is_written(written: str, statistic: str) -> None:
    assert metric_key("ttft", written) == metric_key(f"ttft_{written}") == metric_key("ttft", statistic)
    assert metric_key("ttft", written).statistic == statistic


def test_key_of_a_scalar() -> None:
    key = metric_key("error_rate")
    assert (key.name, key.title, key.quantile) == ("error_rate", "error rate", None)


@pytest.mark.parametrize(
    ("name", "statistic", "message"),
    [
        ("tfft", "p99", f"unknown metric 'tfft'; did you mean 'ttft'? (known: {', '.join(METRICS)})"),
        (
            "output_token_per_s",
            None,
            f"unknown metric 'output_token_per_s'; did you mean 'output_tokens_per_s'? (known: {', '.join(METRICS)})",
        ),
        ("zzz", None, f"unknown metric 'zzz' (known: {', '.join(METRICS)})"),
        ("ttft", None, "ttft needs a statistic such as p50, p95, p99, mean or max, not None"),
        ("ttft_q99", None, "ttft needs a statistic such as p50, p95, p99, mean or max, not 'q99'"),
        ("ttft", "p999", "ttft needs a statistic such as p50, p95, p99, mean or max, not 'p999'"),
        ("ttft", "median", "ttft needs a statistic such as p50, p95, p99, mean or max, not 'median'"),
        ("error_rate", "p99", "error_rate has one value a run, so no statistic 'p99'"),
    ],
)
def test_bad_keys(name: str, statistic: str | None, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        metric_key(name, statistic)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("metric", "text", "value", "shown"),
    [
        ("ttft", "500ms", 0.5, "500ms"),
        ("error_rate", "0.1%", 0.001, "0.1%"),
        ("request_rate", "4/s", 4.0, "4/s"),
        ("output_tokens_per_s", "1.5k", 1500.0, "1,500/s"),
        ("cost_per_mtok", "$2.50", 2.5, "$2.50"),
        ("cost_per_mtok", 2.5, 2.5, "$2.50"),
        ("cost_per_mtok_input", "$0.0352", 0.0352, "$0.035"),
        ("requests_per_gpu_hour", "7200/h", 7200.0, "7,200/h"),
        ("requests_per_gpu_hour", "2/s", 7200.0, "7,200/h"),
        ("requests_per_gpu_hour", "7.2k", 7200.0, "7,200/h"),
        ("tokens_per_dollar", "450k/$", 450_000.0, "450,000/$"),
        ("tokens_per_dollar", "450k", 450_000.0, "450,000/$"),
        ("joules_per_token", "400mJ", 0.4, "0.4J"),
        ("joules_per_token", 0.4, 0.4, "0.4J"),
    ],
)
def test_values(metric: str, text: object, value: float, shown: str) -> None:
    assert parse_value(METRICS[metric], text) == pytest.approx(value)
    assert format_value(METRICS[metric], value) == shown


def test_plain_counts() -> None:
    preemptions = Metric("preemptions", "preemptions", Unit.COUNT, False, False, "", "")
    assert parse_value(preemptions, "1k") == 1000
    assert format_value(preemptions, 12) == "12"
    assert format_value(preemptions, math.nan) == "-"
