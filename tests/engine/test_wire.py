"""Our client against a real vLLM: every form of request is answered, recorded in full, and counted as the server counts."""

from __future__ import annotations

from dataclasses import replace

import httpx
import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.deploy.process import ProcessDeployment
from pytest_llmperf.deploy.sim import SimDeployment
from pytest_llmperf.experiment.profile import Concurrency
from pytest_llmperf.experiment.records import Lengths, SharedPrefix, Turns
from pytest_llmperf.load.records import LoadResult, Outcome, RequestLog
from tests.engine.scrape import scrape
from tests.unit.load.loads import outcomes, run, workload

N_REQUESTS = 6
PROMPT = Lengths(40, "uniform", min=20, max=60)
ANSWER = Lengths(12, "uniform", min=4, max=20)


def load(endpoint: Endpoint, **changes: object) -> LoadResult:
    """Six requests of two users."""
    return run(endpoint, Concurrency(2), asked=workload(input=PROMPT, output=ANSWER, **changes), max_requests=N_REQUESTS)


def check_complete(log: RequestLog, *, streamed: bool) -> None:
    """Whatever a good answer leaves is there, in order of time; and the tokens are those of the server's usage."""
    assert len(log) == N_REQUESTS
    assert set(log.outcome) == {Outcome.OK}
    assert set(log.http_status) == {200}
    assert set(log.error) == {""}
    assert log.usage_reported.all()
    assert (log.received_bytes > 0).all()
    assert (log.sent_s <= log.first_byte_s).all()
    assert (log.first_byte_s <= log.end_s).all()
    assert (log.output_tokens > 0).all()
    if not streamed:
        assert np.isnan(log.first_token_s).all()
        return
    assert (log.first_byte_s <= log.first_token_s).all()
    assert (log.first_token_s <= log.last_token_s).all()
    assert (log.last_token_s <= log.end_s).all()
    for index in range(len(log)):
        chunks = slice(log.chunk_start[index], log.chunk_start[index + 1])
        assert log.chunk_tokens[chunks].sum() == log.output_tokens[index]
        assert (np.diff(log.chunk_s[chunks]) >= 0).all()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("api", "prompt"), [("completions", "token_ids"), ("completions", "text"), ("chat", "text")])
def test_every_form_of_request_is_answered_and_counted(vllm: ProcessDeployment, api: str, stream: bool, prompt: str) -> None:
    before = scrape(vllm.endpoint)
    log = load(vllm.endpoint, api=api, stream=stream, prompt=prompt).log
    after = scrape(vllm.endpoint)
    check_complete(log, streamed=stream)
    assert (log.output_tokens == log.planned_output_tokens).all()  # ignore_eos and min_tokens fix it
    if prompt == "token_ids":
        assert (log.prompt_tokens == log.planned_prompt_tokens).all()
    for name, tokens in (("generation", log.output_tokens), ("prompt", log.prompt_tokens)):
        assert after.total(f"vllm:{name}_tokens_total") - before.total(f"vllm:{name}_tokens_total") == tokens.sum()


def test_tokens_are_counted_event_by_event_where_that_is_asked_for(vllm: ProcessDeployment) -> None:
    for api, prompt in (("completions", "token_ids"), ("chat", "text")):
        log = load(vllm.endpoint, api=api, prompt=prompt, continuous_usage=True).log
        check_complete(log, streamed=True)
        assert (log.chunk_tokens >= 1).all()  # more than one, where events had to wait for each other


def test_an_answer_may_end_by_itself(vllm: ProcessDeployment) -> None:
    log = load(vllm.endpoint, ignore_eos=False).log
    check_complete(log, streamed=True)
    assert (log.output_tokens <= log.planned_output_tokens).all()


def test_sessions_grow_their_history(vllm: ProcessDeployment) -> None:
    turns = Turns(count=Lengths(3), input=Lengths(16))
    result = run(vllm.endpoint, Concurrency(1), asked=workload(input=PROMPT, output=ANSWER, turns=turns), max_requests=2)
    log = result.log
    assert outcomes(result) == {Outcome.OK: 6}
    for session in (0, 1):
        lengths = log.prompt_tokens[log.session == session]
        assert (np.diff(lengths) >= 16).all()


def test_a_shared_prefix_is_computed_once(vllm: ProcessDeployment) -> None:
    before = scrape(vllm.endpoint)
    asked = workload(input=Lengths(600), output=Lengths(4), shared_prefix=SharedPrefix(512))
    result = run(vllm.endpoint, Concurrency(1), asked=asked, max_requests=5, seed=11)
    after = scrape(vllm.endpoint)
    assert outcomes(result) == {Outcome.OK: 5}
    # Blocks of 128 tokens: all of the prefix, of every request but the first, and nothing else.
    assert after.total("vllm:prefix_cache_hits_total") - before.total("vllm:prefix_cache_hits_total") == 4 * 512


def test_a_request_that_times_out_is_recorded_and_withdrawn(vllm: ProcessDeployment) -> None:
    before = scrape(vllm.endpoint)
    asked = workload(input=PROMPT, output=Lengths(3900), timeout=1.5)
    result = run(vllm.endpoint, Concurrency(1), asked=asked, max_requests=1)
    assert outcomes(result) == {Outcome.TIMEOUT: 1}
    assert (result.log.chunk_start[1:] > result.log.chunk_start[:-1]).all()  # what had come by then is kept
    # An answer of one token that is asked for now ends after the server has withdrawn the other.
    run(vllm.endpoint, Concurrency(1), asked=workload(output=Lengths(1)), max_requests=1)
    after = scrape(vllm.endpoint)
    assert after.total("vllm:num_requests_running") == 0
    assert after.total("vllm:generation_tokens_total") - before.total("vllm:generation_tokens_total") < 3900
    # vLLM counts a request as finished only when its answer was: one that its client gave up is in no counter.
    assert after.total("vllm:request_success_total") - before.total("vllm:request_success_total") == 1


@pytest.mark.parametrize(
    ("body", "status", "error_type"),
    [
        ({"prompt": [5], "max_tokens": 99_999}, 400, "BadRequestError"),
        ({"prompt": [5] * 5_000, "max_tokens": 1}, 400, "BadRequestError"),
        ({"prompt": [5], "max_tokens": 1, "model": "nope"}, 404, "NotFoundError"),
    ],
    ids=["answer too long", "prompt too long", "no such model"],
)
def test_errors_have_the_form_that_the_simulator_gives_them(
    vllm: ProcessDeployment, simulator: SimDeployment, body: dict[str, object], status: int, error_type: str
) -> None:
    real, simulated = (
        httpx.post(f"{endpoint.base_url}/v1/completions", json={"model": "tiny", **body}, trust_env=False)
        for endpoint in (vllm.endpoint, simulator.endpoint)
    )
    for answer in (real, simulated):
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
        assert answer.json()["error"]["type"] == error_type
        assert answer.json()["error"]["code"] == status
    assert set(real.json()["error"]) == set(simulated.json()["error"])
    assert real.json()["error"]["param"] == simulated.json()["error"]["param"]


def test_refusals_are_recorded_by_what_the_server_says(vllm: ProcessDeployment) -> None:
    too_long = run(vllm.endpoint, asked=workload(input=Lengths(5_000)), max_requests=2)
    unknown = run(replace(vllm.endpoint, model="nope"), max_requests=2)
    for result, status, said in ((too_long, 400, "BadRequest"), (unknown, 404, "NotFound")):
        assert outcomes(result) == {Outcome.HTTP_ERROR: 2}
        assert set(result.log.http_status) == {status}
        assert all(said in error for error in result.log.error)
