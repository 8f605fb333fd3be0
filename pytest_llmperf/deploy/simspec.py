"""From a cell's records to what the simulator simulates."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.experiment.records import Cell, Hardware, Model, Precision
from pytest_llmperf.sim.spec import EngineArgs, GpuSpec, Interconnect, ModelSpec, SimSpec

WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int4": 0.5}
_LINKS: dict[str, Interconnect] = {
    "nvlink-h100": "nvlink-h100",
    "nvlink-a100": "nvlink-a100",
    "pcie4": "pcie",
    "pcie3": "pcie",
    "none": "pcie",
}


def sim_spec(cell: Cell, seed: int = 0) -> SimSpec:
    """The simulator's spec of a cell. Raises ``ConfigError`` for an engine argument the simulator does not model."""
    return SimSpec(
        gpu=_gpu(cell.hardware),
        model=_model(cell.model, cell.precision),
        engine=_engine_args(cell),
        served_model_name=cell.model.name,
        seed=seed,
    )


def _gpu(hardware: Hardware) -> GpuSpec:
    peaks = {"bf16": hardware.bf16_flops}
    mfu = {"bf16": hardware.efficiency.mfu_bf16}
    if hardware.fp8_flops is not None:
        peaks["fp8"] = hardware.fp8_flops
        mfu["fp8"] = hardware.efficiency.mfu_fp8
    return GpuSpec(
        name=hardware.name,
        memory_bytes=hardware.memory,
        bandwidth_bytes_per_s=hardware.bandwidth,
        flops_per_s=peaks,
        mfu=mfu,
        interconnect=_LINKS[hardware.interconnect],
        bandwidth_efficiency=hardware.efficiency.bandwidth,
        layer_overhead_s=hardware.efficiency.layer_overhead,
    )


def _model(model: Model, precision: Precision) -> ModelSpec:
    return ModelSpec(
        name=model.name,
        n_layers=model.layers,
        hidden_size=model.hidden_size,
        n_heads=model.heads,
        n_kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        vocab_size=model.vocab_size,
        params_total=model.params_total,
        params_active=model.params_active,
        n_experts=model.experts,
        n_experts_per_token=model.experts_per_token,
        tied_embeddings=model.tied_embeddings,
        precision="fp8" if precision == "fp8" else "bf16",
        weight_bytes_per_param=WEIGHT_BYTES[precision],
        max_model_len=model.max_model_len,
    )


def _engine_args(cell: Cell) -> EngineArgs:
    """vLLM's arguments, dashes or underscores; what only chooses a number format is in the precision already."""
    known = {f.name for f in fields(EngineArgs)}
    given: dict[str, Any] = {key.replace("-", "_"): value for key, value in cell.variant.engine_args.items()}
    given = {key: value for key, value in given.items() if key not in {"quantization", "dtype", "kv_cache_dtype"}}
    # vLLM's switches come in pairs: --no-enable-prefix-caching is enable_prefix_caching: false.
    given = {
        key.removeprefix("no_") if key.startswith("no_") else key: (not value) if key.startswith("no_") else value
        for key, value in given.items()
    }
    for key in given:
        if key not in known:
            raise unknown("engine argument", key, known, Where(key=f"variant {cell.variant.name}"))
    args = replace(EngineArgs(**given), tensor_parallel_size=cell.hardware.count)
    return args if args.max_model_len is not None else replace(args, max_model_len=_context(cell, args))


def _context(cell: Cell, args: EngineArgs) -> int:
    """The longest context, up to the model's own, for which the KV cache has room: vLLM would refuse a longer one."""
    length = cell.model.max_model_len
    while True:
        try:
            SimSpec(_gpu(cell.hardware), _model(cell.model, cell.precision), replace(args, max_model_len=length)).resolve()
        except ConfigError:
            if length <= 2048:
                raise
            length //= 2
        else:
            return length
