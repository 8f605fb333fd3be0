"""Allure's report of real sessions: what is in the results, and what a reader sees in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.metrics import METRICS, format_value
from tests.plugin.allure_page import generated

Sessions = Callable[..., pytest.RunResult]
SUITE = """
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="classification", sla={"ttft": {"p50": "5s"}, "error_rate": "1%"})

def test_meets_sla(load, sla):
    \"\"\"Short answers, asked by machines.\"\"\"
    assert load(constant("20/s"), "2s", warmup="500ms").meets(sla)

@pytest.mark.llmperf(sla={"ttft": {"p99": "10s"}, "output_tokens_per_s": "100000"})
def test_is_quick(load, sla):
    assert load(constant("20/s"), "2s", warmup="0s").meets(sla)
"""
PLACE = "on 1 x H100, GKE, Llama 3.1 8B Instruct (SIMULATED)"
ANY_CLIENT = "--llmperf-trust=lateness_p99:1m,loop_lag_p99:1m,cpu_share:100%,busy_share:0%"


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("*-result.json")]


def test_a_reader_finds_verdict_plot_and_metrics(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=SUITE)
    workers = ("-n", "2", "--dist", "loadgroup", "--clean-alluredir", ANY_CLIENT)
    result = llmperf("-k", "h100 or l40s", "--alluredir=allure", "--llmperf-json=out.json", *workers)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["allure: npx allure generate allure --config allure/allurerc.json"])
    runs = json.loads((pytester.path / "out.json").read_text())["runs"]
    (missed,) = [run for run in runs if "quick" in run["node_id"] and "h100" in run["node_id"]]
    check_results(pytester.path / "allure", missed)
    with generated(pytester.path / "allure", pytester.path / "allure" / "allurerc.json", pytester.path / "report") as report:
        front = report.page()
        assert f"Classification meets its SLA {PLACE}" in front
        test = report.page(report.test_id(f"Classification: is quick {PLACE}"), ["SLA inline: FAIL", "Latency", "Throughput"])
        assert "Category: SLA miss" in re.sub(r"<[^>]+>", "", test)
        p99 = format_value(METRICS["ttft"], missed["metrics"]["ttft_p99"]["value"])
        (table,) = re.findall(r'<iframe[^>]*title="HTML attachment"[^>]*data-seen="([^"]*)"', test)
        assert re.search(rf"TTFT p99\s+&lt;= 10s\s+{re.escape(p99)}\s", table), table
        pictures = [int(width) for width in re.findall(r'<img[^>]*data-seen="(\d+)"', test)]
        assert len([width for width in pictures if width > 500]) == 2
        for step in ("Deploy", "Ready", "Load: constant 20/s", "Judge by the SLA inline: FAIL"):
            assert f">{step}" in test
        for name in ("_llmperf_", "&lt;lambda&gt;", "pytest-llmperf::"):
            assert name not in test
        metrics = re.sub(r"<[^>]+>", " ", report.page("metrics"))
        assert "Classification on gke_h100_standalone_llama-3\u20241-8b (SIMULATED)" in metrics
        shown = re.findall(r"TTFT p99 of test_suite\u2024py::test_is_quick\s+gke_h100\S*\s+([\d.,]+)\s+ms", metrics)
        assert [float(value.replace(",", "")) for value in shown] == [
            pytest.approx(1000 * missed["metrics"]["ttft_p99"]["value"], rel=1e-3)
        ]
        overview = re.sub(r"<[^>]+>", "", report.page("globalAttachments"))
        assert "Matrix overview" in overview
        assert "Latency against throughput" in overview
    # The next report knows of this one, by what lies in the storage.
    with generated(pytester.path / "allure", pytester.path / "allure" / "allurerc.json", pytester.path / "next") as report:
        assert len(json.loads((report.folder / "widgets" / "metrics.json").read_text())["history"]) == 1


def check_results(folder: Path, run: dict[str, Any]) -> None:
    """What one run's test has, and what the session has, also where workers have emptied the folder at their start."""
    for name in ("environment.properties", "categories.json", "allurerc.json", "llmperf-perf.json"):
        assert (folder / name).is_file()
    (test,) = [each for each in results_of(folder) if each["name"] == f"Classification: is quick {PLACE}"]
    names = [attachment["name"] for attachment in test["attachments"]]
    assert names == ["SLA inline: FAIL", "Latency", "Throughput", "stats.txt", "run.json", "requests.csv"]
    (source,) = [attachment["source"] for attachment in test["attachments"] if attachment["name"] == "run.json"]
    assert json.loads((folder / source).read_text()) == run
    assert {"name": "cell", "value": run["cell"]["id"]} in test["parameters"]
    steps = {step["name"].partition(" ")[0].rstrip(":"): step for step in test["steps"]}
    assert list(steps) == ["Deploy", "Ready", "Load", "Judge"]
    assert steps["Ready"]["stop"] <= steps["Load"]["start"]
    assert steps["Load"]["stop"] - steps["Load"]["start"] == 2000
    assert test["start"] <= steps["Load"]["start"] <= steps["Judge"]["start"] <= test["stop"]


