"""A suite with an SLA miss, an INVALID run and a cell that never comes up: every result is there, and all say the same."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest

from tests.plugin.baseline_sessions import SCHEMA
from tests.plugin.readable_session import (
    CI,
    ENGINES_SECRET,
    EXPORTS,
    INVALID,
    MISSED,
    NUMBERS,
    SECRETS,
    TEXTS,
    UNDEPLOYED,
    Json,
    Session,
    name_of,
    overview,
    p99s,
    read_json,
    run_session,
    runs_in_markdown,
    texts,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds a load worker in /proc")
WAYS = {"alone": ("-p", "no:xdist", "--strict-markers"), "xdist": ("-n", "3", "--dist", "loadgroup")}
BESIDE = {
    "requests": "requests.parquet",
    "requests_csv": "requests.csv",
    "stats": "stats.txt",
    "latency_png": "latency_analysis.png",
    "latency_svg": "latency_analysis.svg",
    "throughput_png": "throughput_analysis.png",
    "throughput_svg": "throughput_analysis.svg",
}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Session]:
    """The session in each way; side by side, since each mostly waits."""
    folders = [tmp_path_factory.mktemp(way) for way in WAYS]
    with ThreadPoolExecutor() as pool:
        return dict(zip(WAYS, pool.map(lambda folder, way: run_session(folder, *WAYS[way]), folders, WAYS), strict=True))


@pytest.fixture(params=list(WAYS))
def session(sessions: Mapping[str, Session], request: pytest.FixtureRequest) -> Session:
    return sessions[request.param]


def test_what_came_out(session: Session) -> None:
    assert session.returned == pytest.ExitCode.TESTS_FAILED, session.output
    assert re.search(r"2 failed, 4 passed, 3 errors in ", session.output), session.output
    assert {name_of(run): run["verdict"] for run in session.runs if run["verdict"] != "PASS"} == {
        MISSED: "FAIL",
        INVALID: "INVALID",
    }
    assert len(session.runs) == 6
    (error,) = session.document["deployment_errors"]
    assert (error["cell_id"], error["target"]) == (UNDEPLOYED, "sim")
    assert "8 blocks cannot hold one request of max_model_len" in error["error"]


@pytest.mark.parametrize("artifact", NUMBERS)
def test_an_artifact_has_the_sessions_p99s(session: Session, artifact: str) -> None:
    expected = {run["run_id"]: pytest.approx(p99s(run["metrics"]), rel=1e-9) for run in session.runs}
    assert NUMBERS[artifact](session) == expected


@pytest.mark.parametrize("artifact", TEXTS)
def test_an_artifact_shows_the_sessions_p99s(session: Session, artifact: str) -> None:
    assert TEXTS[artifact](session) == {run["run_id"]: texts(run) for run in session.runs}


def test_allures_metrics_are_those_of_runs_that_can_be_trusted(session: Session) -> None:
    told = {sample["id"]: sample["value"] for sample in read_json(session.folder / "allure" / "llmperf-perf.json")}
    trusted = [run for run in session.runs if run["verdict"] != "INVALID"]
    for key in ("ttft_p99", "e2e_p99"):
        expected = {f"{run['run_id']}/{key}": pytest.approx(1000 * run["metrics"][key]["value"], rel=1e-5) for run in trusted}
        assert {name: value for name, value in told.items() if name.endswith(f"/{key}")} == expected


def test_documents_are_as_the_schema_says(session: Session) -> None:
    schema = read_json(SCHEMA)
    jsonschema.validate(session.document, schema)
    for run in session.runs:
        stored = read_json(session.storage(run["run_id"]) / "run.json")
        jsonschema.validate(stored, schema)
        assert stored == run == json.loads(session.attached(run, "run.json"))
    jsonschema.validate(session.reported, schema)


def test_a_run_has_every_part_and_names_its_files(session: Session) -> None:
    for run in session.runs:
        assert run["artifacts"] == BESIDE
        assert {path.name for path in session.storage(run["run_id"]).iterdir()} == {"run.json", *BESIDE.values()}
        assert [name for name in ("series", "server", "bottleneck", "cost", "steadiness", "sla") if run[name] is None] == []
        assert run["configuration"]["engine_arguments"]
        assert run["server"]["samples"] >= 1
        rows = pq.ParquetFile(session.storage(run["run_id"]) / "requests.parquet").metadata.num_rows
        assert rows == run["counts"]["total"] + run["counts"]["warmup"] == run["client"]["planned_requests"]
        assert len((session.storage(run["run_id"]) / "requests.csv").read_text().splitlines()) == rows + 1


def test_the_sla_miss_is_told_everywhere(session: Session) -> None:
    (failure,) = session.tests[MISSED].iter("failure")
    assert "SlaMissError: SLA inline: FAIL" in failure.attrib["message"]
    check_allure(session, session.allure[MISSED], "failed", "SLA miss")
    assert "### SLA misses (SIMULATED)" in (session.folder / "summary.md").read_text()
    (row,) = [row for row in runs_in_markdown(session.folder) if f"{row['test']}[{row['cell']}]" == MISSED]
    assert row["verdict"].endswith(" FAIL")
    assert "SLA missed%3A test_labels (SIMULATED)::" in session.output


def test_the_invalid_run_is_told_with_its_reason(session: Session) -> None:
    (run,) = [run for run in session.runs if name_of(run) == INVALID]
    (reason, *_) = run["client"]["distrust"]
    assert re.match(r"worker 0 (sent its requests|read its answers) late", reason)
    (failure,) = session.tests[INVALID].iter("failure")
    assert "SlaMissError: SLA inline: INVALID" in failure.attrib["message"]
    # The message is cut by pytest, the text is not.
    assert reason in " ".join((failure.text or "").replace("\nE ", " ").split())
    check_allure(session, session.allure[INVALID], "failed", "Invalid measurement")
    assert reason in " ".join(session.allure[INVALID]["statusDetails"]["message"].split())
    assert reason in " ".join((session.storage(run["run_id"]) / "stats.txt").read_text().split())
    section = (session.folder / "summary.md").read_text().partition("### INVALID: ")[2].partition("###")[0]
    assert reason in section


def test_the_cell_that_never_came_up_is_an_error(session: Session) -> None:
    lost = [f"test_{name}[{UNDEPLOYED}]" for name in ("labels", "titles", "codes")]
    assert sorted(name for name, test in session.tests.items() if test.find("error") is not None) == sorted(lost)
    for name in lost:
        check_allure(session, session.allure[name], "broken", "Deployment fault")
        assert [step["name"] for step in session.allure[name]["steps"]] == ["Deploy"]
    section = (session.folder / "summary.md").read_text().partition("### Not deployed")[2].partition("###")[0]
    assert f"**{UNDEPLOYED}** (target sim): " in section
    assert "8 blocks cannot hold one request of max_model_len" in section
    assert UNDEPLOYED in overview(session)
    assert session.output.count(f"::error title=not deployed%3A {UNDEPLOYED}") == 1


def check_allure(session: Session, test: Json, status: str, category: str) -> None:
    """A test's status, and the one category that Allure 3 will show it under."""
    assert test["status"] == status
    rules = read_json(session.folder / "allure" / "allurerc.json")["categories"]["rules"]
    message = test["statusDetails"]["message"]
    assert [
        rule["name"]
        for rule in rules
        if status in rule["matchers"]["statuses"] and re.search(rule["matchers"]["message"], message)
    ] == [category]


