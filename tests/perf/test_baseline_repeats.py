"""The same server beside its own baseline, session after session: none may be called a regression."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSIONS = 20
MATRIX = "default: {platforms: [gke], hardware: [h100], models: [llama-3.2-3b]}\n"
WORKLOADS = """
labels:
  title: Labels
  input: {mean: 128}
  output: {mean: 24}
  warmup: 200ms
"""
SUITE = """
import pytest
from pytest_llmperf import concurrency, poisson

pytestmark = pytest.mark.llmperf(workload="labels")

def test_closed_loop(load):
    load(concurrency(4), "1500ms")

def test_open_loop(load):
    load(poisson("20/s"), "1500ms")
"""
GATES = ("tpot_p50:10%", "tpot_p95:10%", "ttft_p50:10%", "output_tokens_per_s:5%", "error_rate:0.5%")
"""What is gated by default, and TPOT as a person would gate it."""


def session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One session of pytest, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLMPERF_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_variant_beside_its_own_baseline_passes_every_time(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "matrix.yaml").write_text(MATRIX)
    (tmp_path / "fixtures" / "workloads.yaml").write_text(WORKLOADS)
    saved = session(tmp_path, "--llmperf-save=main")
    assert saved.returncode == pytest.ExitCode.OK, saved.stdout
    compare = ("--llmperf-compare=main", *(f"--llmperf-compare-fail={gate}" for gate in GATES), "--llmperf-json=out.json")
    failed: list[str] = []
    ratios: list[float] = []
    for number in range(1, SESSIONS + 1):
        done = session(tmp_path, *compare)
        if done.returncode != pytest.ExitCode.OK:
            failed.append(f"session {number}:\n{done.stdout}")
        for run in json.loads((tmp_path / "out.json").read_text())["runs"]:
            ratios += [part["ratio"] for part in run["comparison"]["changes"] if part["metric"] == "tpot_p50"]
    print(
        f"\n{SESSIONS - len(failed)} of {SESSIONS} sessions pass beside their own baseline; "
        f"TPOT p50 was {min(ratios):.3f} to {max(ratios):.3f} of the baseline's"
    )
    assert not failed, "\n".join(failed)
