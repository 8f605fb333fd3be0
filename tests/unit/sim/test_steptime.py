"""The step-time formula: the reference points it must hit, and how it must move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.sim.allreduce import allreduce_s
from pytest_llmperf.sim.spec import Interconnect
from pytest_llmperf.sim.steptime import StepLoad, StepTimeModel, attention_pairs

from .cells import gpu_spec, model_spec


def _model(gpu: str = "h100", model: str = "llama-3.1-8b", tp: int = 1, *, fp8: bool = False) -> StepTimeModel:
    return StepTimeModel(model_spec(model, fp8=fp8), gpu_spec(gpu), tp)


def _prefill_s(times: StepTimeModel, tokens: int, start: int = 0) -> float:
    return times.step_s(StepLoad(0, 0, tokens, attention_pairs(start, tokens), start, 1))


@pytest.mark.parametrize(
    ("gpu", "model", "tp", "batch", "expected_ms"),
    [
        ("h100", "llama-3.1-8b", 1, 1, 6.9),
        ("h100", "llama-3.1-8b", 1, 64, 8.1),
        ("a100-80gb", "llama-3.1-8b", 1, 1, 10.5),
        ("a100-40gb", "llama-3.1-8b", 1, 1, 13.4),
        ("h100", "qwen2.5-72b", 2, 1, 30.6),
    ],
)
def test_decode_step_of_the_page_formula(gpu: str, model: str, tp: int, batch: int, expected_ms: float) -> None:
    assert 1e3 * _model(gpu, model, tp).decode_s(batch, batch * 192) == pytest.approx(expected_ms, rel=0.01)


@pytest.mark.parametrize(("gpu", "measured_ms"), [("h100", 425.7), ("a100-40gb", 1042)])
def test_prefill_of_sixteen_prompts_of_1024(gpu: str, measured_ms: float) -> None:
    load = StepLoad(0, 0, 16 * 1024, 16 * attention_pairs(0, 1024), 0, 16)
    assert 1e3 * _model(gpu).step_s(load) == pytest.approx(measured_ms, rel=0.10)


def test_prefill_of_a_long_prompt_in_chunks_matches_one_chunk() -> None:
    times = _model("h100")
    whole = _prefill_s(times, 28_634)
    assert 1e3 * whole == pytest.approx(1077, rel=0.05)
    chunks = [(start, min(8192, 28_634 - start)) for start in range(0, 28_634, 8192)]
    # Chunks cost the weights once more each, and nothing else.
    assert sum(_prefill_s(times, tokens, start) for start, tokens in chunks) == pytest.approx(whole, rel=0.05)


def test_mfu_falls_for_few_tokens() -> None:
    times, spec = _model(), model_spec("llama-3.1-8b")

    def mfu(tokens: int) -> float:
        return 2 * spec.layer_params * tokens / _prefill_s(times, tokens) / 989e12

    assert mfu(128) < mfu(256) < mfu(512) < mfu(2048)
    assert mfu(128) < 0.29
    assert mfu(2048) > 0.45


@pytest.mark.parametrize(
    ("link", "degree", "size", "expected_us"),
    [
        ("nvlink-h100", 2, 8 * 2**10, 4.5),
        ("nvlink-h100", 8, 16 * 2**20, 178),
        ("nvlink-a100", 4, 2**20, 26),
        ("nvlink-b200", 8, 16 * 2**20, 111),
        ("pcie", 4, 64 * 2**10, 60),
        ("pcie", 8, 16 * 2**20, 30_062),
    ],
)
def test_all_reduce_at_measured_points(link: Interconnect, degree: int, size: int, expected_us: float) -> None:
    assert 1e6 * allreduce_s(link, degree, size) == pytest.approx(expected_us)


def test_all_reduce_between_and_beyond_measured_points() -> None:
    # The geometric mean of two sizes takes the geometric mean of their times.
    middle = 1e6 * allreduce_s("nvlink-a100", 2, 4 * 2**20)
    assert middle == pytest.approx((15 * 222) ** 0.5)
    assert allreduce_s("nvlink-h100", 2, 128 * 2**20) == pytest.approx(2 * 469e-6)
    assert allreduce_s("nvlink-h100", 2, 100) == pytest.approx(4.5e-6)
    assert allreduce_s("nvlink-h100", 1, 2**20) == 0


def test_pcie_makes_tensor_parallel_prefill_slow() -> None:
    pcie = _prefill_s(_model("l40s", tp=4), 4096)
    alone = _prefill_s(_model("l40s"), 4096)
    assert pcie > alone


def test_a_mig_slice_decodes_at_its_share_of_the_bandwidth() -> None:
    model, h100 = model_spec("llama-3.1-8b"), gpu_spec("h100")
    whole, half = StepTimeModel(model, h100, 1), StepTimeModel(model, gpu_spec("h100-mig-3g.40gb"), 1)
    overhead = model.n_layers * (40e-6 + 0.3e-6)
    assert (half.decode_s(1, 100) - overhead) == pytest.approx(2 * (whole.decode_s(1, 100) - overhead), rel=1e-3)
    slice_prefill = _prefill_s(half, 8192)
    assert slice_prefill == pytest.approx(_prefill_s(whole, 8192) * 7 / 3, rel=0.05)


def test_fp8_halves_what_is_streamed_but_not_the_head() -> None:
    bf16, fp8 = _model().weights_read_s(1), _model(fp8=True).weights_read_s(1)
    assert 0.5 < fp8 / bf16 < 0.55


def test_more_experts_are_read_as_the_batch_grows() -> None:
    times = _model(model="mixtral-8x7b", tp=2)
    dense = StepTimeModel(replace(model_spec("mixtral-8x7b"), n_experts=0), gpu_spec("h100"), 2)
    one, four, many = (times.weights_read_s(n) for n in (1, 4, 64))
    assert one < four < many == pytest.approx(dense.weights_read_s(1), rel=1e-3)
    assert one / many == pytest.approx(12.9 / 46.7, rel=0.05)


def test_context_makes_a_decode_slower_by_its_kv_bytes() -> None:
    times, model = _model(), model_spec("llama-3.1-8b")
    extra = times.decode_s(1, 100_000) - times.decode_s(1, 0)
    assert extra == pytest.approx(100_000 * model.kv_bytes_per_token / (0.8 * 3350e9))


def test_overheads_of_sequences_and_prompt_tokens_come_on_top() -> None:
    spec, gpu = model_spec("llama-3.1-8b"), gpu_spec("h100")
    plain = StepTimeModel(spec, gpu, 1)
    slower = StepTimeModel(spec, replace(gpu, sequence_overhead_s=1.3e-6, token_overhead_s=2e-6), 1)
    assert slower.decode_s(10, 1000) - plain.decode_s(10, 1000) == pytest.approx(10 * spec.n_layers * 1e-6)
    by_prompt = _prefill_s(slower, 500) - _prefill_s(plain, 500)
    assert by_prompt == pytest.approx(spec.n_layers * (500 * 2e-6 + 1e-6))
