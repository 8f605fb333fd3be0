"""The export as OpenMetrics: read by Prometheus' own parsers, of this form and of the older one that a push gateway has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed
from prometheus_client.parser import text_string_to_metric_families as parsed_by_a_push_gateway

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.metrics import METRICS
from pytest_llmperf.report.exports import FORMATS, write_export
from pytest_llmperf.report.exports.openmetrics import openmetrics
from tests.unit.report.exported import measured, session


def test_both_parsers_read_the_same() -> None:
    text = openmetrics(session([measured(), measured(test="test_other", failures=200)]))
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in parsed(text)}
    assert {family.type for family in families.values()} == {"gauge"}
    assert all(family.documentation for family in families.values())
    older = {sample for family in parsed_by_a_push_gateway(text) for sample in map(str, family.samples)}
    assert older == {sample for family in families.values() for sample in map(str, family.samples)}


def test_a_family_for_each_metric_named_by_its_unit() -> None:
    families = {family.name: family.unit for family in parsed(openmetrics(session([measured()])))}
    assert len(families) == len(METRICS) + 2
    assert families["llmperf_ttft_seconds"] == "seconds"
    assert families["llmperf_error_rate_ratio"] == "ratio"
    assert families["llmperf_output_tokens_per_second"] == "per_second"
    assert families["llmperf_request_rate_per_second"] == "per_second"
    assert families["llmperf_cost_per_mtok_usd"] == "usd"
    assert {"llmperf_tokens_per_dollar", "llmperf_requests_per_gpu_hour", "llmperf_joules_per_token"} <= set(families)


def test_values_and_labels_are_the_runs() -> None:
    run = measured(failures=200)
    families = {family.name: family.samples for family in parsed(openmetrics(session([run])))}
    (median,) = (sample for sample in families["llmperf_ttft_seconds"] if sample.labels["statistic"] == "p50")
    assert median.value == run.metrics["ttft_p50"].value
    assert median.labels["cell"] == run.cell.id
    assert (median.labels["workload"], median.labels["simulated"]) == ("interactive-chat", "true")
    assert run.run_id not in median.labels.values()
    (maximum,) = (sample for sample in families["llmperf_ttft_seconds"] if sample.labels["statistic"] == "max")
    assert math.isinf(maximum.value)
    assert {sample.labels["outcome"]: sample.value for sample in families["llmperf_requests"]}["failed"] == 200
    assert {sample.labels["verdict"]: sample.value for sample in families["llmperf_verdict"]} == {
        "PASS": 0,
        "FAIL": 1,
        "INCONCLUSIVE": 0,
        "INVALID": 0,
    }


def test_labels_are_escaped() -> None:
    run = measured().model_copy(update={"profile": 'a "quoted" \\ line\nend'})
    samples = [sample for family in parsed(openmetrics(session([run]))) for sample in family.samples]
    assert {sample.labels["profile"] for sample in samples} == {'a "quoted" \\ line\nend'}


def test_what_is_unknown_has_no_sample() -> None:
    names = {family.name for family in parsed(openmetrics(session([measured(requests=0)])))}
    assert "llmperf_tpot_seconds" not in names


def test_no_two_samples_are_alike() -> None:
    again = [measured(), measured(scale=2.0, run_id="again")]
    medians = [
        sample.value
        for family in parsed(openmetrics(session(again)))
        for sample in family.samples
        if family.name == "llmperf_ttft_seconds" and sample.labels["statistic"] == "p50"
    ]
    assert medians == [again[1].metrics["ttft_p50"].value]


def test_without_runs_it_is_whole() -> None:
    assert openmetrics(session([])) == "# EOF\n"


def test_the_file_and_what_cannot_be_one(tmp_path: Path) -> None:
    document = session([measured()])
    write_export("openmetrics", tmp_path / "new" / "metrics.txt", document, {})
    assert (tmp_path / "new" / "metrics.txt").read_text() == openmetrics(document)
    with pytest.raises(ConfigError, match="is a directory\n  Name a file: openmetrics=FILE"):
        write_export("openmetrics", tmp_path, document, {})


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown export format 'openmetric'\n  Did you mean 'openmetrics'") as caught:
        write_export("openmetric", tmp_path / "x", session([]), {})
    assert all(name in str(caught.value) for name in FORMATS)