def test_allures_session_is_complete(session: Session) -> None:
    folder = session.folder / "allure"
    assert {path.name for path in folder.iterdir() if not re.match(r"[0-9a-f-]{36}-", path.name)} == {
        "allurerc.json",
        "categories.json",
        "environment.properties",
        "executor.json",
        "llmperf-perf.json",
    }
    assert read_json(folder / "executor.json")["buildUrl"].endswith(f"/actions/runs/{CI['GITHUB_RUN_ID']}")
    assert "Simulated=yes\n" in (folder / "environment.properties").read_text()
    for run in session.runs:
        names = [attachment["name"] for attachment in session.allure[name_of(run)]["attachments"]]
        assert names == [f"SLA inline: {run['verdict']}", "Latency", "Throughput", "stats.txt", "run.json", "requests.csv"]


def test_simulated_is_said_wherever_a_number_is_shown(session: Session) -> None:
    assert "(SIMULATED)" in session.output
    said = [session.folder / name for name in ("summary.md", "step.md", EXPORTS["pytest-benchmark"])]
    said += (session.folder / EXPORTS["llm-d"]).iterdir()
    for run in session.runs:
        directory = session.storage(run["run_id"])
        said += (directory / name for name in ("stats.txt", "latency_analysis.svg", "throughput_analysis.svg"))
        assert pq.read_metadata(directory / "requests.parquet").metadata[b"simulated"] == b"true"
        assert "(SIMULATED)" in session.attached(run, "SLA inline: ")
    assert [path for path in said if "SIMULATED" not in path.read_text()] == []
    assert [test["name"] for test in session.allure.values() if "(SIMULATED)" not in test["name"]] == []
    samples = [line for line in (session.folder / "metrics.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in samples if 'simulated="true"' not in line] == []
    told = [
        each.attrib["value"] for test in session.tests.values() for each in test.iter("property") if "simu" in each.attrib["name"]
    ]
    assert told == ["SIMULATED"] * 6


def test_what_is_reported_of_the_session_later_is_what_it_wrote_itself(session: Session) -> None:
    again = [f"--export={form}=again-{path}" for form, path in EXPORTS.items()]
    session.command("report", "out.json", "--markdown=again.md", *again)
    folder = session.folder
    pairs = [("again.md", "summary.md"), ("step.md", "summary.md")]
    pairs += [(f"again-{name}", name) for name in ("bench.json", "metrics.txt")]
    pairs += [(f"again-reports/{path.name}", f"reports/{path.name}") for path in (folder / "reports").iterdir()]
    assert [one for one, other in pairs if (folder / one).read_bytes() != (folder / other).read_bytes()] == []


def test_one_page_for_mailing_shows_all_runs(sessions: Mapping[str, Session]) -> None:
    session = sessions["alone"]
    session.command("report", "out.json", "--html=report.html")
    page = (session.folder / "report.html").read_text()
    assert "SIMULATED" in page
    assert [name_of(run) for run in session.runs if not all(text in page for text in texts(run))] == []
    assert UNDEPLOYED in page
    assert not re.search(r'(src|href)="https?://', page), "it is read without a network"


def test_no_file_holds_a_secret(session: Session) -> None:
    secrets = [*SECRETS.values(), ENGINES_SECRET]
    seen = {path: path.read_bytes() for path in session.folder.rglob("*") if path.is_file() and "fixtures" not in path.parts}
    # What is compressed there.
    seen |= {path: str(pq.read_table(path).to_pydict()).encode() for path in seen if path.suffix == ".parquet"}
    seen[Path("output")] = session.output.encode()
    # Nor how one begins: a cut leaves that.
    assert [(path, secret) for path, content in seen.items() for secret in secrets if secret[:9].encode() in content] == []


def test_both_ways_leave_the_same_artifacts(sessions: Mapping[str, Session]) -> None:
    alone, xdist = (artifacts(sessions[way]) for way in WAYS)
    assert alone == xdist
    assert sum(alone.values()) > 100


def artifacts(session: Session) -> Counter[str]:
    """How often there is a file of each name, whatever the runs' ids and Allure's."""
    names = {run["run_id"]: name_of(run) for run in session.runs}
    paths = [path.relative_to(session.folder) for path in session.folder.rglob("*") if path.is_file()]
    kept = [path for path in paths if not path.name.startswith("again") and not {"__pycache__", "again-reports"} & {*path.parts}]
    # allure-pytest writes a container for each fixture, of which a worker of xdist has its own.
    kept = [path for path in kept if not path.name.endswith("-container.json") and path.name != "report.html"]
    return Counter(_anonymous(path.as_posix(), names) for path in kept)


def _anonymous(path: str, names: dict[str, Any]) -> str:
    path = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", path)
    return re.sub("|".join(names), lambda found: str(names[found[0]]), path)