def test_a_deployment_that_fails_is_told_with_its_cause(
    pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/llm")
    monkeypatch.setenv("GITHUB_RUN_ID", "77")
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    pytester.makepyfile(test_suite=SUITE)
    engine = "sh -c 'echo out of memory >&2; exit 3' --port={port}"
    target = ("--llmperf-target=process", f"--llmperf-engine-command={engine}")
    result = llmperf("-k", "h100 and meets", "--alluredir=allure", "--llmperf-json=out.json", *target)
    result.assert_outcomes(errors=1)
    (error,) = json.loads((pytester.path / "out.json").read_text())["deployment_errors"]
    assert error["cell_id"] == "gke_h100_standalone_llama-3.1-8b"
    assert "out of memory" in error["error"]
    (test,) = results_of(pytester.path / "allure")
    assert test["name"] == "Classification meets its SLA on 1 x H100, GKE, Llama 3.1 8B Instruct"
    assert test["status"] == "broken"
    assert {"name": "epic", "value": "llama-3.1-8b"} in test["labels"]
    (step,) = test["steps"]
    assert (step["name"], step["status"]) == ("Deploy", "broken")
    (log,) = [attachment for attachment in test["attachments"] if attachment["name"] == "engine log (its end)"]
    assert "out of memory" in (pytester.path / "allure" / log["source"]).read_text()
    assert test["links"] == [
        {"type": "link", "url": "https://github.example/acme/llm/actions/runs/77", "name": "GitHub Actions: run #77"}
    ]
    executor = json.loads((pytester.path / "allure" / "executor.json").read_text())
    assert executor["buildUrl"] == "https://github.example/acme/llm/actions/runs/77"


def test_a_test_is_recognised_from_one_session_to_the_next(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(
        test_suite="import pytest\n\n@pytest.mark.llmperf(workload='classification')\n"
        "@pytest.mark.parametrize('users', [8])\ndef test_one(cell, users):\n    assert cell\n"
    )
    seen = []
    for folder in ("first", "second"):
        llmperf("-k", "h100", f"--alluredir={folder}").assert_outcomes(passed=1)
        (test,) = results_of(pytester.path / folder)
        seen.append({key: test[key] for key in ("name", "historyId", "testCaseId", "parameters")})
    assert seen[0] == seen[1]
    assert seen[0]["name"] == "Classification: one [8] on 1 x H100, GKE, Llama 3.1 8B Instruct (SIMULATED)"
    history = [each["name"] for each in seen[0]["parameters"] if not each.get("excluded")]
    assert history == ["cell", "users"]


def test_what_a_suite_says_to_allure_itself_comes_first(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(
        test_suite="import allure, pytest\n\n@allure.title('Mine')\n@allure.epic('My epic')\n@allure.description('What I say.')\n"
        "@pytest.mark.llmperf(workload='classification')\ndef test_one(cell):\n    assert cell\n\n"
        "def test_of_another_kind():\n    '''No cell.'''\n"
    )
    llmperf("-k", "h100 or another", "--alluredir=allure").assert_outcomes(passed=2)
    own, other = sorted(results_of(pytester.path / "allure"), key=lambda test: str(test["name"]))
    assert own["name"] == "Mine"
    assert [label["value"] for label in own["labels"] if label["name"] == "epic"] == ["My epic"]
    assert own["description"].startswith("What I say.\n\n**Classification**")
    assert (other["name"], other["description"]) == ("test_of_another_kind", "No cell.")


def test_without_allure_nothing_of_it_is_loaded(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(
        test_suite="import sys\n\ndef test_one(cell):\n    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert not loaded & {'allure', 'allure_commons', 'allure_pytest', 'matplotlib'}\n"
    )
    llmperf("-k", "h100", "-p", "no:allure_pytest").assert_outcomes(passed=1)


def test_plots_without_allure_by_an_option(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=SUITE)
    llmperf("-k", "h100 and meets", "--llmperf-plots", "--llmperf-json=out.json", ANY_CLIENT).assert_outcomes(passed=1)
    (run,) = json.loads((pytester.path / "out.json").read_text())["runs"]
    directory = pytester.path / ".llmperf" / "runs" / run["run_id"]
    assert json.loads((directory / "run.json").read_text()) == run
    assert (directory / run["artifacts"]["latency_svg"]).is_file()


def test_a_plot_that_cannot_be_written_is_a_warning_where_warnings_are_errors_too(
    pytester: pytest.Pytester, llmperf: Sessions
) -> None:
    pytester.makepyfile(
        test_suite="""
        from pathlib import Path
        import pytest
        from pytest_llmperf import constant

        @pytest.mark.llmperf(workload="classification")
        def test_one(load):
            run = load(constant("40/s"), "1s", warmup="0s").run
            Path(".llmperf/runs", run.identity.run_id, "latency_analysis.png").mkdir()
        """
    )
    result = llmperf("-k", "h100", "--llmperf-plots", "-W", "error", "--llmperf-json=out.json", ANY_CLIENT)
    result.assert_outcomes(passed=1, warnings=1)
    assert "could not be drawn" in " ".join(result.stdout.str().split())
    assert len(json.loads((pytester.path / "out.json").read_text())["runs"]) == 1
