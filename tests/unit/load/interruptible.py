"""A process that runs a long load, for tests that interrupt or kill it: ``python interruptible.py PORT WORKERS [enough]``.

Prints one JSON line when the load is under way (its workers' process ids), and one with the result. ``enough``: the load is
ended as soon as it is looked at, and the first line comes when the slow answers in flight are awaited.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import Constant
from pytest_llmperf.experiment.records import Lengths, Workload
from pytest_llmperf.load.engine import LoadOptions, LoadProgress, run_load
from pytest_llmperf.load.plan import plan_load


def children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def main(port: str, workers: str, enough: str = "") -> None:
    # What a shell starts in its background is deaf to Ctrl-C, and so are its descendants.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told = False

    def on_progress(progress: LoadProgress) -> None:
        nonlocal told
        is_ended = progress.duration_s is not None and progress.elapsed_s > progress.duration_s
        if (is_ended if enough else progress.finished) and not told:
            told = True
            print(json.dumps(children()), flush=True)

    plan = plan_load(Constant(40.0), Workload("w", "W", Lengths(5), Lengths(60)), 60.0, seed=1, warmup_s=0)
    endpoint = Endpoint(f"http://127.0.0.1:{port}/ok/10/{500 if enough else 5}", "m")
    options = LoadOptions(workers=int(workers), look_every_s=0.2)
    result = run_load(plan, endpoint, options, on_progress, (lambda _: True) if enough else None)
    log = result.log
    print(
        json.dumps(
            {
                "interrupted": result.interrupted,
                "outcomes": log.outcome.tolist(),
                "errors": sorted(set(log.error)),
                "scheduled": log.scheduled_s.tolist(),
                "workers": log.worker.tolist(),
                "window_end": result.window_end_s,
                "stopped": result.stopped_s,
                "notes": result.health.notes,
                "planned": result.health.planned_requests,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
