"""One load in a process of its own, to see how large its worker becomes.

``python -m tests.perf.footprint BASE_URL USERS REQUESTS TOKENS``: so many users make so many requests, each for so many tokens.
Prints JSON: the tokens recorded, the bytes of the log's columns, the most memory the worker held, and what this process held
before (a child's peak is never told as less than that).
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import fields

import numpy as np

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import Concurrency
from pytest_llmperf.experiment.records import Lengths, Workload
from pytest_llmperf.load.engine import LoadOptions, run_load
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import RequestLog
from tests.perf.summarise import peak_bytes


def log_bytes(log: RequestLog) -> int:
    """What the log's columns take."""
    columns = (getattr(log, field.name) for field in fields(log))
    return sum(column.nbytes for column in columns if isinstance(column, np.ndarray))


def main(base_url: str, users: int, requests: int, tokens: int) -> None:
    """Print what it took."""
    floor_bytes = peak_bytes()
    workload = Workload("w", "W", Lengths(32), Lengths(tokens), timeout=120.0)
    plan = plan_load(Concurrency(users), workload, None, seed=1, warmup_s=0.0, max_requests=requests)
    log = run_load(plan, Endpoint(base_url, "m"), LoadOptions(workers=1)).log
    found = {
        "tokens": int(log.chunk_tokens.sum()),
        "log_bytes": log_bytes(log),
        "worker_peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "floor_bytes": floor_bytes,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
