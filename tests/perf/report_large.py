"""Make a run of many requests on disk, and report on it, each in a process of its own.

``python -m tests.perf.report_large make STORAGE REQUESTS`` writes run.json and requests.parquet.
``python -m tests.perf.report_large plots RUN_DIRECTORY`` draws its four files; ``report STORAGE OUT`` is the command with
``--plots``, ``--html``, ``--csv`` and ``--json``. The last two print JSON: seconds, and the most memory the process held.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from pytest_llmperf.cli import main as command
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.report.plots import write_run_plots
from tests.perf.summarise import large_load, peak_bytes
from tests.unit.report.drawn import store
from tests.unit.report.runs import run_of

SLA = {"ttft": {"p50": "250ms", "p99": "1s"}, "tpot": {"p99": "50ms"}, "error_rate": "1%"}
TOKENS = 8
"""Chunks are never read for a report, so few of them will do."""


def make(storage: Path, requests: int) -> None:
    """A run of so many requests."""
    result = large_load(requests, TOKENS)
    run = replace(run_of([]), result=result, metrics=measure(result, price_per_hour=2.1))
    store(storage, run, SLA)


def main(what: str, *arguments: str) -> None:
    """Do it, and say what it took."""
    started = perf_counter()
    if what == "make":
        make(Path(arguments[0]), int(arguments[1]))
    elif what == "plots":
        write_run_plots(Path(arguments[0]))
    else:
        storage, out = arguments
        files = [
            f"--{name}={out}/{path}"
            for name, path in (("plots", "plots"), ("html", "r.html"), ("csv", "r.csv"), ("json", "r.json"))
        ]
        if status := command(["report", "--storage", storage, *files]):
            sys.exit(status)
    sys.stdout.write(json.dumps({"seconds": perf_counter() - started, "peak_bytes": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
