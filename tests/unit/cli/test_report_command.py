"""``pytest-llmperf report``: the table, every file it writes, and what it says to a mistake."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from pytest_llmperf.cli import main
from pytest_llmperf.cli.status import OK, USAGE_ERROR
from pytest_llmperf.report.document import DeploymentErrorPart, SessionDocument, from_json, session_document, to_json
from tests.unit.report.drawn import stored
from tests.unit.report.runs import answered
from tests.unit.report.stored import measured, save


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("LLMPERF_STORAGE", raising=False)
    folder = tmp_path / "store"
    stored(folder, answered(100), "abcd1111", test="test_first")
    stored(folder, answered(100, scale=1.5), "ef012345", test="test_second")
    save(folder, "main", measured(run_id="abcd1111"))
    return folder


def report(storage: Path, *arguments: str | Path) -> int:
    return main(["report", "--storage", str(storage), *map(str, arguments)])


@pytest.mark.parametrize("width", [80, 120])
def test_table_of_all_runs_fits_the_terminal(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert report(storage) == OK
    printed = capsys.readouterr().out
    assert "test_first" in printed
    assert "test_second" in printed
    assert "SIMULATED" in printed
    assert "fast enough? " in printed
    assert max(map(len, printed.splitlines())) <= width


def test_table_of_one_run_is_of_that_run(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(storage, "ef01") == OK
    printed = capsys.readouterr().out
    assert "test_second" in printed
    assert "test_first" not in printed


def test_group_by_sort_and_columns_are_those_of_the_plugin(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(storage, "--group-by", "test", "--sort", "ttft_p99", "--columns", "itl_p99,goodput") == OK
    printed = capsys.readouterr().out
    assert "ITL ms" in printed
    assert "goodput %" in printed
    assert printed.index("test_first (SIMULATED)") < printed.index("test_second (SIMULATED)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group-by", "cel"], "--group-by: unknown grouping 'cel'\n  Did you mean 'cell'?"),
        (["--sort", "ttft_p98x"], "--sort: ttft needs a statistic"),
        (["--columns", "gooodput"], "--columns: unknown metric 'gooodput'; did you mean 'goodput'?"),
        (["abcd9"], "RUNS: there is no run or saved session 'abcd9'"),
        (["--export", "openmetric=x"], "--export: unknown export format 'openmetric'\n  Did you mean 'openmetrics'?"),
        (["--export", "openmetrics"], "--export: 'openmetrics' names no path\n  Write openmetrics=PATH."),
        (["--csv", "-", "--json", "-"], "--json: --csv and --json cannot both be written to standard output"),
        (["--csv", ""], "--csv: needs a path"),
        (["--html", "-"], "--html: cannot be written to standard output: only --csv, --json, --markdown can\n  Name a file"),
        (["--export", "openmetrics=-"], "--export: cannot be written to standard output"),
        (["--html", "/"], "--html: / is a directory\n  Name a file."),
        (["--plots", "/dev/null/x"], "--plots: /dev/null is no directory\n  Name a directory"),
        (["--plots", "/dev/null"], "--plots: /dev/null is no directory"),
        (["--csv", "/dev/null/x/r.csv"], "--csv: /dev/null is no directory\n  Name a file."),
        (["--export", "openmetrics=/dev/null/x"], "--export: /dev/null is no directory"),
        (["--export", "llm-d=/dev/null"], "--export: /dev/null is no directory\n  There is one report a run"),
    ],
)
def test_mistakes_are_named_with_what_was_likely_meant(
    storage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert report(storage, *arguments) == USAGE_ERROR
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_what_no_run_has_is_said_to_be_missing(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(storage, "--sort", "ttft_p9", "--columns", "ttft_p99,itl_p1") == OK
    assert capsys.readouterr().err == (
        "pytest-llmperf: --sort: no run has ttft_p9\npytest-llmperf: --columns: no run has itl_p1\n"
    )


def test_storage_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path / "nowhere") == USAGE_ERROR
    assert "--storage: there is no directory" in capsys.readouterr().err


def test_csv_to_standard_output_is_nothing_but_csv(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(storage, "--csv", "-") == OK
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert sorted(row["run_id"] for row in rows) == ["abcd1111", "ef012345"]


def test_json_is_a_session_of_the_runs(storage: Path, tmp_path: Path) -> None:
    assert report(storage, "--json", tmp_path / "out.json") == OK
    document = from_json((tmp_path / "out.json").read_bytes())
    assert isinstance(document, SessionDocument)
    assert sorted(run.run_id for run in document.runs) == ["abcd1111", "ef012345"]
    assert document.simulated
    assert document.target == "sim"


def test_json_of_one_saved_session_is_that_session(storage: Path, tmp_path: Path) -> None:
    assert report(storage, "main", "--json", tmp_path / "out.json") == OK
    (saved,) = (storage / "saved").iterdir()
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(saved.read_text())


def test_cells_that_were_not_deployed_are_told(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = DeploymentErrorPart(cell_id="gke_l40s", target="sim", error="it did not start")
    session = session_document([measured()], created=0, arguments=[], target="sim", simulated=True, deployment_errors=[error])
    (tmp_path / "s.json").write_text(to_json(session))
    assert report(storage, tmp_path / "s.json", "--html", tmp_path / "s.html") == OK
    assert "not deployed: gke_l40s: it did not start" in capsys.readouterr().out
    assert "it did not start" in (tmp_path / "s.html").read_text()


def test_markdown_and_exports_are_written(storage: Path, tmp_path: Path) -> None:
    exports = ("--export", f"pytest-benchmark={tmp_path / 'b.json'}", "--export", f"openmetrics={tmp_path / 'm.txt'}")
    assert report(storage, "--markdown", tmp_path / "s.md", *exports) == OK
    assert "SIMULATED" in (tmp_path / "s.md").read_text()
    assert json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    assert (tmp_path / "m.txt").read_text().rstrip().endswith("# EOF")


def test_plots_and_html_are_written(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(storage, "--plots", tmp_path / "plots", "--html", tmp_path / "r.html") == OK
    names = {str(path.relative_to(tmp_path / "plots")) for path in (tmp_path / "plots").rglob("*.*")}
    files = {f"{kind}_analysis.{form}" for kind in ("latency", "throughput") for form in ("png", "svg")}
    assert names == {f"{run}/{name}" for run in ("abcd1111", "ef012345") for name in files} | {"overview.png", "overview.svg"}
    html = (tmp_path / "r.html").read_text()
    assert html.count("data:image/svg+xml;base64,") == 5
    assert "No: 1 of 2 runs misses its SLA." in html
    assert capsys.readouterr().err == ""


def test_runs_without_requests_say_what_is_not_drawn(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (storage / "runs" / "abcd1111" / "requests.parquet").unlink()
    assert report(storage, "--plots", tmp_path / "plots") == OK
    assert "not drawn of abcd1111: how the latencies are spread" in capsys.readouterr().err
    assert (tmp_path / "plots" / "abcd1111" / "latency_analysis.svg").is_file()


def test_place_that_cannot_be_written_is_named(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert report(storage, "--html", tmp_path / "file" / "r.html") == USAGE_ERROR
    captured = capsys.readouterr()
    assert f"--html: {tmp_path / 'file'} is no directory" in captured.err
    assert captured.out == ""


def test_a_file_takes_no_device_s_or_pipe_s_place(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # No device of this machine: where this goes wrong it is gone.
    os.mkfifo(tmp_path / "pipe")
    assert report(storage, "--json", tmp_path / "pipe") == USAGE_ERROR
    assert f"--json: {tmp_path / 'pipe'} is no regular file\n  Name a file." in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_exports_are_of_the_requests_where_they_lie(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ttft(name: str) -> dict[str, object]:
        entries = json.loads((tmp_path / name).read_text())["benchmarks"]
        return next(entry for entry in entries if entry["extra_info"]["metric"] == "ttft")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert report(storage, "--export", f"pytest-benchmark={tmp_path / 'named.json'}") == OK
    assert main(["report", str(storage), "--export", f"pytest-benchmark={tmp_path / 'given.json'}"]) == OK
    assert ttft("given.json") == ttft("named.json")
    assert "unknown" not in ttft("given.json")["extra_info"]  # type: ignore[operator]  # a mapping
    assert capsys.readouterr().err == ""


def test_exports_say_what_they_miss_where_there_are_no_requests(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (storage / "runs" / "abcd1111" / "requests.parquet").unlink()
    forms = (f"pytest-benchmark={tmp_path / 'b.json'}", f"llm-d={tmp_path / 'l'}", f"openmetrics={tmp_path / 'm.txt'}")
    assert report(storage, *(word for form in forms for word in ("--export", form))) == OK
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(": the requests of abcd1111 were not found: ")[0] for line in told] == [
        "pytest-llmperf: pytest-benchmark",
        "pytest-llmperf: llm-d",
    ]
    assert "min, stddev, quartiles and outliers are not known" in told[0]


def test_cells_that_were_not_deployed_are_told_beside_further_runs(storage: Path, tmp_path: Path) -> None:
    error = DeploymentErrorPart(cell_id="gke_l40s", target="sim", error="it did not start")
    session = session_document([measured()], created=0, arguments=[], target="sim", simulated=True, deployment_errors=[error])
    (tmp_path / "s.json").write_text(to_json(session))
    assert report(storage, tmp_path / "s.json", "ef01", "--markdown", tmp_path / "s.md") == OK
    assert "### Not deployed" in (tmp_path / "s.md").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
@pytest.mark.parametrize("arguments", [[], ["--csv", "-"], ["--json", "-"]], ids=["table", "csv", "json"])
def test_standard_output_on_a_full_disk_is_an_error_in_one_line(storage: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pytest_llmperf.cli", "report", "--storage", str(storage), *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        USAGE_ERROR,
        "pytest-llmperf: standard output cannot be written: No space left on device\n",
    )


def test_home_directory_is_meant_by_its_sign(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert report(storage, "ef01", "--plots", "~/plots", "--html", "~/r.html", "--csv", "~/r.csv") == OK
    assert (tmp_path / "home" / "plots" / "ef012345").is_dir()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["plots", "r.csv", "r.html"]
    assert not (tmp_path / "~").exists()


def test_an_id_that_leads_elsewhere_makes_no_directory(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(to_json(measured(run_id="../evil")))
    assert report(storage, tmp_path / "run.json", "--plots", tmp_path / "plots" / "deep") == USAGE_ERROR
    assert "the run's id '../evil' cannot name a directory" in capsys.readouterr().err
    assert not (tmp_path / "plots").exists()
