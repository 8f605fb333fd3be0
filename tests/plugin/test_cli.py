"""The command line: the simulator by hand, the cells of a matrix, what was saved, and what is said to a mistake."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from pytest_llmperf.deploy.readiness import await_ready
from pytest_llmperf.report.commit import Commit
from pytest_llmperf.report.document import session_document, to_json
from pytest_llmperf.report.storage import write_run
from tests.unit.report.stored import CONDITIONS, measured, save

COMMAND = (sys.executable, "-m", "pytest_llmperf.cli")


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLMPERF_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**environ, "COLUMNS": "80", "TZ": "UTC", **environment},
    )


@pytest.fixture
def simulator() -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [*COMMAND, "sim", "--hardware", "l40s", "--model", "llama-3.2-3b", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, line
        if process.poll() is None:
            process.kill()


def test_sim_serves_and_ends_on_sigterm(simulator: tuple[subprocess.Popen[str], str]) -> None:
    process, line = simulator
    assert line.startswith("SIMULATED llama-3.2-3b on l40s: http://127.0.0.1:")
    url = line.split()[4]
    answer = await_ready(url, model=None, api_key=None, timeout_s=30.0, progress=print)
    assert answer.endpoint.model == "llama-3.2-3b"
    assert answer.endpoint.simulated
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_sim_on_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("sim", "--port", str(port))
    assert done.returncode == 4
    assert str(port) in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sim", "--hardware", "h10"), "--hardware: unknown hardware 'h10'"),
        (("sim", "--hardware", "h100x3"), "h100x3"),
        (("sim", "--model", "lama-3.1-8b"), "Did you mean 'llama-3.1-8b'?"),
        (("sim", "--hardware", "l4", "--model", "llama-3.3-70b"), "needs 131.5 GiB of weights"),
        (("sim", "--slow-start", "5"), "'5' has no unit"),
        (("sim", "--error-rate", "500"), "--error-rate: '500' has no '='"),
        (("sim", "--error-rate", "500=x"), "--error-rate: 'x'"),
        (("sim", "--stall", "10s"), "--stall: '10s' has no '='"),
        (("sim", "--crash-after", "-1"), "--crash-after: -1 is not within 0.."),
        (("sim", "--port", "99999"), "--port: 99999 is not within 0..65535"),
        (("sim", "--error-rate", "599x=1"), "unknown error status '599x'"),
        (("cells", "--matrix", "ful"), "Did you mean 'full'?"),
        (("cells", "--catalog", os.devnull), "--catalog: the catalog directory"),
        (("cells", "--matrx", "full"), "unrecognized arguments: --matrx"),
        (("compare", "main"), "the following arguments are required: B"),
        (("list", "--storage", "/nowhere/at/all"), "--storage: there is no directory '/nowhere/at/all'"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 4
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"pytest-llmperf {version('pytest-llmperf')}\n")


def test_cells() -> None:
    done = cli("cells", "--matrix", "default")
    assert done.returncode == 0
    assert "gke_h100_standalone_llama-3.1-8b" in done.stdout.splitlines()


HEADING = "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions of main, one that is twice as slow, one under other conditions, and one that was cut off."""
    directory = tmp_path_factory.mktemp("storage")
    save(directory, "main", measured(), commit=Commit("a1b2c3d4" * 5, dirty=False))
    save(directory, "main", measured(1.01), days=1, commit=Commit("b2c3d4e5" * 5, dirty=True))
    save(directory, "slow", measured(2.0), days=2)
    save(directory, "more-seqs", measured(conditions={**CONDITIONS, "engine max-num-seqs": "256"}), days=3)
    cut_off = save(directory, "main", measured(), days=4).path
    cut_off.write_bytes(cut_off.read_bytes()[:1000])
    return directory


def test_list(storage: Path) -> None:
    done = cli("list", "--storage", str(storage))
    assert done.returncode == 0
    assert "passed over" in done.stderr
    assert "0005_main.json: is no results document" in done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:4] for line in lines[1:]] == [
        ["0001", "main", "2025-06-15", "15:06"],
        ["0002", "main", "2025-06-16", "15:06"],
        ["0003", "slow", "2025-06-17", "15:06"],
        ["0004", "more-seqs", "2025-06-18", "15:06"],
    ]
    assert lines[2].split()[5:] == ["b2c3d4e5*", "SIMULATED", "1", "1", "1", "PASS"]
    assert "\x1b" not in done.stdout


def test_list_runs(tmp_path: Path) -> None:
    write_run(tmp_path, measured(run_id="one"))
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "run.json").write_text('{"kind": "run", ')
    done = cli("list", "--runs", COLUMNS="120", LLMPERF_STORAGE=str(tmp_path))
    assert done.returncode == 0
    assert "half/run.json: is no results document" in done.stderr
    (line,) = done.stdout.splitlines()[1:]
    assert line.startswith("one ")
    assert line.endswith("SIMULATED  PASS     test_meets_sla[gke_h100_standalone_llama-3.1-8b]")


