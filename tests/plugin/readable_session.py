"""One session of 3 cells x 3 workloads with every kind of result there is, and what each kind says of a run's p99s."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_llmperf.measure.interval import quantile_rank
from pytest_llmperf.metrics import METRICS, format_value
from pytest_llmperf.report.requests_file import read_requests
from tests.plugin.baseline_sessions import STALL

Json = dict[str, Any]
P99s = tuple[Any, Any]
"""TTFT's and E2E's p99 as an artifact has them: numbers in seconds, or texts."""

MISSED = "test_labels[gke_h100_standalone_llama-3.2-3b]"
INVALID = "test_codes[gke_a100-80gb_standalone_llama-3.2-3b]"
UNDEPLOYED = "gke_l4_standalone_llama-3.2-3b_starved"
SECRETS = {"LLMPERF_API_KEY": "sk-Zq8Rk2vTtenant", "VLLM_API_KEY": "vk-Hj6Nc3yDengine"}
"""By variable of the client's environment, whose name says it."""
ENGINES_SECRET = "hf-Xw4Lm9pBhub"

CATALOG = {
    "variants": f"""
default: {{env: {{HF_TOKEN: {ENGINES_SECRET}}}}}
starved: {{engine_args: {{max-model-len: 4096, num-gpu-blocks-override: 8}}}}
""",
    # What the simulated L4 is given is too little for one request: as vLLM does, it ends when it starts.
    "matrix": """
default:
  platforms: [gke]
  hardware: [h100, a100-80gb]
  models: [llama-3.2-3b]
  include: [{hardware: l4, variant: starved}]
""",
    "workloads": """
labels: {title: Labels, input: {mean: 64}, output: {mean: 1}, warmup: 200ms}
titles: {title: Titles, input: {mean: 48}, output: {mean: 3}, warmup: 200ms}
codes: {title: Codes, input: {mean: 32}, output: {mean: 4}, warmup: 200ms}
""",
}
SUITE = (
    STALL
    + """
import pytest
from pytest_llmperf import constant

KEPT = {"ttft": {"p99": "1m"}, "e2e": {"p99": "1m"}, "error_rate": "0"}
pytestmark = pytest.mark.llmperf(sla=KEPT)
# A p99 needs 299 requests: as many are left where TPOT takes half of the run to settle.
LOAD, DURATION = constant("400/s"), "1500ms"

@pytest.fixture
def stall(cell, deployment):
    if cell.hardware.name == "a100-80gb":
        threading.Thread(target=stop_the_worker_for_a_second, args=(deployment.endpoint.base_url,)).start()

@pytest.mark.llmperf(workload="labels", sla={**KEPT, "hardware": {"h100": {"output_tokens_per_s": "1000000"}}})
def test_labels(load, sla):
    assert load(constant("240/s"), "1300ms").meets(sla)

@pytest.mark.llmperf(workload="titles")
def test_titles(load, sla):
    assert load(LOAD, DURATION).meets(sla)

@pytest.mark.llmperf(workload="codes")
def test_codes(stall, load, sla):
    assert load(LOAD, DURATION).meets(sla)
"""
)
# Far above what a busy machine delays a client by, far below the second for which a worker stands still.
TRUST = "--llmperf-trust=lateness_p99:500ms,loop_lag_p99:500ms,cpu_share:100%,sent_share:1%"
EXPORTS = {"pytest-benchmark": "bench.json", "openmetrics": "metrics.txt", "llm-d": "reports"}
OPTIONS = (
    *("--llmperf-json=out.json", "--junitxml=junit.xml", "--llmperf-markdown=summary.md", "--alluredir=allure"),
    *(f"--llmperf-export={form}={path}" for form, path in EXPORTS.items()),
    *("--llmperf-requests-csv", "--llmperf-plots", "-p", "no:cacheprovider", TRUST),
)
CI = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "acme/llm",
    "GITHUB_RUN_ID": "77",
}


