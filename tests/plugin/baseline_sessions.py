"""Folders in which sessions with baselines are run: the catalog, the suites, and what the sessions leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Sessions = Callable[..., pytest.RunResult]
SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "results-2.json"
CELL = "gke_h100_standalone_llama-3.2-3b"

CATALOG = {
    "variants": """
default: {}
slowed:
  env: {LLMPERF_SIM_SLOWDOWN: "1.3"}
small-batch:
  engine_args: {max-num-seqs: 64}
""",
    "matrix": """
default: {platforms: [gke], hardware: [h100], models: [llama-3.2-3b]}
slow: {platforms: [gke], hardware: [h100], models: [llama-3.2-3b], variants: [slowed]}
small-batch: {platforms: [gke], hardware: [h100], models: [llama-3.2-3b], variants: [small-batch]}
other-gpu: {platforms: [eks], hardware: [l40s], models: [llama-3.2-3b]}
three: {platforms: [gke], hardware: [h100, a100-80gb, h200], models: [llama-3.2-3b]}
""",
    # Four answers of 24 tokens at a time take some 70 ms: TPOT is known well after a second or two.
    "workloads": """
labels:
  title: Labels
  input: {mean: 128}
  output: {mean: 24}
  warmup: 200ms
  profile: steady
silent:
  title: Labels, sent when they are whole
  stream: false
  input: {mean: 128}
  output: {mean: 24}
  warmup: 200ms
  profile: steady
""",
    "profiles": """
steady:
  arrivals: constant
  rate: 20/s
  duration: 1s
""",
}
SUITE = """
import pytest
from pytest_llmperf import concurrency

pytestmark = pytest.mark.llmperf(workload="labels", sla={"e2e": {"p50": "5s"}})

def test_strict(load, sla):
    assert load(concurrency(4), "1500ms").meets(sla)

@pytest.mark.llmperf(tolerance={"tpot_p50": "100%"})
def test_lenient(load):
    load(concurrency(4), "1500ms")
"""
GATE = "--llmperf-compare-fail=tpot_p50:10%"


def write(folder: Path, suite: str = SUITE) -> None:
    """A suite, and the catalog it needs."""
    (folder / "test_suite.py").write_text(suite)
    (folder / "fixtures").mkdir(exist_ok=True)
    for name, text in CATALOG.items():
        (folder / "fixtures" / f"{name}.yaml").write_text(text)


REPEATED = """
import pytest
from pytest_llmperf import concurrency

@pytest.mark.llmperf(workload="labels")
def test_it(load):
    load(concurrency(2), "800ms")

def test_without_a_load(cell):
    assert cell
"""


FIXTURE = """
import pytest
from pytest_llmperf import concurrency

pytestmark = pytest.mark.llmperf(workload="labels")

def test_default(load, baseline):
    assert baseline.holds(load(concurrency(4), "1500ms"))

@pytest.mark.llmperf(tolerance={"tpot_p50": "10%"})
def test_own(load, baseline):
    run = load(concurrency(4), "1500ms")
    part = baseline.compare(run)
    assert part is None or [change.metric for change in part.changes if change.gated] == ["tpot_p50"]
    assert baseline.holds(run)

@pytest.mark.llmperf(tolerance={"tpot_p50": "100%"})
def test_lenient(load, baseline):
    assert baseline.holds(load(concurrency(4), "1500ms"))
"""


STALL = """
import os, signal, threading, urllib.request
from pathlib import Path

def stop_the_worker_for_a_second(base_url):
    running = b""
    while b"num_requests_running" not in running or b" 0.0" in running:
        lines = urllib.request.urlopen(base_url + "/metrics").read().splitlines()
        running = next(line for line in lines if line.startswith(b"vllm:num_requests_running"))
    children = [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    (worker,) = [pid for pid in children if b"pytest_llmperf.load.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(worker, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (worker, signal.SIGCONT)).start()

"""
"""Makes a run INVALID: a load worker in /proc stands still for a second of it."""


def slow_down(folder: Path) -> None:
    """From now on the very same cell has a slower server."""
    path = folder / "fixtures" / "variants.yaml"
    path.write_text(path.read_text().replace("default: {}", 'default: {env: {LLMPERF_SIM_SLOWDOWN: "1.3"}}'))


def stored(folder: Path) -> list[dict[str, Any]]:
    """The runs on disk, as they were made."""
    runs = [json.loads(path.read_text()) for path in (folder / ".llmperf" / "runs").glob("*/run.json")]
    return sorted(runs, key=lambda run: str(run["timing"]["started_at"]))


def results(folder: Path) -> dict[str, Any]:
    """The session's document, which is as the schema says."""
    document: dict[str, Any] = json.loads((folder / "out.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return document


def change(run: dict[str, Any], metric: str) -> dict[str, Any]:
    (found,) = [part for part in run["comparison"]["changes"] if part["metric"] == metric]
    return dict(found)


def refused(result: pytest.RunResult, folder: Path) -> str:
    """The usage error of a session that deployed nothing and measured nothing."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ready after" not in result.stdout.str()
    assert not stored(folder)
    return result.stderr.str()
