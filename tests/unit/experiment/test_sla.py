"""SLAs: limits read in their metric's unit, in the direction the metric has."""

from __future__ import annotations

import math

import pytest

from pytest_llmperf.experiment.sla import SlaKeyError, Threshold, parse_sla
from pytest_llmperf.metrics import metric_key


def test_limits_take_their_metrics_direction() -> None:
    sla = parse_sla("mine", {"ttft": {"p50": "200ms", "p99": "<= 1s"}, "output_tokens_per_s": "100/s", "error_rate": "0.1%"})
    assert str(sla) == "mine"
    assert [(t.key.name, t.comparator, t.limit, t.required) for t in sla.thresholds] == [
        ("ttft_p50", "<=", 0.2, "<= 200ms"),
        ("ttft_p99", "<=", 1.0, "<= 1s"),
        ("output_tokens_per_s", ">=", 100.0, ">= 100/s"),
        ("error_rate", "<=", 0.001, "<= 0.1%"),
    ]


@pytest.mark.parametrize(
    ("metric", "limit", "kept", "missed"),
    [("ttft_p99", 1.0, 1.0, 1.01), ("request_rate", 4.0, 4.0, 3.99)],
)
def test_a_limit_is_kept_at_the_limit(metric: str, limit: float, kept: float, missed: float) -> None:
    threshold = Threshold(metric_key(metric), ">=" if metric == "request_rate" else "<=", limit)
    assert threshold.met_by(kept)
    assert not threshold.met_by(missed)
    assert not threshold.met_by(math.nan)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"ttft": {"p99": "1"}}, ("ttft", "p99")),
        ({"tfft": {"p99": "1s"}}, ("tfft", "p99")),
        ({"error_rate": "1.5"}, ("error_rate",)),
        ({"error_rate": None}, ("error_rate",)),
        ({"ttft": {"p99": "1s"}, "ttft_p99": "2s"}, ("ttft_p99",)),
        ({}, ()),
    ],
)
def test_a_bad_entry_leads_to_itself(document: dict[str, object], path: tuple[str, ...]) -> None:
    with pytest.raises(SlaKeyError) as caught:
        parse_sla("mine", document)
    assert caught.value.path == path


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(SlaKeyError, match="an SLA is a mapping of metrics to limits, not 'fast'"):
        parse_sla("mine", "fast")  # type: ignore[arg-type]
