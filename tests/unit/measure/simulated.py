"""A simulator of a chosen spec, and a load on it that is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import LoadProfile
from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.engine import run_load
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.server_sources import ITS_OWN_PAGE, ServerSources
from pytest_llmperf.measure.server_watch import Told, watching_server
from tests.unit.sim.cells import spec
from tests.unit.sim.conftest import start_server, stop_server

NO_COLD_START = {"engine_start_s": 0.0, "weights_load_s": 0.0, "compile_s": 0.0}


@contextmanager
def simulator(gpu: str = "h100", model: str = "llama-3.1-8b", **engine_args: Any) -> Iterator[Endpoint]:
    """A simulated server, ready."""
    asked = spec(gpu, model, **engine_args)
    running = start_server(replace(asked, cold_start=replace(asked.cold_start, **NO_COLD_START)))
    try:
        running.wait_ready()
        yield Endpoint(f"http://127.0.0.1:{running.port}", asked.model_id, simulated=True)
    finally:
        stop_server(running)


def watched(
    endpoint: Endpoint,
    profile: LoadProfile,
    duration_s: float,
    asked: Workload,
    *,
    sources: ServerSources = ITS_OWN_PAGE,
    warmup_s: float = 0.5,
) -> tuple[LoadResult, Told]:
    """A load, and what the server said of itself meanwhile."""
    plan = plan_load(profile, asked, duration_s, seed=1, warmup_s=warmup_s)
    with watching_server(sources, endpoint, 1, plan) as watching:
        result = run_load(plan, endpoint, LoadOptions(), watching.also(lambda _: None))
    return result, watching.told(result, 0.0)
