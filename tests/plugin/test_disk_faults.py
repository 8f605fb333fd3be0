"""A disk that is full or read-only, and a session that is killed: a clear error, and what was measured is readable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_llmperf.report.document import RunDocument, from_json

Sessions = Callable[..., pytest.RunResult]
BUSY = "--llmperf-trust=lateness_p99:10s,loop_lag_p99:10s"
"""Whether the machine is a busy one is not what is asked here."""

SUITE = """
import subprocess, sys
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="classification")

def test_1_before(load):
    assert load(constant("40/s"), "1s", warmup="0s").meets({{"error_rate": "1%"}})

def test_2_after(load):
    {fault}
    load(constant("40/s"), "1s", warmup="0s")
"""


def mounted(directory: Path) -> bool:
    """Whether a small disk of its own could be mounted there; only root may."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "llmperf-test", str(directory)]
    return (
        sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB; skipped where nobody lets us mount one."""
    directory = tmp_path / "disk"
    if not mounted(directory):
        pytest.skip("needs the right to mount a small disk")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def stored(storage: Path) -> list[RunDocument]:
    """The runs of a storage, none of which names a file that is not there."""
    found = []
    for path in (storage / "runs").glob("*/run.json"):
        document = from_json(path.read_bytes())
        assert isinstance(document, RunDocument)
        assert [name for name in document.artifacts.values() if not (path.parent / name).is_file()] == []
        found.append(document)
    return found


def listed(storage: Path) -> list[str]:
    """The lines of ``pytest-llmperf list --runs`` that speak of one."""
    command = [sys.executable, "-m", "pytest_llmperf.cli", "list", "--runs", "--storage", str(storage)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if "SIMULATED" in line]


def check_told_and_kept(result: pytest.RunResult, storage: Path, reason: str) -> None:
    """The second test fails and says why; the first one's run is all there."""
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    told = " ".join(result.stdout.str().split())
    assert f"run.json: cannot write the results: {reason} Free space there, or choose another place" in told
    assert "Traceback" not in told
    (run,) = stored(storage)
    assert (run.test, run.verdict, set(run.artifacts)) == ("test_1_before", "PASS", {"requests", "stats"})
    (line,) = listed(storage)
    assert run.run_id in line


def test_a_full_disk(pytester: pytest.Pytester, llmperf: Sessions, small_disk: Path) -> None:
    fill = f"subprocess.run(['dd', 'if=/dev/zero', 'of={small_disk}/ballast', 'bs=4k'], capture_output=True)"
    pytester.makepyfile(test_suite=SUITE.format(fault=fill))
    result = llmperf("-k", "h100", BUSY, f"--llmperf-storage={small_disk}", "--llmperf-json=out.json")
    check_told_and_kept(result, small_disk, "No space left on device")
    # What the one disk did not take, the other has.
    assert len(json.loads((pytester.path / "out.json").read_text())["runs"]) == 2


def test_a_disk_that_becomes_read_only(pytester: pytest.Pytester, llmperf: Sessions, small_disk: Path) -> None:
    remount = f"subprocess.run(['mount', '-o', 'remount,ro', '{small_disk}'], check=True)"
    pytester.makepyfile(test_suite=SUITE.format(fault=remount))
    result = llmperf("-k", "h100", BUSY, f"--llmperf-storage={small_disk}")
    check_told_and_kept(result, small_disk, "Read-only file system")
    # Before anything is deployed, where it is known by then.
    refused = llmperf("-k", "h100", BUSY, f"--llmperf-storage={small_disk}")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--llmperf-storage: cannot write '{small_disk}/runs'" in refused.stderr.str()


def test_a_storage_below_a_file(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=SUITE.format(fault="pass"))
    (pytester.path / "file").write_text("")
    result = llmperf("-k", "h100", "--llmperf-storage=file/x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--llmperf-storage: cannot write" in result.stderr.str()


@pytest.mark.usefixtures("llmperf")
def test_a_session_that_is_killed(pytester: pytest.Pytester) -> None:
    heard, said = os.pipe()
    fault = f'import os; os.write({said}, b"!"); load(constant("20/s"), "60s", warmup="0s")'
    pytester.makepyfile(test_suite=SUITE.format(fault=fault))
    command = [sys.executable, "-m", "pytest", "-k", "h100", BUSY]
    with subprocess.Popen(
        command, cwd=pytester.path, stdout=subprocess.DEVNULL, start_new_session=True, pass_fds=[said]
    ) as session:
        os.close(said)
        with os.fdopen(heard, "rb") as pipe:
            assert pipe.read(1) == b"!"
        session.send_signal(signal.SIGKILL)
        assert session.wait(30) == -signal.SIGKILL
    storage = pytester.path / ".llmperf"
    (run,) = stored(storage)
    assert (run.test, run.verdict, set(run.artifacts)) == ("test_1_before", "PASS", {"requests", "stats"})
    (line,) = listed(storage)
    assert "PASS" in line
