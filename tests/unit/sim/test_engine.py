"""The engine: the same steps as a scheduler written out the slow way, and the rules that one has not got."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.sim.engine import Engine
from pytest_llmperf.sim.request import Request
from pytest_llmperf.sim.spec import EngineArgs, SimSpec
from pytest_llmperf.sim.virtual import Arrival, closed_loop, open_loop

from .cells import spec as cell_spec
from .reference_engine import ReferenceEngine, Sequence

SPEC = cell_spec()


def _spec(**args: int | bool) -> SimSpec:
    return replace(SPEC, engine=EngineArgs(**{"max_model_len": 512, **args}))  # type: ignore[arg-type]


def _drain(engine: Engine, now_s: float = 0.0) -> float:
    while (step := engine.step(now_s)) is not None:
        now_s = step.end_s
    return now_s


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 120), st.integers(1, 90)), min_size=1, max_size=25),
    max_num_seqs=st.integers(1, 12),
    budget=st.integers(12, 200),
    n_blocks=st.integers(14, 60),
    chunked=st.booleans(),
)
def test_same_token_times_as_the_slow_scheduler(
    lengths: list[tuple[float, int, int]], max_num_seqs: int, budget: int, n_blocks: int, chunked: bool
) -> None:
    spec = _spec(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget if chunked else 240,
        max_model_len=224,
        num_gpu_blocks_override=n_blocks,
        enable_prefix_caching=False,
        enable_chunked_prefill=chunked,
    )
    arrivals = [Arrival(at_s, prompt, output) for at_s, prompt, output in sorted(lengths)]
    run = open_loop(replace(spec, api_overhead_s=0.0), arrivals)

    engine = Engine(spec)
    slow = ReferenceEngine(engine.config, engine.step_time)
    expected = [Sequence(index, item.prompt_tokens, item.output_tokens) for index, item in enumerate(arrivals)]
    queue, now_s = list(zip(arrivals, expected, strict=True)), 0.0
    while queue or slow.waiting or slow.running:
        if not slow.waiting and not slow.running:
            now_s = max(now_s, queue[0][0].at_s)
        while queue and queue[0][0].at_s <= now_s:
            slow.waiting.append(queue.pop(0)[1])
        now_s = slow.step(now_s)

    for request, sequence in zip(run.requests, expected, strict=True):
        assert run.token_times_s(request) == pytest.approx(sequence.token_times_s)
    assert run.stats.n_preemptions == slow.n_preemptions


def test_all_blocks_come_back() -> None:
    engine = Engine(_spec(num_gpu_blocks_override=40))
    for index in range(30):
        engine.add_request(index, 100, 60, 0.0, prefix_keys=[("p", block) for block in range(6)])
    _drain(engine)
    assert engine.stats.n_finished == 30
    assert engine.stats.n_preemptions > 0
    assert engine.pool.n_free == 40
    assert engine.pool.usage == 0


def test_a_prompt_is_computed_in_chunks_beside_decodes() -> None:
    engine = Engine(_spec(max_num_seqs=4, max_num_batched_tokens=64))
    engine.add_request(0, 10, 50, 0.0)
    assert engine.step(0.0) is not None
    long = engine.add_request(1, 200, 5, 0.0)
    prefill = []
    while long.first_token_s is None:
        step = engine.step(0.0)
        assert step is not None
        prefill.append(step.prefill_tokens)
        assert len(step.decoded) == 1
    # One token of each step's budget goes to the request that decodes.
    assert prefill == [63, 63, 63, 11]


def test_waiting_requests_are_not_overtaken() -> None:
    engine = Engine(_spec(num_gpu_blocks_override=32, max_model_len=512))
    first = engine.add_request(0, 200, 100, 0.0)
    big = engine.add_request(1, 400, 10, 0.0)
    small = engine.add_request(2, 10, 10, 0.0)
    step = engine.step(0.0)
    assert step is not None
    assert step.admitted == [first]
    now_s = _drain(engine)
    assert big.scheduled_s is not None
    assert small.scheduled_s is not None
    assert first.finished_s is not None
    assert first.finished_s <= big.scheduled_s <= small.scheduled_s < now_s


def test_the_youngest_is_preempted_and_recomputed_first() -> None:
    engine = Engine(_spec(num_gpu_blocks_override=32, max_model_len=512, enable_prefix_caching=False))
    old, young = engine.add_request(0, 200, 200, 0.0), engine.add_request(1, 200, 200, 0.0)
    late = engine.add_request(2, 250, 20, 0.0)
    now_s, preempted = 0.0, []
    while (step := engine.step(now_s)) is not None:
        now_s = step.end_s
        preempted += step.preempted
    assert set(preempted) == {young}
    assert old.n_preemptions == 0
    assert len(young.segments) == young.n_preemptions + 1
    assert sum(count for _, count in young.segments) == 200
    assert late.scheduled_s is not None
    assert young.first_token_s is not None
    assert late.scheduled_s > young.first_token_s


def test_a_shared_prefix_is_computed_once() -> None:
    engine = Engine(_spec())
    keys = [("system", block) for block in range(12)]
    first = engine.add_request(0, 200, 5, 0.0, prefix_keys=keys)
    now_s = _drain(engine)
    second = engine.add_request(1, 200, 5, now_s, prefix_keys=keys)
    _drain(engine, now_s)
    assert (first.cached_tokens, second.cached_tokens) == (0, 192)
    assert first.first_token_s is not None
    assert second.first_token_s is not None
    assert second.first_token_s - now_s < first.first_token_s
    assert engine.stats.prefix_query_tokens == 400
    assert engine.stats.prefix_hit_tokens == 192


def test_the_last_prompt_token_is_always_computed() -> None:
    engine = Engine(_spec())
    keys = [("p", block) for block in range(4)]
    engine.add_request(0, 64, 2, 0.0, prefix_keys=keys)
    _drain(engine)
    again = engine.add_request(1, 64, 2, 0.0, prefix_keys=keys)
    _drain(engine)
    assert again.cached_tokens == 48


def test_without_prefix_caching_nothing_is_found() -> None:
    engine = Engine(_spec(enable_prefix_caching=False))
    keys = [("p", block) for block in range(4)]
    engine.add_request(0, 64, 2, 0.0, prefix_keys=keys)
    _drain(engine)
    again = engine.add_request(1, 64, 2, 0.0, prefix_keys=keys)
    _drain(engine)
    assert again.cached_tokens == 0


def test_a_follow_up_finds_the_answer_it_continues() -> None:
    engine = Engine(_spec())
    engine.add_request(0, 32, 33, 0.0, key_source=lambda n: [("turn", block) for block in range(n // 16)])
    _drain(engine)
    # 32 + 33 tokens, of which the last is sampled but not computed: 64 are in full blocks.
    follow_up = engine.add_request(1, 100, 2, 0.0, prefix_keys=[("turn", block) for block in range(6)])
    _drain(engine)
    assert follow_up.cached_tokens == 64


@pytest.mark.parametrize("after_steps", [0, 1, 3, 7])
def test_an_aborted_request_frees_what_it_holds(after_steps: int) -> None:
    engine = Engine(_spec(max_num_batched_tokens=64, max_num_seqs=4))
    gone = engine.add_request(0, 180, 50, 0.0)
    stays = engine.add_request(1, 50, 20, 0.0)
    for _ in range(after_steps):
        engine.step(0.0)
    engine.abort(gone)
    engine.abort(gone)
    _drain(engine)
    assert gone.finished_s is None
    assert stays.finished_s is not None
    assert engine.pool.usage == 0
    assert engine.stats.n_aborted == 1


def test_a_finished_request_cannot_be_aborted() -> None:
    engine = Engine(_spec())
    request = engine.add_request(0, 10, 2, 0.0)
    _drain(engine)
    engine.abort(request)
    assert request.finish_reason == "length"
    assert engine.stats.n_aborted == 0


@pytest.mark.parametrize(("prompt", "output"), [(0, 1), (1, 0), (500, 13)])
def test_impossible_requests_are_refused(prompt: int, output: int) -> None:
    with pytest.raises(ValueError, match=r"token"):
        Engine(_spec()).add_request(0, prompt, output, 0.0)


def test_noise_is_seeded() -> None:
    noisy = replace(SPEC, step_noise_fraction=0.05)
    arrivals = [Arrival(0.0, 100, 50)]
    first, again, other = (open_loop(noisy, arrivals, seed=seed).requests[0].e2e_s for seed in (1, 1, 2))
    assert first == again != other
    assert first == pytest.approx(open_loop(SPEC, arrivals).requests[0].e2e_s, rel=0.05)


def test_closed_loop_keeps_its_concurrency() -> None:
    run = closed_loop(SPEC, [Arrival(0.0, 64, 10 + index % 7) for index in range(40)], concurrency=4)
    moments = sorted([(r.arrival_s, 1) for r in run.requests] + [(r.finish_s, -1) for r in run.requests])
    level, highest = 0, 0
    for _, change in moments:
        level += change
        highest = max(highest, level)
    assert highest == 4
    assert len(run.requests) == 40


def test_times_of_one_request_alone() -> None:
    engine = Engine(SPEC)
    run = open_loop(SPEC, [Arrival(1.0, 128, 100)])
    (request,) = run.requests
    times = run.token_times_s(request)
    assert len(times) == 100
    assert times[0] == request.first_token_s
    assert times[-1] == request.finish_s
    # The floor that was measured on localhost for 128 tokens in: 14 to 15 ms.
    assert 1e3 * request.ttft_s == pytest.approx(15, abs=1)
    assert times[1] - times[0] == pytest.approx(engine.step_time.decode_s(1, 129))


def test_an_idle_engine_does_nothing() -> None:
    engine = Engine(SPEC)
    assert engine.step(0.0) is None
    request: Request = engine.add_request(0, 5, 1, 0.0)
    step = engine.step(3.0)
    assert step is not None
    assert step.first_tokens == step.finished == [request]
    assert engine.step(step.end_s) is None
