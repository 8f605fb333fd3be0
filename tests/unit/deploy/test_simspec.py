"""From a cell to the simulator's spec: nothing of the record is lost, and nothing that was asked for is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from pytest_llmperf.deploy.simspec import sim_spec
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.fit import fits
from pytest_llmperf.experiment.records import Cell, Model, Precision, Variant
from pytest_llmperf.sim.engine import Engine
from pytest_llmperf.sim.spec import DEFAULT_LIMITS, EngineArgs, SimSpec
from pytest_llmperf.sim.steptime import StepTimeModel
from tests.unit.sim.cells import CATALOG, EngineArg, cell


def _cells() -> Iterator[Cell]:
    """Every hardware in every count, every model, every variant."""
    for base in CATALOG.hardware.values():
        for count in base.counts:
            for model in CATALOG.models.values():
                for variant in CATALOG.variants.values():
                    hardware = replace(base, count=count)
                    yield Cell(CATALOG.platforms["k8s"], hardware, CATALOG.methods["standalone"], model, variant)


def _served(one: Cell) -> SimSpec | None:
    try:
        spec = sim_spec(one)
        spec.resolve()
    except ConfigError:
        return None
    return spec


@pytest.mark.parametrize("one", list(_cells()), ids=lambda one: one.id)
def test_a_cell_is_simulated_exactly_if_it_fits(one: Cell) -> None:
    spec = _served(one)
    fit = fits(one)
    assert (spec is not None) == fit.ok, fit.reason
    if spec is None:
        return
    assert SimSpec.from_json(spec.to_json()) == spec
    config = spec.resolve()
    assert (config.max_num_batched_tokens, config.max_num_seqs) == DEFAULT_LIMITS[one.hardware.engine_class]
    # Both estimate the same memory: as many tokens of context, but for what does not fill a block.
    assert fit.kv_tokens - config.block_size < config.num_gpu_blocks * config.block_size <= fit.kv_tokens
    tokens_per_s = 1 / StepTimeModel(spec.model, spec.gpu, one.hardware.count).decode_s(1, 1000)
    assert 1 < tokens_per_s < 1000


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8", "int4"])
@pytest.mark.parametrize("gpu", ["h100", "l4", "t4", "h100-mig-1g.10gb"])
def test_precisions_fit_alike(gpu: str, precision: Precision) -> None:
    one = replace(cell(gpu), variant=Variant("v", precision=precision))
    assert (_served(one) is not None) == fits(one).ok


def test_the_gpu_is_the_record() -> None:
    hardware = CATALOG.hardware["h100-mig-3g.40gb"]
    gpu = sim_spec(cell(hardware.name, "llama-3.2-3b")).gpu
    assert gpu.memory_bytes == hardware.memory
    assert gpu.bandwidth_bytes_per_s == hardware.bandwidth
    assert gpu.flops_per_s == {"bf16": hardware.bf16_flops, "fp8": hardware.fp8_flops}
    assert gpu.mfu == {"bf16": hardware.efficiency.mfu_bf16, "fp8": hardware.efficiency.mfu_fp8}
    assert gpu.bandwidth_efficiency == hardware.efficiency.bandwidth
    assert gpu.layer_overhead_s == hardware.efficiency.layer_overhead
    assert gpu.interconnect == "none"


@pytest.mark.parametrize("name", CATALOG.hardware)
def test_every_efficiency_is_written_down(name: str) -> None:
    """What a user's numbers rest on is in the record, not in a default."""
    document = CATALOG.entries["hardware", name].data
    assert isinstance(document, dict)
    efficiency = document["efficiency"]
    assert isinstance(efficiency, dict)
    asked = {"bandwidth", "layer_overhead", "mfu_bf16"} | ({"mfu_fp8"} if CATALOG.hardware[name].fp8_flops else set())
    assert set(efficiency) == asked


def test_a_slice_has_no_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"no path between two h100-mig-3g\.40gb"):
        sim_spec(cell("h100-mig-3g.40gb", "llama-3.2-3b", 2))


def test_tokens_of_a_mixture_pass_through_few_experts() -> None:
    spec = sim_spec(cell("h100", "llama-4-scout", 4))
    times = StepTimeModel(spec.model, spec.gpu, 4)
    assert (spec.model.n_experts, spec.model.n_experts_per_token) == (16, 1)
    assert times.weights_read_s(1) < 0.2 * times.weights_read_s(256)
    dense = sim_spec(cell("h100", "llama-3.3-70b", 4))
    assert times.decode_s(1, 1000) < StepTimeModel(dense.model, dense.gpu, 4).decode_s(1, 1000)


def test_fp8_is_one_byte_a_parameter_and_the_gpus_fp8_units() -> None:
    plain, fp8 = sim_spec(cell()), sim_spec(cell(fp8=True))
    assert (plain.model.precision, plain.model.weight_bytes_per_param) == ("bf16", 2)
    assert (fp8.model.precision, fp8.model.weight_bytes_per_param, fp8.model.kv_bytes_per_element) == ("fp8", 1, 2)
    with pytest.raises(ConfigError, match="a100-80gb has no FP8 units"):
        sim_spec(cell("a100-80gb", fp8=True))


