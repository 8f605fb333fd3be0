"""How fast the simulator is: an hour in virtual time, and tokens on time through real connections."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from pytest_llmperf.sim.spec import ColdStart
from pytest_llmperf.sim.virtual import Arrival, open_loop
from tests.unit.sim.cells import spec

STREAMS = 90
CLIENT = Path(__file__).with_name("sim_client.py")


def _poisson_hour(rate_per_s: float) -> list[Arrival]:
    draw, now_s, arrivals = random.Random(1), 0.0, []
    while now_s < 3600:
        now_s += draw.expovariate(rate_per_s)
        arrivals.append(Arrival(now_s, draw.randint(64, 512), draw.randint(100, 250)))
    return arrivals


def test_an_hour_of_ten_requests_a_second_takes_less_than_a_minute(
    record_property: Callable[[str, object], None],
) -> None:
    arrivals = _poisson_hour(10.0)
    started = time.perf_counter()
    run = open_loop(spec(), arrivals)
    seconds = time.perf_counter() - started
    record_property("virtual_hour_s", seconds)
    assert len(run.requests) == len(arrivals)
    assert seconds < 60


@pytest.fixture
def port() -> Iterator[int]:
    """A server that makes a little more than 20,000 tokens/s for that many streams: 8B in fp8 on a B200."""
    command = [sys.executable, "-m", "pytest_llmperf.sim", "--spec", "-", "--parent-pid", str(os.getpid())]
    fast = replace(spec("b200", fp8=True, kv_cache_dtype="fp8"), cold_start=ColdStart(0.0, 0.0, 0.0))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(fast.to_json())
        server.stdin.close()
        yield json.loads(server.stdout.readline())["port"]
        server.kill()


def _call(port: int, method: str, path: str) -> dict[str, float]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return cast(dict[str, float], json.load(answer))


def test_tokens_leave_within_a_millisecond_at_20000_a_second(port: int, record_property: Callable[[str, object], None]) -> None:
    """The best of many short windows: a machine that takes the processor away says nothing about the simulator."""
    load_before = os.getloadavg()[0]
    with subprocess.Popen([sys.executable, str(CLIENT), str(port), str(STREAMS), "2000"], stdout=subprocess.PIPE) as client:
        time.sleep(1.0)  # The first moments are connections and prompts; what is measured is the stream of tokens.
        windows: list[tuple[float, dict[str, float]]] = []
        for _ in range(24):
            _call(port, "POST", "/admin/lateness/reset")
            began = time.perf_counter()
            time.sleep(0.25)
            summary = _call(port, "GET", "/admin/lateness")
            windows.append((summary["tokens"] / (time.perf_counter() - began), summary))
        client.kill()
    fast = [window for window in windows if window[0] >= 20_000]
    assert fast, [rate for rate, _ in windows]
    rate_per_s, best = min(fast, key=lambda window: window[1]["p99_ms"])
    record_property("tokens_per_s", rate_per_s)
    for name, value in best.items():
        record_property(f"lateness_{name}", value)
    record_property("lateness_p99_ms_of_all_windows", [summary["p99_ms"] for _, summary in windows])
    assert best["min_ms"] >= 0
    assert best["p50_ms"] <= 1.0, windows
    if best["p99_ms"] > 1.0 and load_before > 0.5 * (os.cpu_count() or 1):
        pytest.skip(f"others keep the machine busy (load {load_before:.1f}), so the slowest 1 % say nothing: {best}")
    assert best["p99_ms"] <= 1.0, windows
