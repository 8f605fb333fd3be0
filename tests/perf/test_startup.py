"""What the plugin costs before anything is measured: ``pytest --help`` with and without it, and collecting the suites."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[2]
ROUNDS = 9


def seconds(*arguments: str) -> float:
    """Wall time of one ``pytest`` process in the repository's root."""
    started = perf_counter()
    subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return perf_counter() - started


def test_help_costs_under_150_ms_more() -> None:
    """Alternating runs: the median of the paired differences, so that a drifting machine hits both alike."""
    seconds("--help")
    pairs = [(seconds("--help"), seconds("--help", "-p", "no:llmperf")) for _ in range(ROUNDS)]
    extra = statistics.median(with_it - without for with_it, without in pairs)
    plain = statistics.median(without for _, without in pairs)
    print(f"\npytest --help: {plain * 1e3:.0f} ms without the plugin, {extra * 1e3:+.0f} ms with it ({ROUNDS} pairs)")
    assert extra < 0.150


def test_collecting_the_suites_takes_under_2_s() -> None:
    seconds("suites/", "--collect-only", "-q")
    times = [seconds("suites/", "--collect-only", "-q") for _ in range(ROUNDS)]
    median = statistics.median(times)
    print(f"\npytest suites/ --collect-only -q: {median:.2f} s (median of {ROUNDS}, worst {max(times):.2f} s)")
    assert median < 2.0