@dataclass(frozen=True)
class Session:
    """A session that has ended, and where it left its files."""

    folder: Path
    output: str
    returned: int

    @cached_property
    def document(self) -> Json:
        """``--llmperf-json``."""
        document: Json = read_json(self.folder / "out.json")
        return document

    @property
    def runs(self) -> list[Json]:
        return list(self.document["runs"])

    @cached_property
    def reported(self) -> Json:
        """What ``pytest-llmperf report`` finds in the storage."""
        document: Json = json.loads(self.command("report", "--json=-"))
        return document

    @cached_property
    def tests(self) -> dict[str, ET.Element]:
        """JUnit's, by their names with parameters."""
        return {case.attrib["name"]: case for case in ET.parse(self.folder / "junit.xml").iter("testcase")}

    @cached_property
    def allure(self) -> dict[str, Json]:
        """Allure's tests, by their names with parameters."""
        results = map(read_json, (self.folder / "allure").glob("*-result.json"))
        return {f"{result['fullName'].partition('#')[2]}[{_parameter(result, 'cell')}]": result for result in results}

    def storage(self, run_id: str) -> Path:
        return self.folder / ".llmperf" / "runs" / run_id

    def attached(self, run: Json, name: str) -> str:
        """The one attachment of a run's test whose name begins so."""
        test = self.allure[name_of(run)]
        (source,) = [each["source"] for each in test["attachments"] if each["name"].startswith(name)]
        return Path(self.folder / "allure" / source).read_text()

    def command(self, *arguments: str) -> str:
        """``pytest-llmperf`` in the session's folder: what it prints."""
        command = [sys.executable, "-m", "pytest_llmperf.cli", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=_environment(), capture_output=True, text=True, check=False, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout


def run_session(folder: Path, *options: str) -> Session:
    """A process of its own, as in a job on GitHub."""
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "fixtures").mkdir()
    for name, text in CATALOG.items():
        (folder / "fixtures" / f"{name}.yaml").write_text(text)
    environment = {**_environment(), **CI, **SECRETS, "GITHUB_STEP_SUMMARY": str(folder / "step.md")}
    command = [sys.executable, "-m", "pytest", *OPTIONS, *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=180)
    return Session(folder, done.stdout + done.stderr, done.returncode)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMPERF_", "PYTEST_", "GITHUB_"))}
    return {**kept, "COLUMNS": "80"}


def read_json(path: Path) -> Any:
    """A file's content; refuses what strict JSON does not know."""
    return json.loads(path.read_text(), parse_constant=_refused)


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def name_of(run: Json) -> str:
    """``test_labels[CELL]``."""
    return str(run["node_id"].partition("::")[2])


def _parameter(result: Json, name: str) -> str:
    return str(next(each["value"].strip("'") for each in result["parameters"] if each["name"] == name))


def p99s(metrics: Mapping[str, Json]) -> P99s:
    """As a run's document has them."""
    return metrics["ttft_p99"]["value"], metrics["e2e_p99"]["value"]


def texts(run: Json) -> P99s:
    """As people read them."""
    ttft, e2e = p99s(run["metrics"])
    return format_value(METRICS["ttft"], ttft), format_value(METRICS["e2e"], e2e)


# What each kind of artifact has to say: by run id, as numbers.


def _in_documents(documents: Iterable[Json]) -> dict[str, P99s]:
    return {run["run_id"]: p99s(run["metrics"]) for run in documents}


def _in_run_json(session: Session) -> dict[str, P99s]:
    return _in_documents(read_json(session.storage(run["run_id"]) / "run.json") for run in session.runs)


def _in_requests(session: Session) -> dict[str, P99s]:
    return {run["run_id"]: _of_requests(session.storage(run["run_id"]) / "requests.parquet", run) for run in session.runs}


def _of_requests(path: Path, run: Json) -> P99s:
    """By the rule that the documentation states, from the requests that the window counts."""
    found = read_requests(path, ["scheduled_s", "warmup", "outcome", "ttft_s", "e2e_s"])
    timing = run["timing"]
    opens_s = timing["window_start_s"] + run["steadiness"]["extra_warmup_s"]
    inside = (found["scheduled_s"] >= opens_s) & (found["scheduled_s"] <= timing["window_end_s"])
    counted = inside & ~found["warmup"] & (found["outcome"] != "CANCELLED")
    latencies = (np.where(found["outcome"] == "OK", found[name], np.inf)[counted] for name in ("ttft_s", "e2e_s"))
    ttft, e2e = (float(np.sort(values)[quantile_rank(len(values), 0.99) - 1]) for values in latencies)
    return ttft, e2e


def _in_junit(session: Session) -> dict[str, P99s]:
    told = [{each.attrib["name"]: each.attrib["value"] for each in case.iter("property")} for case in session.tests.values()]
    return {
        each["llmperf_run_id"]: (float(each["llmperf_ttft_p99_s"]), float(each["llmperf_e2e_p99_s"])) for each in told if each
    }


def _in_pytest_benchmark(session: Session) -> dict[str, P99s]:
    told = [entry["extra_info"] for entry in read_json(session.folder / EXPORTS["pytest-benchmark"])["benchmarks"]]
    of = {(info["run_id"], info["metric"]): info for info in told}
    return {run_id: (of[run_id, "ttft"]["ttft_p99"], of[run_id, "e2e"]["e2e_p99"]) for run_id, _ in of}


def _in_llm_d(session: Session) -> dict[str, P99s]:
    reports = [yaml.safe_load(path.read_text()) for path in (session.folder / EXPORTS["llm-d"]).iterdir()]
    latencies = {each["run"]["uid"]: each["results"]["request_performance"]["aggregate"]["latency"] for each in reports}
    return {run_id: (of["time_to_first_token"]["p99"], of["request_latency"]["p99"]) for run_id, of in latencies.items()}


