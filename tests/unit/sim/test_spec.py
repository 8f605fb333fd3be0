"""Specs: the JSON round trip, vLLM's defaults by GPU, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.sim.spec import ColdStart, EngineArgs, Faults, SimSpec

from .cells import gpu_spec, model_spec, spec

SPEC = spec(max_model_len=131_072)


def test_round_trip() -> None:
    spec = replace(
        SPEC,
        gpu=gpu_spec("h100-mig-3g.40gb"),
        model=model_spec("qwen3-8b", fp8=True),
        engine=EngineArgs(max_num_seqs=7, enable_prefix_caching=False),
        cold_start=ColdStart(compile_s=2.5),
        faults=Faults(error_rates={"500": 0.25}, stall_every_s=3.0),
        served_model_name="m",
        seed=9,
    )
    assert SimSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("engine", "max_num_seq"), 4, r"engine\.max_num_seq: unknown key.*\n.*'max_num_seqs'"),
        (("engine", "max_num_seqs"), "many", r"engine\.max_num_seqs: needs a whole number, got 'many'"),
        (("engine", "enable_prefix_caching"), 1, r"enable_prefix_caching: needs true or false"),
        (("engine", "block_size"), True, r"engine\.block_size: needs a whole number"),
        (("gpu", "interconnect"), "nvlink", r"gpu\.interconnect: unknown value 'nvlink'"),
        (("gpu", "bandwidth_efficiency"), 0, r"gpu\.bandwidth_efficiency: must be more than 0"),
        (("model", "n_layers"), -1, r"model\.n_layers: must be more than 0"),
        (("faults", "error_rates"), {"200": 0.1}, r"faults\.error_rates: unknown error status '200'"),
        (("faults", "error_rates"), {"500": 1.5}, r"error_rates\.500: must be between 0 and 1"),
        (("model",), "llama", r"model: needs an object, got 'llama'"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[str, ...], value: object, message: str) -> None:
    document = json.loads(SPEC.to_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=r"(?s)" + message):
        SimSpec.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_not_a_spec(text: str) -> None:
    with pytest.raises(ConfigError):
        SimSpec.from_json(text)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(ConfigError, match=r"incomplete SimSpec.*model"):
        SimSpec.from_json(json.dumps({"gpu": json.loads(SPEC.to_json())["gpu"]}))


@pytest.mark.parametrize(
    ("gpu", "budget", "seqs"),
    [
        ("h100", 8192, 1024),
        ("h200", 8192, 1024),
        ("b200", 16_384, 1024),
        ("a100-80gb", 2048, 256),
        ("l4", 2048, 256),
        ("h100-mig-3g.40gb", 2048, 256),
    ],
)
def test_vllm_defaults_by_gpu(gpu: str, budget: int, seqs: int) -> None:
    config = EngineArgs(max_model_len=4096).resolve(gpu_spec(gpu), model_spec("qwen3-8b", fp8=True))
    assert (config.max_num_batched_tokens, config.max_num_seqs) == (budget, seqs)


def test_without_chunks_the_budget_holds_the_longest_prompt() -> None:
    config = replace(SPEC, engine=EngineArgs(enable_chunked_prefill=False, max_model_len=32_768)).resolve()
    assert config.max_num_batched_tokens == 32_768


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (EngineArgs(max_num_seqs=64, max_num_batched_tokens=32), "less than max_num_seqs"),
        (EngineArgs(max_model_len=200_000), "more than the model's"),
        (EngineArgs(enable_chunked_prefill=False, max_num_batched_tokens=2048, max_model_len=4096), "without chunks"),
        (EngineArgs(tensor_parallel_size=0), "less than 1"),
        (EngineArgs(max_num_seqs=0), "less than 1"),
        (EngineArgs(gpu_memory_utilization=1.2), "share of the memory"),
        (EngineArgs(num_gpu_blocks_override=10), "max_model_len"),
        (EngineArgs(tensor_parallel_size=3), "32 attention heads cannot be shared evenly by 3"),
    ],
)
def test_arguments_that_vllm_refuses(args: EngineArgs, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SPEC, engine=args).resolve()


def test_a_model_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"llama-3.3-70b on 1x h100: 0.0 GiB are left for the KV cache"):
        replace(SPEC, model=model_spec("llama-3.3-70b")).resolve()


def test_no_tensor_parallelism_across_mig_slices() -> None:
    with pytest.raises(ConfigError, match=r"no path between two h100-mig-3g\.40gb"):
        EngineArgs(tensor_parallel_size=2).resolve(gpu_spec("h100-mig-3g.40gb"), SPEC.model)


@pytest.mark.parametrize(
    ("model", "fp8", "streamed_gb"),
    [
        ("llama-3.1-8b", False, 15.0),
        ("llama-3.3-70b", False, 139),
        ("llama-3.3-70b", True, 70.5),
        ("qwen3-32b", False, 64),
        ("qwen2.5-72b", False, 143),
        ("qwen3-8b", True, 8.2),
    ],
)
def test_weight_bytes_without_the_input_embedding(model: str, fp8: bool, streamed_gb: float) -> None:
    shape = model_spec(model, fp8=fp8)
    assert (shape.total_weight_bytes - 2 * shape.embedding_params) / 1e9 == pytest.approx(streamed_gb, rel=0.01)