@pytest.mark.parametrize(("value", "size"), [("fp8", 1), ("fp8_e4m3", 1), ("auto", 2), ("bfloat16", 2)])
def test_the_kv_cache_has_the_format_that_was_asked_for(value: str, size: int) -> None:
    spec = sim_spec(cell(kv_cache_dtype=value))
    assert spec.model.kv_bytes_per_element == size
    assert spec.resolve().num_gpu_blocks == pytest.approx(2 / size * sim_spec(cell()).resolve().num_gpu_blocks, abs=2)


@pytest.mark.parametrize(
    ("precision", "quantization", "size"), [("fp8", "fp8", 1), ("int4", "awq", 0.5), ("int4", "gptq_marlin", 0.5)]
)
def test_weights_have_the_format_that_was_asked_for(precision: Precision, quantization: str, size: float) -> None:
    one = replace(cell(), variant=Variant("v", engine_args={"quantization": quantization}, precision=precision))
    assert sim_spec(one).model.weight_bytes_per_param == size


def test_a_checkpoint_that_is_quantised_needs_no_argument() -> None:
    model: Model = replace(CATALOG.models["llama-3.1-8b"], precision="fp8")
    assert sim_spec(replace(cell(), model=model)).model.weight_bytes_per_param == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"quantization": "fp8"}, r"variant default: the engine argument 'quantization' is 'fp8', but.*bf16.*\n.*precision: fp8"),
        ({"quantization": "bitsandbytes"}, r"default\.quantization: unknown quantization 'bitsandbytes'"),
        ({"dtype": "float32"}, r"default\.dtype: unknown dtype 'float32'"),
        ({"kv-cache-dtype": "fp4"}, r"default\.kv-cache-dtype: unknown kv-cache-dtype 'fp4'\n.*'fp8'"),
        ({"max-num-seq": 4}, r"unknown engine argument 'max-num-seq'\n.*'max-num-seqs'"),
        ({"enforce-eager": True}, "unknown engine argument 'enforce-eager'"),
        ({"max-num-seqs": "64"}, r"variant default\.max_num_seqs: needs a whole number, got '64'"),
        ({"tensor-parallel-size": 2}, "'tensor-parallel-size' is 2, and the hardware is h100"),
        ({"gpu-memory-utilization": "9O%"}, "'gpu-memory-utilization' cannot be read"),
        ({"no-enable-prefix-caching": "yes"}, "is a switch"),
        ({"max-num-seqs": 4, "max_num_seqs": 5}, "is set twice"),
    ],
)
def test_what_the_simulator_does_not_model_is_refused(args: dict[str, EngineArg], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        sim_spec(replace(cell(), variant=Variant("default", engine_args=args)))


def test_a_t4_has_no_bfloat16() -> None:
    assert sim_spec(cell("t4", "llama-3.2-3b", dtype="half")).model.precision == "bf16"
    with pytest.raises(ConfigError, match="'dtype' is 'bfloat16', which t4 has not got"):
        sim_spec(cell("t4", "llama-3.2-3b", dtype="bfloat16"))


def test_arguments_arrive() -> None:
    args: dict[str, EngineArg] = {
        "max-num-seqs": 64,
        "no-enable-prefix-caching": True,
        "gpu_memory_utilization": "90%",
        "tensor-parallel-size": 2,
    }
    engine = sim_spec(replace(cell(count=2), variant=Variant("v", engine_args=args))).engine
    changed = {"max_num_seqs": 64, "enable_prefix_caching": False, "gpu_memory_utilization": 0.9, "tensor_parallel_size": 2}
    plain = EngineArgs()
    for field in fields(engine):
        if field.name != "max_model_len":
            assert getattr(engine, field.name) == changed.get(field.name, getattr(plain, field.name))


def test_the_context_is_the_longest_that_finds_room() -> None:
    assert sim_spec(cell()).engine.max_model_len == 131_072
    assert sim_spec(cell("l4")).engine.max_model_len == 16_384
    assert sim_spec(cell(max_model_len=4096)).engine.max_model_len == 4096


def test_a_slowed_variant_differs_in_nothing_but_its_step_times() -> None:
    slowed = replace(cell(), variant=Variant("default", env={"LLMPERF_SIM_SLOWDOWN": "1.3", "VLLM_LOGGING_LEVEL": "DEBUG"}))
    spec = sim_spec(slowed)
    assert spec == replace(sim_spec(cell()), slowdown=1.3)
    assert SimSpec.from_json(spec.to_json()) == spec
    engines = Engine(spec), Engine(sim_spec(cell()))
    for engine in engines:
        engine.add_request(0, 512, 1, 0.0)
    slowed_step, plain_step = (engine.step(0.0) for engine in engines)
    assert slowed_step is not None
    assert plain_step is not None
    assert slowed_step.end_s == pytest.approx(1.3 * plain_step.end_s)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"LLMPERF_SIM_SLOWDOWN": "slow"}, r"variant v\.env\.LLMPERF_SIM_SLOWDOWN: needs a number of more than 0, not 'slow'"),
        ({"LLMPERF_SIM_SLOWDOWN": "0"}, "needs a number of more than 0, not '0'"),
        ({"LLMPERF_SIM_SLOWDOWN": "inf"}, "needs a number of more than 0, not 'inf'"),
        ({"LLMPERF_SIM_SLOWDWON": "1.3"}, r"unknown variable 'LLMPERF_SIM_SLOWDWON'\n.*Did you mean 'LLMPERF_SIM_SLOWDOWN'"),
    ],
)
def test_a_slowdown_that_cannot_be_is_refused(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sim_spec(replace(cell(), variant=Variant("v", env=env)))
