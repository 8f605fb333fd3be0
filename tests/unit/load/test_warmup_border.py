"""What is due as the window opens is counted, whatever instant the load starts at."""

from __future__ import annotations

import asyncio
import math
from time import monotonic

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.experiment.profile import Constant
from pytest_llmperf.load.driver import Driver, Opening, Share
from pytest_llmperf.load.exchange import Tape
from pytest_llmperf.load.log import log_of
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.pool import resolve
from pytest_llmperf.load.prompts import request_writer
from pytest_llmperf.load.records import RequestLog
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import WORKLOAD

# From a machine that has just started to one that has been up for thirty years.
starts = st.floats(1.0, 1e9)


@settings(max_examples=1000)
@given(starts, st.floats(0, 120), st.floats(0, 3600))
def test_what_is_due_in_the_window_reads_as_in_the_window(start_s: float, window_start_s: float, since_s: float) -> None:
    opening = Opening(start_s, window_start_s)
    due_s = start_s + (window_start_s + since_s)
    assert not opening.is_before(due_s)
    counted_s = opening.counted_s(due_s)
    assert counted_s - start_s >= window_start_s
    # Nothing is moved farther than to the next instant that there is.
    assert due_s <= counted_s <= math.nextafter(due_s, math.inf)


@settings(max_examples=300)
@given(starts, st.floats(0.001, 120), st.floats(0, 0.999))
def test_what_is_due_before_is_warm_up(start_s: float, window_start_s: float, share: float) -> None:
    assert Opening(start_s, window_start_s).is_before(start_s + share * window_start_s)


def driven(server: PacedServer, start_in_s: float) -> RequestLog:
    """The log of one arrival of warm-up and one as the window opens, 3 ms after the start."""

    async def drive() -> RequestLog:
        plan = plan_load(Constant(400.0), WORKLOAD, None, seed=1, warmup_s=0.003, max_requests=1)
        endpoint, tape, options = server.endpoint("ok"), Tape(), LoadOptions()
        writer = request_writer(WORKLOAD, endpoint, 1, plan.seed)
        driver = Driver(plan, Share(), options, writer, resolve(endpoint), tape)
        driver.prepare()
        start_s = monotonic() + start_in_s
        await driver.drive(start_s)
        return log_of(driver.exchanges, tape.read, driver.clock, start_s=start_s, worker=0, workload=WORKLOAD)

    return asyncio.run(drive())


def test_the_first_request_of_a_window_is_counted_at_every_start(server: PacedServer) -> None:
    # About half of all starts round the instant at which the window opens down.
    for start_in_s in np.linspace(0.001, 0.002, 30).tolist():
        log = driven(server, start_in_s)
        assert log.warmup.tolist() == [True, False]
        assert log.scheduled_s[1] >= 0.003
