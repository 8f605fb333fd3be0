"""What the load engine costs and how truly it measures, against a paced server on this machine. Prints a table.

Limits here are several times what a quiet two-core machine shows: they catch a change of kind, not a noisy neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.load.engine import LoadOptions, run_load
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.prompts import FIRST_TOKEN_ID, session_tokens
from pytest_llmperf.load.records import LoadResult, Outcome
from pytest_llmperf.units import format_duration
from tests.unit.load.conftest import PacedServer, running_server
from tests.unit.load.loads import run, workload

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def paced() -> Iterator[PacedServer]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    rows: dict[str, str] = {}
    yield rows
    width = max((len(row) for row in rows), default=0)
    lines = "\n".join(f"  {row:<{width}}  {value}" for row, value in rows.items())
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nload engine\n{lines}")


def cpu_per_token_s(result: LoadResult) -> float:
    """CPU of the driving (decoding comes after) divided by the tokens received."""
    driven_s = float(result.log.end_s.max())
    return sum(worker.cpu_share for worker in result.health.workers) * driven_s / int(result.log.output_tokens.sum())


@pytest.mark.parametrize(("streams", "limit_s"), [(100, 60e-6), (400, 60e-6)])
def test_cpu_per_token(paced: PacedServer, table: dict[str, str], streams: int, limit_s: float) -> None:
    asked = workload(output=Lengths(400))
    result = run(paced.endpoint(f"step/1/{10}"), Concurrency(streams), asked=asked, max_requests=streams * 2)
    assert set(result.log.outcome) == {Outcome.OK}
    tokens_per_s = int(result.log.output_tokens.sum()) / float(result.log.end_s.max())
    cpu_s = cpu_per_token_s(result)
    health = result.health.workers[0]
    table[f"CPU per token, {streams} streams"] = (
        f"{format_duration(cpu_s)} at {tokens_per_s:,.0f} tokens/s, {health.cpu_share:.0%} of a core, "
        f"loop lag p99 {format_duration(health.loop_lag_p99_s)}"
    )
    assert cpu_s < limit_s


def test_ttft_against_the_servers_truth(paced: PacedServer, table: dict[str, str]) -> None:
    asked = workload(input=Lengths(32), output=Lengths(50))
    plan = plan_load(Constant(80), asked, 5.0, seed=3, warmup_s=0.0)
    result = run_load(plan, paced.endpoint("ok/20/10"), LoadOptions(content_seed=plan.seed))
    log = result.log
    assert set(log.outcome) == {Outcome.OK}
    first = {tuple(truth["body"]["prompt"]): truth["first"] for truth in paced.truth("ok/20/10")}
    prompts = [session_tokens(plan.session(int(number)), plan.seed, 0, 32) + FIRST_TOKEN_ID for number in log.session]
    written = np.array([first[tuple(prompt.tolist())] for prompt in prompts])
    error_s = log.first_token_s + result.started_at - written
    p50, p99 = np.quantile(error_s, [0.5, 0.99])
    table["TTFT read after it was written, 4,000 tokens/s"] = f"p50 {format_duration(p50)}, p99 {format_duration(p99)}"
    assert p50 < 0.005


def test_lateness_at_a_thousand_requests_a_second(paced: PacedServer, table: dict[str, str]) -> None:
    result = run(paced.endpoint("two_in_one/20"), Constant(1000), 4.0, asked=workload(output=Lengths(2)), warmup_s=0.5)
    assert len(result.log) == 4500
    assert set(result.log.outcome) == {Outcome.OK}
    health = result.health.workers[0]
    table["lateness at 1,000 requests/s"] = (
        f"p50 {format_duration(health.lateness_p50_s)}, p99 {format_duration(health.lateness_p99_s)}, "
        f"max {format_duration(health.lateness_max_s)}, {health.cpu_share:.0%} of a core"
    )
    assert health.lateness_p50_s < 0.005
