"""The command line: the simulator by hand, the cells of a matrix, and what is said to a mistake."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_llmperf.deploy.readiness import await_ready

COMMAND = (sys.executable, "-m", "pytest_llmperf.cli")


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


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
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 4
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_cells() -> None:
    done = cli("cells", "--matrix", "default")
    assert done.returncode == 0
    assert "gke_h100_standalone_llama-3.1-8b" in done.stdout.splitlines()
