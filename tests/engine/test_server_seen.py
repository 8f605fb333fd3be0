"""The server's side of a run on a real vLLM, beside what the client saw of the same run."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.deploy.process import ProcessDeployment
from pytest_llmperf.deploy.sim import SimDeployment
from pytest_llmperf.experiment.profile import Concurrency
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.load.engine import run_load
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.measure.server_sources import ITS_OWN_PAGE
from pytest_llmperf.measure.server_watch import watching_server
from tests.engine.scrape import scrape
from tests.unit.load.loads import workload


def test_what_vllm_says_is_what_the_client_saw(vllm: ProcessDeployment) -> None:
    asked = workload(input=Lengths(60), output=Lengths(20))
    plan = plan_load(Concurrency(4), asked, 8.0, seed=3, warmup_s=2.0)
    with watching_server(ITS_OWN_PAGE, vllm.endpoint, 1, plan) as watching:
        result = run_load(plan, vllm.endpoint, LoadOptions(), watching.also(lambda _: None))
    seen = watching.told(result, 0.0).server
    assert seen is not None
    log = result.log
    inside = (log.chunk_s > result.window_start_s) & (log.chunk_s <= result.window_end_s)
    tokens_per_s = log.chunk_tokens[inside].sum() / (result.window_end_s - result.window_start_s)
    assert seen.generation_tokens_per_s == pytest.approx(tokens_per_s, rel=0.1)
    assert seen.running_max == 4
    assert seen.preemptions == 0
    assert set(seen.times) == {"ttft", "itl", "e2e", "queue", "prefill", "decode"}
    assert seen.failed_samples == 0
    assert seen.notes == ()


def leave(endpoint: Endpoint) -> float:
    """Go away in the middle of an answer; how many requests the server then counts as ended, for whatever reason."""
    place = urlsplit(endpoint.base_url)
    body = json.dumps({"model": endpoint.model, "prompt": "x", "max_tokens": 3000, "ignore_eos": True, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    before = scrape(endpoint).total("vllm:request_success_total")
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=30) as client:
        client.sendall(head + body)
        while scrape(endpoint).total("vllm:num_requests_running") == 0:
            pass
    while scrape(endpoint).total("vllm:num_requests_running") > 0:
        pass
    return scrape(endpoint).total("vllm:request_success_total") - before


def test_a_request_whose_client_leaves_is_counted_by_neither(vllm: ProcessDeployment, simulator: SimDeployment) -> None:
    assert [leave(vllm.endpoint), leave(simulator.endpoint)] == [0, 0]
