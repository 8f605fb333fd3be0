"""The export for pytest-benchmark: its own statistics, and files that its own command reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.stats import Stats

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.metrics import METRICS
from pytest_llmperf.report.exports.pytest_benchmark import statistics
from tests.unit.report.exported import export, measured


def exported(path: Path, *runs: Any, storage: Path | None) -> dict[str, Any]:
    export("pytest-benchmark", path, runs, storage)
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def entries(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["extra_info"]["metric"]: entry for entry in document["benchmarks"]}


def command(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("pytest-benchmark")), *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 101, 400])
def test_the_statistics_are_pytest_benchmarks_own(count: int) -> None:
    values = np.random.default_rng(count).lognormal(size=count)
    theirs = Stats()
    for value in values.tolist():
        theirs.update(value)
    mine = statistics(values)
    assert set(mine) == {*Stats.fields, "iterations"}
    for name, value in theirs.as_dict().items():
        assert mine[name] == (value if isinstance(value, str) else pytest.approx(value)), name


def test_an_entry_for_each_run_and_metric_that_has_a_value(tmp_path: Path) -> None:
    document = exported(tmp_path / "b.json", measured(tmp_path), storage=tmp_path)
    assert list(document) == ["machine_info", "commit_info", "benchmarks", "datetime", "version"]
    found = entries(document)
    assert set(found) == set(METRICS)
    ttft = found["ttft"]
    assert ttft["fullname"] == "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b-ttft]"
    assert ttft["name"] == "test_meets_sla[gke_h100_standalone_llama-3.1-8b-ttft]"
    assert ttft["params"]["cell"] == "gke_h100_standalone_llama-3.1-8b"
    assert (ttft["stats"]["min"], ttft["stats"]["max"], ttft["stats"]["rounds"]) == (pytest.approx(0.1), pytest.approx(0.3), 400)
    assert ttft["extra_info"]["ttft_p99"] == pytest.approx(0.3)
    assert "unknown" not in ttft["extra_info"]
    assert all(entry["group"].endswith(" SIMULATED") and entry["extra_info"]["simulated"] for entry in found.values())


def test_what_is_better_when_higher_is_told_by_ops(tmp_path: Path) -> None:
    run = measured(tmp_path)
    found = entries(exported(tmp_path / "b.json", run, storage=tmp_path))
    for name in ("output_tokens_per_s", "goodput", "tokens_per_dollar"):
        assert found[name]["stats"]["ops"] == pytest.approx(run.metrics[name].value)
        assert found[name]["group"].startswith(f"{METRICS[name].title} [OPS is ")
    assert found["cost_per_mtok"]["stats"]["mean"] == run.metrics["cost_per_mtok"].value


def test_failed_requests_have_no_value_but_are_counted(tmp_path: Path) -> None:
    ttft = entries(exported(tmp_path / "b.json", measured(tmp_path, failures=8), storage=tmp_path))["ttft"]
    assert (ttft["stats"]["rounds"], ttft["extra_info"]["failed_requests"]) == (400, 8)
    assert ttft["stats"]["max"] == pytest.approx(0.3)


def test_a_quantile_that_is_infinite_is_told_from_one_that_is_not_known(tmp_path: Path) -> None:
    run = measured(tmp_path, failures=8)
    info = entries(exported(tmp_path / "b.json", run, storage=tmp_path))["ttft"]["extra_info"]
    assert (info["ttft_p95"], info["ttft_p99"]) == (run.metrics["ttft_p95"].value, None)
    assert info["unbounded"] == ["ttft_p99"]
    (tmp_path / "b.json").unlink()
    assert "unbounded" not in entries(exported(tmp_path / "b.json", measured(), storage=None))["ttft"]["extra_info"]


def test_without_the_requests_it_says_what_it_does_not_know(tmp_path: Path) -> None:
    run = measured()
    for storage in (None, tmp_path):
        ttft = entries(exported(tmp_path / "b.json", run, storage=storage))["ttft"]
        assert ttft["stats"]["mean"] == run.metrics["ttft_mean"].value
        assert (ttft["stats"]["median"], ttft["stats"]["max"]) == (run.metrics["ttft_p50"].value, run.metrics["ttft_max"].value)
        assert {"stddev", "iqr", "min"} <= set(ttft["extra_info"]["unknown"])


def test_two_runs_of_a_test_have_names_of_their_own(tmp_path: Path) -> None:
    runs = [measured(tmp_path, run_id=name) for name in ("one", "two")]
    names = [entry["fullname"] for entry in exported(tmp_path / "b.json", *runs, storage=tmp_path)["benchmarks"]]
    assert len(set(names)) == len(names)
    assert names[-1] == "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b-2-joules_per_token]"


def test_pytest_benchmark_itself_reads_it(tmp_path: Path) -> None:
    saved = tmp_path / ".benchmarks" / "Linux"
    exported(saved / "0001_before.json", measured(tmp_path, run_id="one"), storage=tmp_path)
    exported(saved / "0002_after.json", measured(tmp_path, run_id="two", scale=2.0, failures=3), storage=tmp_path)
    listed = command("list", cwd=tmp_path)
    assert [Path(line).name for line in listed.split()] == ["0001_before.json", "0002_after.json"]
    files = [str(saved / name) for name in ("0001_before.json", "0002_after.json")]
    compared = command("compare", *files, cwd=tmp_path)
    assert "benchmark 'TTFT [s] SIMULATED': 2 tests" in compared
    before, after = (line for line in compared.splitlines() if "-ttft] (" in line and "service" not in line)
    assert "200.0000 (1.0)" in before
    assert "400.0000 (2.00)" in after
    # The form's own way to hold one file against another, by name.
    between = command("compare", "--between=mean", *files, cwd=tmp_path)
    assert "100.0%" in between


def test_a_session_without_runs(tmp_path: Path) -> None:
    assert exported(tmp_path / "b.json", storage=tmp_path)["benchmarks"] == []


def test_requests_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    run = measured(tmp_path)
    (tmp_path / "runs" / run.run_id / "requests.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match=r"requests\.parquet: the requests cannot be read"):
        export("pytest-benchmark", tmp_path / "b.json", [run], tmp_path)
    assert not (tmp_path / "b.json").exists()
