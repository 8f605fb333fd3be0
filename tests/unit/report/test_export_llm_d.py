"""The export as llm-d's benchmark report: valid by that project's schema, with what is known and nothing made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.report.results_v2 import RunDocument, SeriesPart, ServerPart, ServerSeriesPart
from tests.unit.report.exported import export, measured

SCHEMA = Path(__file__).parents[4] / "shared" / "schemas" / "llm-d-benchmark-report-0.2.1.schema.json"

SERVER = ServerPart(
    source="metrics",
    samples=2,
    running_mean=3.5,
    running_max=8.0,
    kv_cache_usage_mean=0.25,
    kv_cache_usage_max=0.5,
    prefix_cache_hit_rate=0.1,
    preemptions=2,
    gpu_power_w=512.0,
    series=ServerSeriesPart(at_s=(0.0, 1.0), values={"running": (3.0, None), "kv_cache_usage": (0.2, 0.3)}),
)
SERIES = SeriesPart.model_validate(
    {
        "start_s": -1.0,
        "step_s": 1.0,
        **dict.fromkeys(("sent_per_s", "ok_per_s", "failed_per_s", "output_tokens_per_s", "in_flight"), (1.0, 2.0)),
        **dict.fromkeys(("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "e2e_p50_s", "e2e_p99_s"), (None, 0.5)),
    }
)


def report(tmp_path: Path, run: RunDocument, storage: Path | None) -> dict[str, Any]:
    export("llm-d", tmp_path / "reports", [run], storage)
    (path,) = (tmp_path / "reports").iterdir()
    assert path.name == f"benchmark_report_v0.2.1_{run.run_id}.yaml"
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"{SCHEMA.name} is not there")
@pytest.mark.parametrize("whole", [True, False], ids=["with-requests", "without-requests"])
@pytest.mark.parametrize("failures", [0, 30, 900])
def test_valid_by_the_schema(tmp_path: Path, whole: bool, failures: int) -> None:
    run = measured(tmp_path, failures=failures).model_copy(update={"server": SERVER, "series": SERIES})
    document = report(tmp_path, run, tmp_path if whole else None)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()), format_checker=jsonschema.FormatChecker())


def test_the_numbers_are_the_runs(tmp_path: Path) -> None:
    run = measured(tmp_path, failures=3)
    document = report(tmp_path, run, tmp_path)
    aggregate = document["results"]["request_performance"]["aggregate"]
    assert aggregate["requests"] == {
        "total": 403,
        "failures": 3,
        "incomplete": 0,
        "input_length": aggregate["requests"]["input_length"],
        "output_length": aggregate["requests"]["output_length"],
    }
    assert aggregate["requests"]["output_length"]["mean"] == 3.0
    assert aggregate["latency"]["time_to_first_token"]["p99"] == run.metrics["ttft_p99"].value
    assert aggregate["latency"]["time_per_output_token"]["units"] == "s/token"
    # Failed requests count as infinitely late: there is no maximum to tell.
    assert "max" not in aggregate["latency"]["request_latency"]
    assert aggregate["throughput"]["output_token_rate"]["mean"] == run.metrics["output_tokens_per_s"].value
    normalized = aggregate["latency"]["normalized_time_per_output_token"]
    assert normalized["mean"] == pytest.approx(0.24 / 3)


def test_simulated_is_said_where_a_reader_looks(tmp_path: Path) -> None:
    document = report(tmp_path, measured(), None)
    assert "SIMULATED" in document["run"]["description"]
    assert "SIMULATED" in document["run"]["keywords"]
    assert document["scenario"]["stack"][0]["standardized"]["tool"] == "vLLM (SIMULATED)"
    real = report(tmp_path / "real", measured(simulated=False), None)
    assert "SIMULATED" not in json.dumps(real)


def test_the_server_and_the_course_of_the_run(tmp_path: Path) -> None:
    run = measured().model_copy(update={"server": SERVER, "series": SERIES})
    results = report(tmp_path, run, None)["results"]
    (component,) = results["observability"]["components"]
    assert component["aggregate"]["kv_cache_usage"] == {"units": "percent", "mean": 25.0, "max": 50.0}
    assert component["aggregate"]["power_consumption"] == {"units": "Watts", "mean": 512.0}
    assert [point.get("value") for point in component["time_series"]["num_requests_running"]["series"]] == [3.0]
    ttft = results["request_performance"]["time_series"]["latency"]["time_to_first_token"]["series"]
    assert ttft == [{"ts": "2025-06-15T15:06:40.250+00:00", "p50": 0.5, "p99": 0.5}]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("vllm", "serve"), {"tp": 4}),
        (("vllm", "serve", "--tensor-parallel-size", "2", "--data-parallel-size=2"), {"tp": 2, "dp": 2}),
        (("vllm", "serve", "--pipeline-parallel-size", "2"), {"tp": 2, "pp": 2}),
        (("vllm", "serve", "-tp", "1", "-pp=2", "-dp", "2"), {"tp": 1, "pp": 2, "dp": 2}),
        (("vllm", "serve", "--data_parallel_size", "4"), {"tp": 1, "dp": 4}),
        (("sglang", "--tp-size", "2", "--dp", "2"), {"tp": 2, "dp": 2}),
        (("vllm", "serve", "--pipeline-parallel-size", "0"), {"tp": 4}),
    ],
)
def test_parallelism(tmp_path: Path, command: tuple[str, ...], expected: dict[str, int]) -> None:
    run = measured()
    cell = run.cell.model_copy(update={"count": 4})
    run = run.model_copy(update={"cell": cell, "deployment": run.deployment.model_copy(update={"command": command})})
    accelerator = report(tmp_path, run, None)["scenario"]["stack"][0]["standardized"]["accelerator"]
    assert (accelerator["count"], accelerator["parallelism"]) == (4, expected)


def test_the_same_configuration_has_the_same_id(tmp_path: Path) -> None:
    one, two = (report(tmp_path / name, measured(run_id=name), None)["scenario"] for name in ("one", "two"))
    assert one["stack"][0]["metadata"]["cfg_id"] == two["stack"][0]["metadata"]["cfg_id"]
    assert one["load"]["metadata"]["cfg_id"] == two["load"]["metadata"]["cfg_id"]


def test_a_file_is_no_place_for_reports(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    with pytest.raises(ConfigError, match="is no directory\n  There is one report a run: name a directory, llm-d=DIR"):
        export("llm-d", tmp_path / "reports", [measured()], None)


def test_a_document_without_one_of_the_quantiles_has_the_others(tmp_path: Path) -> None:
    run = measured()
    fewer = {name: part for name, part in run.metrics.items() if not name.endswith("_p90")}
    document = report(tmp_path, run.model_copy(update={"metrics": fewer}), None)
    ttft = document["results"]["request_performance"]["aggregate"]["latency"]["time_to_first_token"]
    assert "p90" not in ttft
    assert ttft["p99"] == run.metrics["ttft_p99"].value


def test_an_id_that_leads_elsewhere_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the run's id '\.\./x' cannot name"):
        export("llm-d", tmp_path / "reports", [measured(run_id="../x")], None)
    assert list(tmp_path.iterdir()) == []
