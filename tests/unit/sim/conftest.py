"""A simulated server as a real process on a free port of loopback, and the captures of a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from pytest_llmperf.sim.spec import ColdStart, SimSpec

from .cells import model_spec, spec

# A small step (about 2 ms) and no cold start: the tests wait for tokens, not for the model.
FAST = replace(
    spec("h100", "llama-3.2-1b", max_model_len=4096),
    model=replace(model_spec("llama-3.2-1b"), name="tiny"),
    served_model_name="tiny",
    cold_start=ColdStart(0.0, 0.0, 0.0),
)


@dataclass(frozen=True)
class Running:
    """A server process and a client that talks to it."""

    process: subprocess.Popen[str]
    port: int
    http: httpx.Client

    def wait_ready(self) -> None:
        """Poll /health until it is 200."""
        deadline = time.monotonic() + 10
        while self.http.get("/health").status_code != 200:
            assert time.monotonic() < deadline, "the simulator did not become ready"


Start = Callable[..., Running]


def start_server(spec: SimSpec, *options: str) -> Running:
    """The process of a spec, listening."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_llmperf.sim", "--spec", "-", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(spec.to_json())
    process.stdin.close()
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    port = json.loads(line)["port"]
    return Running(process, port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False))


def stop_server(running: Running) -> None:
    """End the process, whatever state it is in."""
    running.http.close()
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()
    for pipe in (running.process.stdout, running.process.stderr):
        if pipe is not None:
            pipe.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """One fast server for all tests that leave it as it was."""
    running = start_server(FAST)
    running.wait_ready()
    yield running
    stop_server(running)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers of other specs; all are gone after the test."""
    started: list[Running] = []

    def start_one(spec: SimSpec, *options: str) -> Running:
        started.append(start_server(spec, *options))
        return started[-1]

    yield start_one
    for running in started:
        stop_server(running)


@pytest.fixture
def capture() -> Callable[[str], str]:
    """Reads a file captured from vLLM 0.32; skips where the captures are not at hand."""
    shared = os.environ.get("LLMPERF_SHARED")
    folder = (Path(shared) if shared else Path(__file__).resolve().parents[4] / "shared") / "wire" / "vllm-0.32"

    def read(name: str) -> str:
        if not folder.is_dir():
            pytest.skip("no captures of a real vLLM here; LLMPERF_SHARED names the folder that holds wire/")
        return (folder / name).read_text(encoding="utf-8")

    return read
