"""The server's side of a load on a real simulator, beside what the client saw; and where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.profile import Concurrency, Poisson
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.load.engine import run_load
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.measure.server_sources import ServerSources
from pytest_llmperf.measure.server_watch import watching_server
from tests.unit.load.loads import WORKLOAD, workload
from tests.unit.measure.pages_server import Pages, pages_server
from tests.unit.measure.simulated import simulator, watched

CHAT = workload(input=Lengths(200), output=Lengths(40))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with simulator() as running:
        yield running


@pytest.fixture
def pages() -> Iterator[Pages]:
    with pages_server() as running:
        yield running


def test_the_server_s_numbers_are_the_client_s(endpoint: Endpoint) -> None:
    result, told = watched(endpoint, Poisson(20.0), 3.0, CHAT)
    seen, log = told.server, result.log
    assert seen is not None
    assert told.noted_in(result) is result
    length_s = result.window_end_s - result.window_start_s
    inside = (log.chunk_s > result.window_start_s) & (log.chunk_s <= result.window_end_s)
    # A counter is exact at the window's bounds, where the page was read: but for what is on its way at those instants.
    assert seen.generation_tokens_per_s == pytest.approx(log.chunk_tokens[inside].sum() / length_s, rel=0.1)
    assert seen.source == "metrics"
    assert seen.at_s[0] == 0.0
    assert seen.at_s[-1] >= result.window_end_s
    ttft = seen.times["ttft"]
    arrived = (log.first_token_s > result.window_start_s) & (log.first_token_s <= result.window_end_s)
    assert ttft.count == pytest.approx(np.count_nonzero(arrived), abs=4)
    assert 0 < ttft.mean_s <= float(np.mean((log.first_token_s - log.sent_s)[arrived])) + 0.005
    assert set(seen.times) == {"ttft", "itl", "e2e", "queue", "prefill", "decode"}
    assert seen.running_max is not None
    assert seen.running_max >= 1
    assert {"cpu_cores", "memory_bytes", "kv_cache_usage"} <= set(seen.values)
    assert seen.notes == ()
    assert seen.failed_samples == 0


def test_pages_that_came_before_the_window_only_are_told_as_such(pages: Pages, endpoint: Endpoint) -> None:
    plan = plan_load(Concurrency(1), WORKLOAD, 0.3, seed=1, warmup_s=0.0)
    with watching_server(ServerSources((("engine", pages.url("/page")),)), endpoint, 1, plan) as watching:
        result = run_load(plan, endpoint, on_progress=watching.also(lambda _: None))
    later = replace(result, window_start_s=100.0, window_end_s=101.0)
    url = pages.url("/page")
    assert watching.told(later, 0.0).note == f"the server's side is not known: {url} was not read within the window"


def test_a_longer_warmup_moves_the_window(endpoint: Endpoint) -> None:
    plan = plan_load(Concurrency(2), CHAT, 2.0, seed=1, warmup_s=0.0)
    with watching_server(ServerSources(), endpoint, 1, plan) as watching:
        result = run_load(plan, endpoint, on_progress=watching.also(lambda _: None))
    whole, later = (watching.told(result, extra_s).server for extra_s in (0.0, 1.5))
    assert whole is not None
    assert later is not None
    assert later.times["ttft"].count < 0.5 * whole.times["ttft"].count


def test_a_server_without_metrics_is_noted_once(pages: Pages, endpoint: Endpoint) -> None:
    plan = plan_load(Concurrency(1), WORKLOAD, None, seed=1, warmup_s=0.0, max_requests=2)
    elsewhere = replace(endpoint, base_url=pages.url(""), api_key="secret-token")
    with watching_server(ServerSources(), elsewhere, 1, plan) as watching:
        result = run_load(plan, endpoint, on_progress=watching.also(lambda _: None))
    told = watching.told(result, 0.0)
    assert told.server is None
    assert told.note == "the server's side is not known: /metrics cannot be read (it answers 404)"
    assert told.noted_in(result).health.notes == (*result.health.notes, told.note)
    assert pages.asked == [("/metrics", "Bearer secret-token")]


def test_what_a_page_of_accelerators_says_and_that_it_is_no_engine_s(pages: Pages, endpoint: Endpoint) -> None:
    pages.lines = b"DCGM_FI_DEV_POWER_USAGE 300\n"
    _, told = watched(
        endpoint, Concurrency(1), 0.3, WORKLOAD, warmup_s=0.0, sources=ServerSources((("dcgm", pages.url("/gpus")),))
    )
    assert told.server is not None
    assert told.server.gpu_power_w == pytest.approx(300)
    with pytest.raises(ConfigError, match=r"^--llmperf-scrape: http://\S+/gpus is no page of engine: it has nothing like vllm:"):
        watched(endpoint, Concurrency(1), 0.3, WORKLOAD, sources=ServerSources((("engine", pages.url("/gpus")),)))


def test_an_engine_s_page_elsewhere_takes_the_place_of_the_endpoint_s(pages: Pages, endpoint: Endpoint) -> None:
    hidden = replace(endpoint, api_key="secret-token")
    _, told = watched(
        hidden, Concurrency(1), 0.3, WORKLOAD, warmup_s=0.0, sources=ServerSources((("engine", pages.url("/page")),))
    )
    assert told.server is not None
    assert told.server.running_max is not None
    assert {path for path, _ in pages.asked} == {"/page"}
    # The endpoint's credentials are for the endpoint.
    assert {authorization for _, authorization in pages.asked} == {None}


def test_a_page_that_was_named_and_is_not_there_ends_the_load_before_it_begins(pages: Pages, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match=r"^--llmperf-scrape: http://\S+/none cannot be read: it answers 404$"):
        watched(endpoint, Concurrency(1), 0.3, WORKLOAD, sources=ServerSources((("dcgm", pages.url("/none")),)))


def test_a_page_that_fails_meanwhile_is_told_and_no_error(pages: Pages, endpoint: Endpoint) -> None:
    pages.lines = b"DCGM_FI_DEV_POWER_USAGE 300\n"
    url = pages.url("/gpus")
    plan = plan_load(Concurrency(1), WORKLOAD, 0.3, seed=1, warmup_s=0.0)
    with watching_server(ServerSources((("dcgm", url),)), endpoint, 1, plan) as watching:
        pages.server_close()
        result = run_load(plan, endpoint, on_progress=watching.also(lambda _: None))
    told = watching.told(result, 0.0).server
    assert told is not None
    assert [note.partition(" could not be read ")[0] for note in told.notes] == [url]