def _in_openmetrics(session: Session) -> dict[str, P99s]:
    text = (session.folder / EXPORTS["openmetrics"]).read_text()
    samples = {family.name: family.samples for family in text_string_to_metric_families(text)}
    told = [
        {sample.labels["test"]: sample.value for sample in samples[name] if sample.labels["statistic"] == "p99"}
        for name in ("llmperf_ttft_seconds", "llmperf_e2e_seconds")
    ]
    return {run["run_id"]: (told[0][run["node_id"]], told[1][run["node_id"]]) for run in session.runs}


def _in_reported_json(session: Session) -> dict[str, P99s]:
    return _in_documents(session.reported["runs"])


def _in_reported_csv(session: Session) -> dict[str, P99s]:
    rows = csv.DictReader(session.command("report", "--csv=-").splitlines())
    return {row["run_id"]: (float(row["ttft_p99"]), float(row["e2e_p99"])) for row in rows}


def _in_attached_json(session: Session) -> dict[str, P99s]:
    return _in_documents(json.loads(session.attached(run, "run.json")) for run in session.runs)


NUMBERS: Mapping[str, Callable[[Session], dict[str, P99s]]] = {
    "run.json": _in_run_json,
    "requests.parquet": _in_requests,
    "JUnit": _in_junit,
    "pytest-benchmark": _in_pytest_benchmark,
    "llm-d": _in_llm_d,
    "OpenMetrics": _in_openmetrics,
    "report --json": _in_reported_json,
    "report --csv": _in_reported_csv,
    "Allure's run.json": _in_attached_json,
}


# The same as texts.

_IN_STATS = tuple(re.compile(rf"^{title} p99 +(\S+) +\S+ +\d+$", re.MULTILINE) for title in ("TTFT", "E2E"))
_IN_HTML = tuple(re.compile(rf'<td>{title} p99</td><td>&lt;= 1m</td><td class="number">([^<]*)<') for title in ("TTFT", "E2E"))


def _matched(patterns: tuple[re.Pattern[str], ...], text: str) -> P99s:
    ttft, e2e = (pattern.findall(text) for pattern in patterns)
    (one,), (other,) = ttft, e2e
    return one, other


def _in_stats(session: Session) -> dict[str, P99s]:
    files = {run["run_id"]: session.storage(run["run_id"]) / "stats.txt" for run in session.runs}
    return {run_id: _matched(_IN_STATS, path.read_text()) for run_id, path in files.items()}


def _in_attached_stats(session: Session) -> dict[str, P99s]:
    return {run["run_id"]: _matched(_IN_STATS, session.attached(run, "stats.txt")) for run in session.runs}


def _in_attached_sla(session: Session) -> dict[str, P99s]:
    return {run["run_id"]: _matched(_IN_HTML, session.attached(run, "SLA inline: ")) for run in session.runs}


def _in_overview(session: Session) -> dict[str, P99s]:
    """In Allure's matrix overview."""
    cells = re.findall(r"<tr><th>([^\s<]+) \(SIMULATED\)</th>(.*?)</tr>", overview(session))
    found = re.compile(r"<small>(\w+)</small><br>TTFT p99 ([^,]*), TPOT p99 [^,]*, E2E p99 ([^<]*)<")
    told = {f"{test}[{cell}]": (ttft, e2e) for cell, row in cells for test, ttft, e2e in found.findall(row)}
    return {run["run_id"]: told[name_of(run)] for run in session.runs}


def overview(session: Session) -> str:
    """The page that is attached to the session."""
    attached = [each for path in (session.folder / "allure").glob("*-globals.json") for each in read_json(path)["attachments"]]
    (source,) = [each["source"] for each in attached if each["name"] == "Matrix overview"]
    return Path(session.folder / "allure" / source).read_text()


def _in_markdown(session: Session) -> dict[str, P99s]:
    told = {f"{row['test']}[{row['cell']}]": (row["TTFT p99"], row["E2E p99"]) for row in runs_in_markdown(session.folder)}
    return {run["run_id"]: told[name_of(run)] for run in session.runs}


def runs_in_markdown(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of the table of runs, by their headings."""
    section = (folder / "summary.md").read_text().partition("### Runs")[2].partition("###")[0]
    heading, _, *rows = (line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|"))
    yield from (dict(zip(heading, row, strict=True)) for row in rows)


TEXTS: Mapping[str, Callable[[Session], dict[str, P99s]]] = {
    "stats.txt": _in_stats,
    "Markdown": _in_markdown,
    "Allure's stats.txt": _in_attached_stats,
    "Allure's SLA table": _in_attached_sla,
    "Allure's overview": _in_overview,
}