def test_list_of_nothing_says_how_to_save(tmp_path: Path) -> None:
    done = cli("list", "--storage", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "pytest --llmperf-save=NAME saves one" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("0002", "slow"), 0, "nothing was gated (--fail)"),
        (("1", "slow", "--fail", "ttft_p50:10%"), 1, "baseline 0001_main: REGRESSED (SIMULATED"),
        (
            ("1", "slow", "--fail", "error_rate:1%", "--fail", "ttft_p50:10%,tpot_p95:3x"),
            4,
            "--fail: tpot_p95:3x: '3x' has the unknown unit",
        ),
        (("1", "2", "--fail", "ttft_p50:50%"), 0, "0002_main beside 0001_main: 1 unchanged"),
        (("1", "more-seqs", "--fail", "ttft_p50:10%"), 3, "engine max-num-seqs: 128 -> 256"),
        (("1", "slo"), 4, "B: unknown saved session 'slo'\n  Did you mean 'slow'?"),
        (("main", "slow"), 4, "0005_main.json: is no results document"),
        (("suites/", "slow"), 4, "A: 'suites/' is a path, not the name of a saved session"),
        (("1", "slow", "--fail", "tfft_p50:10%"), 4, "did you mean 'ttft'?"),
        (("1", "slow", "--fail", "ttft_p99.9:10%"), 4, "--fail: unknown metric of baseline '0001_main' 'ttft_p99.9'"),
    ],
)
def test_compare(storage: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    done = cli("compare", *arguments, "--storage", str(storage))
    assert done.returncode == status, done.stdout + done.stderr
    assert said in (done.stderr if status == 4 else done.stdout)
    assert "Traceback" not in done.stderr
    if status != 4:
        assert done.stdout.splitlines()[0] == HEADING
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_compare_takes_the_paths_of_results(tmp_path: Path) -> None:
    baseline, candidate = tmp_path / "a.json", write_run(tmp_path, measured(2.0))
    document = session_document([measured()], created=0.0, arguments=[], target="sim", simulated=True)
    baseline.write_text(to_json(document))
    done = cli("compare", str(baseline), str(candidate), "--fail=ttft_p50:10%")
    assert done.returncode == 1
    assert f"beside {baseline}: 1 regressed" in " ".join(done.stdout.split())


def test_a_regression_weighs_more_than_what_cannot_be_compared(tmp_path: Path) -> None:
    more = {**CONDITIONS, "engine max-num-seqs": "256"}
    save(tmp_path, "a", measured(), measured(test="test_other"))
    save(tmp_path, "b", measured(2.0), measured(test="test_other", conditions=more))
    assert cli("compare", "a", "b", "--fail=ttft_p50:10%", "--storage", str(tmp_path)).returncode == 1
    assert cli("compare", "a", "b", "--fail=error_rate:5%", "--storage", str(tmp_path)).returncode == 3


def test_trend(storage: Path) -> None:
    done = cli("trend", "main", "--storage", str(storage))
    assert done.returncode == 0
    assert "0005_main.json" in done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [HEADING, " (SIMULATED)"]
    assert lines[4].split()[:7] == ["0002", "2025-06-16", "15:06", "b2c3d4e5*", "197ms", "+1%", "303ms"]


def test_trend_of_a_pattern_and_one_metric(storage: Path) -> None:
    done = cli("trend", "*", "--metric", "ttft_p95", "--test", "meets_sla[gke_h100", "--storage", str(storage))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[3:7]] == ["0001_main", "0002_main", "0003_slow", "0004_more-seqs"]
    assert lines[-1] == "TTFT p95  |__#|_|  289ms..579ms"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slwo",), "NAME: no saved session is named 'slwo'\n  Did you mean 'slow'? Names: main, more-seqs, slow."),
        (("slow", "--metric", "speed"), "--metric: unknown metric 'speed'"),
        (("slow", "--test", "nothing"), f"--test: no test's name contains 'nothing'\n  The tests are:\n  {HEADING}"),
    ],
)
def test_mistakes_of_trend(storage: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli("trend", *arguments, "--storage", str(storage))
    assert done.returncode == 4
    assert message in done.stderr


def test_whoever_reads_along_may_stop(storage: Path) -> None:
    """``| head -1`` of an answer that is longer than a pipe holds: no complaint, and no status that means something else."""
    many = [f"--metric={metric}_p{i / 10}" for metric in ("itl", "ttft", "tpot", "e2e") for i in range(1, 990)]
    assert first_line("trend", "*", "--storage", str(storage), *many) == HEADING
    assert first_line("cells", "--matrix", "full").startswith("gke_h100_standalone_")


def first_line(*arguments: str) -> str:
    # Unbuffered, Python does not notice that a pipe takes no more.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline().strip()
        process.stdout.close()
        assert "Error" not in process.stderr.read()
        assert process.wait(30) == 0
    return line
