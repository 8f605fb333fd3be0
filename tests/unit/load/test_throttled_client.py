"""A client that does not get its core measured itself: its runs are INVALID and never PASS, however easy the SLA."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from pytest_llmperf.experiment.profile import Concurrency, Constant, LoadProfile, Poisson
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.experiment.sla import parse_sla
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.ruling import judge_run
from pytest_llmperf.load.engine import LoadOptions, run_load
from pytest_llmperf.load.options import LoadProgress
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.run import Run
from pytest_llmperf.measure.trust import TrustLimits, distrust
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import workload
from tests.unit.report.runs import answered, run_of

NEIGHBOURS = 40
EASY = parse_sla("easy", {"ttft": {"p95": "1000s"}, "e2e": {"p50": "1000s"}, "error_rate": "99%"})

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds its load worker in /proc")
two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="crowds one core and needs another for the server",
)


def worker_process() -> int:
    """The process id of the one load worker."""
    children = [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    (worker,) = [pid for pid in children if b"pytest_llmperf.load.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return worker


def driven(
    server: PacedServer, profile: LoadProfile, duration_s: float, seed: int, interfere: Callable[[int], None]
) -> LoadResult:
    """A load whose worker is interfered with, once it is under way."""
    done = False

    def on_progress(_: LoadProgress) -> None:
        nonlocal done
        if not done:
            done = True
            interfere(worker_process())

    plan = plan_load(profile, workload(output=Lengths(1)), duration_s, seed=seed, warmup_s=0.0)
    return run_load(plan, server.endpoint(f"ok/5/5/{seed}"), LoadOptions(), on_progress)


def check_never_pass(result: LoadResult) -> None:
    """It is INVALID by either policy, a reason names the worker, and it is the client's health alone that says so."""
    reasons = distrust(result.health, TrustLimits())
    assert any(reason.startswith("worker 0 ") for reason in reasons), (reasons, result.health)
    trusted = measured(result, ())
    for policy in Policy:
        assert judge_run(measured(result, reasons), EASY, policy).outcome == "INVALID"
    assert judge_run(trusted, EASY, Policy.MEASURED).outcome == "PASS"


def measured(result: LoadResult, invalid: tuple[str, ...]) -> Run:
    return replace(run_of(answered(1)), result=result, metrics=measure(result, price_per_hour=None), invalid=invalid)


@pytest.fixture
def crowded_core() -> Iterator[int]:
    """A core that many processes want all the time. Each ends by itself, should nobody be left to end it."""
    core = max(os.sched_getaffinity(0))
    neighbours = []
    try:
        for _ in range(NEIGHBOURS):
            neighbours.append(subprocess.Popen(["sh", "-c", "ulimit -t 2; while :; do :; done"]))
            os.sched_setaffinity(neighbours[-1].pid, {core})
        yield core
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


@two_cores
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("profile", [Poisson(800.0), Concurrency(60)], ids=str)
def test_a_busy_neighbour_on_its_core(server: PacedServer, crowded_core: int, profile: LoadProfile, seed: int) -> None:
    free_cores = os.sched_getaffinity(0)

    def set_free(worker: int) -> None:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(worker, free_cores)

    def crowd(worker: int) -> None:
        os.sched_setaffinity(worker, {crowded_core})
        Timer(0.6, set_free, (worker,)).start()

    check_never_pass(driven(server, profile, 1.2, seed, crowd))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("profile", [Constant(100.0), Concurrency(8)], ids=str)
def test_a_worker_that_stands_still_for_a_while(server: PacedServer, profile: LoadProfile, seed: int) -> None:
    def stop(worker: int) -> None:
        os.kill(worker, signal.SIGSTOP)
        Timer(0.4, os.kill, (worker, signal.SIGCONT)).start()

    check_never_pass(driven(server, profile, 1.5, seed, stop))
