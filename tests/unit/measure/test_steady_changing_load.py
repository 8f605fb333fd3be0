"""A load that changes: what its latencies do with it is neither cut as a warm-up nor condemned as one that never ends."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_llmperf.load.records import Floats, LoadResult
from pytest_llmperf.measure.run import Steadiness
from pytest_llmperf.measure.steady import WARMING, steadiness
from tests.unit.measure.logs import result_of, streamed

N_REQUESTS = 600


def under(load: Floats) -> LoadResult:
    """A batching server, 5 ms a token and 0.2 ms more for each request per second, at these rates, one a request."""
    arrived_s = np.cumsum(1 / load)
    noise = np.exp(0.05 * np.random.default_rng(1).normal(size=len(load)))
    tpot_s = (0.005 + 0.0002 * load) * noise
    asked = [streamed(float(at_s), 0.1, gap_s=float(gap_s), tokens=10) for at_s, gap_s in zip(arrived_s, tpot_s, strict=True)]
    return result_of(asked, (0.0, float(arrived_s[-1]) + 0.1))


RAMP = np.linspace(5.0, 50.0, N_REQUESTS)
STEP = np.where(np.arange(N_REQUESTS) < N_REQUESTS // 4, 5.0, 50.0)


def test_a_ramp_whose_tpot_grows_with_the_load_is_not_condemned() -> None:
    assert steadiness(under(RAMP)).unstable.startswith(WARMING), "the same TPOT under a load that stays is"
    assert steadiness(under(RAMP), open_loop=False, stationary=False) == Steadiness()


@pytest.mark.parametrize("load", [STEP, STEP[::-1]], ids=["up", "down"])
def test_the_first_stage_is_not_cut(load: Floats) -> None:
    found = steadiness(under(load), open_loop=False, stationary=False)
    assert found == Steadiness()


def test_the_same_under_a_load_that_stays_is_cut() -> None:
    assert steadiness(under(STEP)).extra_warmup_s == pytest.approx(N_REQUESTS / 4 / 5.0, rel=0.05)
