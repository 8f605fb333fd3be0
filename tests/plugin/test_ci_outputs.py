"""What a CI reads after a real session under xdist: JUnit, Markdown, annotations and exports, all with the same numbers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_llmperf.metrics import METRICS, format_value

Sessions = Callable[..., pytest.RunResult]
XDIST = ("-n", "2", "--dist", "loadgroup")
ANY_CLIENT = "--llmperf-trust=lateness_p99:1h,loop_lag_p99:1h,cpu_share:100%,sent_share:0%,busy_share:0%"

SUITE = """
import pytest
from pytest_llmperf import poisson

pytestmark = pytest.mark.llmperf(workload="classification", sla={"e2e": {"p50": "60s"}})

def test_meets_sla(load, sla):
    assert load(poisson("40/s"), "1s", warmup="0s").meets(sla)

@pytest.mark.llmperf(workload="classification", sla={"output_tokens_per_s": "1000000"})
def test_misses(load, sla):
    assert load(poisson("40/s"), "1s", warmup="0s").meets(sla)

def test_bare(load):
    runs = [load(poisson("20/s"), "1s", warmup="0s") for _ in range(2)]
    assert all(run["ttft_p95"] < 60 for run in runs)
"""


def properties(junit: Path) -> dict[str, dict[str, str]]:
    """By test, without its parameters."""
    return {
        case.attrib["name"].partition("[")[0]: {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        for case in ET.parse(junit).iter("testcase")
    }


def test_everything_a_ci_reads(pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pytester.mkdir("repository")
    (folder / "test_suite.py").write_text(SUITE)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "step.md"))
    exports = ("pytest-benchmark=bench.json", "openmetrics=metrics.txt", "llm-d=reports")
    result = llmperf(
        *("repository", "-k", "gke_h100", "--junitxml=junit.xml", "--llmperf-json=out.json", "--llmperf-markdown=summary.md"),
        *(f"--llmperf-export={export}" for export in exports),
        ANY_CLIENT,
        *XDIST,
    )
    result.assert_outcomes(passed=2, failed=1)
    runs = json.loads((pytester.path / "out.json").read_text())["runs"]
    for run in runs:
        # The price book knows what the cell's accelerator costs.
        assert run["cost"]["per_million_output_tokens"] == run["metrics"]["cost_per_mtok"]["value"] > 0
        assert run["metrics"]["requests_per_gpu_hour"]["value"] > 0
    check_junit(pytester.path / "junit.xml", runs)
    check_markdown(pytester.path / "summary.md", runs)
    assert (pytester.path / "step.md").read_text() == (pytester.path / "summary.md").read_text()
    (annotation,) = (line for line in result.outlines if line.startswith("::"))
    assert annotation.startswith("::error file=repository/test_suite.py,line=10,title=SLA missed%3A test_misses (SIMULATED)::")
    check_exports(pytester.path, runs)


def check_junit(junit: Path, runs: list[dict[str, Any]]) -> None:
    told = properties(junit)
    by_id = {run["run_id"]: run for run in runs}
    assert {name: found["llmperf_verdict"] for name, found in told.items()} == {
        "test_meets_sla": "PASS",
        "test_misses": "FAIL",
        "test_bare": "not judged",
    }
    for found in told.values():
        assert found["llmperf_simulated"] == "SIMULATED"
        run = by_id[found["llmperf_run_id"]]
        assert float(found["llmperf_ttft_p99_s"]) == run["metrics"]["ttft_p99"]["value"]
    second = by_id[told["test_bare"]["llmperf_run_id_2"]]
    assert second["ordinal"] == 2
    assert float(told["test_bare"]["llmperf_e2e_p99_s_2"]) == second["metrics"]["e2e_p99"]["value"]


def check_markdown(path: Path, runs: list[dict[str, Any]]) -> None:
    text = path.read_text()
    assert text.startswith("## LLM performance (SIMULATED)")
    for run in runs:
        assert f"| {format_value(METRICS['ttft'], run['metrics']['ttft_p99']['value'])} |" in text
    assert "### SLA misses (SIMULATED)" in text


def check_exports(folder: Path, runs: list[dict[str, Any]]) -> None:
    expected = {run["run_id"]: run["metrics"]["ttft_p99"]["value"] for run in runs}
    benchmarks = json.loads((folder / "bench.json").read_text())["benchmarks"]
    ttft = [entry for entry in benchmarks if entry["extra_info"]["metric"] == "ttft"]
    assert {entry["extra_info"]["run_id"]: entry["extra_info"]["ttft_p99"] for entry in ttft} == expected
    assert {entry["extra_info"]["run_id"]: entry["stats"]["rounds"] for entry in ttft} == {
        run["run_id"]: run["metrics"]["ttft_p99"]["samples"] for run in runs
    }
    families = {family.name: family.samples for family in text_string_to_metric_families((folder / "metrics.txt").read_text())}
    p99s = [sample.value for sample in families["llmperf_ttft_seconds"] if sample.labels["statistic"] == "p99"]
    assert sorted(p99s) == sorted(expected.values())
    reports = [yaml.safe_load(path.read_text()) for path in (folder / "reports").iterdir()]
    latencies = {
        report["run"]["uid"]: report["results"]["request_performance"]["aggregate"]["latency"]["time_to_first_token"]["p99"]
        for report in reports
    }
    assert latencies == expected


def test_cells_that_never_come_up(pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_suite=SUITE)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    outputs = ("--llmperf-json=out.json", "--llmperf-markdown=summary.md", "--junitxml=junit.xml")
    result = llmperf(
        "-k", "gke_h100 or gke_l4", "--llmperf-target=process", *outputs, *XDIST, "--llmperf-engine-command=false {port}"
    )
    document = json.loads((pytester.path / "out.json").read_text())
    # Several tests of a cell fail by it, and it is told once.
    cells = [error["cell_id"] for error in document["deployment_errors"]]
    assert sorted(cells) == sorted(set(cells))
    assert len(cells) >= 1
    result.assert_outcomes(errors=3 * len(cells))
    assert {error["target"] for error in document["deployment_errors"]} == {"process"}
    annotations = [line for line in result.outlines if line.startswith("::error title=not deployed%3A ")]
    assert len(annotations) == len(cells)
    summary = (pytester.path / "summary.md").read_text()
    assert all(f"**{cell}** (target process): " in summary for cell in cells)


REFUSING = """
import pytest
from pytest_llmperf import poisson

@pytest.mark.llmperf(workload="classification", sla={"e2e": {"p50": "60s"}})
def test_meets_sla(load, sla, request):
    folder = request.config.rootpath / "folder"
    folder.rmdir()
    folder.touch()
    assert load(poisson("40/s"), "1s", warmup="0s").meets(sla)
    (request.config.rootpath / ".llmperf" / "saved").touch()
"""
"""A folder that can be written to when the session starts, and no more when it ends; and no place for baselines."""


def test_a_disk_that_refuses_some_files_gets_all_others(
    pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_suite=REFUSING)
    pytester.mkdir("folder")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "step.md"))
    result = llmperf(
        *("-k", "gke_h100", "--llmperf-markdown=folder/summary.md", "--llmperf-json=out.json", ANY_CLIENT),
        *("--llmperf-export=pytest-benchmark=folder/bench.json", "--llmperf-save=main"),
    )
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    told = result.stdout.str()
    assert "llmperf: " in told
    assert all(f"{name}: cannot write the results: " in told for name in (".llmperf/saved", "summary.md", "bench.json"))
    assert (pytester.path / "step.md").read_text().startswith("## LLM performance (SIMULATED)")
    assert json.loads((pytester.path / "out.json").read_text())["runs"]
