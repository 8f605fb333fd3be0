"""From a cell's records to what the simulator simulates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace

from pytest_llmperf.errors import ConfigError, UnitError, Where, unknown
from pytest_llmperf.experiment.records import Cell, Hardware, Precision
from pytest_llmperf.sim.codec import decode
from pytest_llmperf.sim.spec import EngineArgs, GpuSpec, Interconnect, ModelSpec, SimSpec
from pytest_llmperf.units import parse_fraction

WEIGHT_BYTES: Mapping[Precision, float] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int4": 0.5}
_SIM_VARIABLES = "LLMPERF_SIM_"
SLOWDOWN_VARIABLE = f"{_SIM_VARIABLES}SLOWDOWN"
"""In a variant's ``env``: a factor on the simulator's step times, as a slower version of the engine would have."""
MIN_CONTEXT_TOKENS = 2048
"""A cell in which not even this finds room does not fit (``experiment.fit`` says the same)."""

_LINKS: Mapping[str, Interconnect] = {
    "nvlink-h100": "nvlink-h100",
    "nvlink-a100": "nvlink-a100",
    "pcie4": "pcie",
    "pcie3": "pcie",
    "none": "none",
}
# Values of vLLM's arguments for number formats that the simulator can stand for.
_PRECISION_OF_QUANTIZATION: Mapping[str, Precision] = {
    "fp8": "fp8",
    "awq": "int4",
    "awq_marlin": "int4",
    "gptq": "int4",
    "gptq_marlin": "int4",
}
_DTYPES = {"auto", "half", "float16", "bfloat16"}
_KV_BYTES = {"auto": 2.0, "float16": 2.0, "bfloat16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}
_FORMATS = ("quantization", "dtype", "kv_cache_dtype")

Value = str | int | float | bool


def sim_spec(cell: Cell, seed: int = 0) -> SimSpec:
    """The simulator's spec of a cell. Raises ``ConfigError`` for what the simulator does not model or vLLM would refuse."""
    given = _given(cell)
    formats = {name: str(given.pop(name)) for name in _FORMATS if name in given}
    _check_formats(cell, formats)
    spec = SimSpec(
        gpu=_gpu(cell.hardware),
        model=_model(cell, _KV_BYTES[formats.get("kv_cache_dtype", "auto")]),
        engine=_engine_args(cell, given),
        served_model_name=cell.model.name,
        seed=seed,
        api_overhead_s=cell.hardware.efficiency.api_overhead,
        slowdown=_slowdown(cell),
    )
    return spec if spec.engine.max_model_len is not None else _with_longest_context(spec)


def arguments_of(given: EngineArgs) -> tuple[str, ...]:
    """The simulated engine's arguments as ``vllm serve`` writes them; those left to vLLM's default are left out."""
    named = ((name.replace("_", "-"), value) for name, value in asdict(given).items() if value is not None)
    return tuple(f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}" for name, value in named)


def _slowdown(cell: Cell) -> float:
    """The factor that the variant's environment asks for; 1 where it asks for none."""
    for name in cell.variant.env:
        if name.startswith(_SIM_VARIABLES) and name != SLOWDOWN_VARIABLE:
            raise unknown("variable", name, [SLOWDOWN_VARIABLE], _where(cell, "env"))
    text = cell.variant.env.get(SLOWDOWN_VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(f"needs a number of more than 0, not {text!r}", where=_where(cell, f"env.{SLOWDOWN_VARIABLE}"))
    return factor


def _gpu(hardware: Hardware) -> GpuSpec:
    efficiency = hardware.efficiency
    peaks = {"bf16": hardware.bf16_flops}
    mfu = {"bf16": efficiency.mfu_bf16}
    if hardware.fp8_flops is not None:
        peaks["fp8"] = hardware.fp8_flops
        mfu["fp8"] = efficiency.mfu_fp8
    return GpuSpec(
        name=hardware.name,
        memory_bytes=hardware.memory,
        bandwidth_bytes_per_s=hardware.bandwidth,
        flops_per_s=peaks,
        mfu=mfu,
        interconnect=_LINKS[hardware.interconnect],
        engine_class=hardware.engine_class,
        bandwidth_efficiency=efficiency.bandwidth,
        layer_overhead_s=efficiency.layer_overhead,
        sequence_overhead_s=efficiency.sequence_overhead,
        token_overhead_s=efficiency.token_overhead,
    )


def _model(cell: Cell, kv_bytes_per_element: float) -> ModelSpec:
    model = cell.model
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
        # int4 is a format of the weights alone: products are computed in 16 bit, and fp16 is as fast as bf16.
        precision="fp8" if cell.precision == "fp8" else "bf16",
        weight_bytes_per_param=WEIGHT_BYTES[cell.precision],
        kv_bytes_per_element=kv_bytes_per_element,
        max_model_len=model.max_model_len,
    )


def _given(cell: Cell) -> dict[str, Value]:
    """The variant's arguments under the names of Python; of vLLM's pairs of switches, the one without ``no``."""
    given: dict[str, Value] = {}
    for key, value in cell.variant.engine_args.items():
        name = key.replace("-", "_")
        if name.startswith("no_"):
            if not isinstance(value, bool):
                raise _refused(cell, key, f"is a switch: true or false, not {value!r}")
            name, value = name.removeprefix("no_"), not value  # noqa: PLW2901
        if name in given:
            raise _refused(cell, key, "is set twice")
        given[name] = value
    return given


def _check_formats(cell: Cell, formats: Mapping[str, str]) -> None:
    """Whether the number formats that are asked for are those of the cell's precision, and ones the simulator knows."""
    if cell.precision == "fp8" and cell.hardware.fp8_flops is None:
        raise ConfigError(f"{cell.hardware.name} has no FP8 units", where=_where(cell, "precision"))
    dtype = formats.get("dtype", "auto")
    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES, _where(cell, "dtype"))
    if dtype == "bfloat16" and not cell.hardware.supports_bf16:
        raise _refused(cell, "dtype", f"is 'bfloat16', which {cell.hardware.name} has not got")
    kv_dtype = formats.get("kv_cache_dtype", "auto")
    if kv_dtype not in _KV_BYTES:
        raise unknown("kv-cache-dtype", kv_dtype, _KV_BYTES, _where(cell, "kv-cache-dtype"))
    quantization = formats.get("quantization")
    if quantization is None:
        return
    if quantization not in _PRECISION_OF_QUANTIZATION:
        raise unknown("quantization", quantization, _PRECISION_OF_QUANTIZATION, _where(cell, "quantization"))
    precision = _PRECISION_OF_QUANTIZATION[quantization]
    if precision != cell.precision:
        raise _refused(
            cell,
            "quantization",
            f"is {quantization!r}, but the precision of {cell.model.name} is {cell.precision} here",
            hint=f"Add 'precision: {precision}' to the variant.",
        )


def _engine_args(cell: Cell, given: Mapping[str, Value]) -> EngineArgs:
    known = [f.name for f in fields(EngineArgs)]
    for name in given:
        if name not in known:
            choices = [each.replace("_", "-") for each in (*known, *_FORMATS)]
            raise unknown("engine argument", name.replace("_", "-"), choices, _where(cell))
    values = dict(given)
    if "gpu_memory_utilization" in values:
        try:
            values["gpu_memory_utilization"] = parse_fraction(values["gpu_memory_utilization"])
        except UnitError as error:
            raise _refused(cell, "gpu-memory-utilization", f"cannot be read: {error}") from None
    args = decode(EngineArgs, values, f"variant {cell.variant.name}")
    count = cell.hardware.count
    if args.tensor_parallel_size != count and "tensor_parallel_size" in given:
        raise _refused(cell, "tensor-parallel-size", f"is {args.tensor_parallel_size}, and the hardware is {cell.hardware.id}")
    return replace(args, tensor_parallel_size=count)


def _with_longest_context(spec: SimSpec) -> SimSpec:
    """The model's context, halved until the KV cache has room for one request of it: vLLM would refuse a longer one."""
    length = spec.model.max_model_len
    while True:
        shorter = replace(spec, engine=replace(spec.engine, max_model_len=length))
        try:
            shorter.resolve()
        except ConfigError:
            if length <= MIN_CONTEXT_TOKENS:
                raise
            length = max(length // 2, MIN_CONTEXT_TOKENS)
        else:
            return shorter


def _where(cell: Cell, key: str = "") -> Where:
    return Where(key=f"variant {cell.variant.name}" + (f".{key}" if key else ""))


def _refused(cell: Cell, argument: str, problem: str, hint: str | None = None) -> ConfigError:
    return ConfigError(f"the engine argument {argument!r} {problem}", where=_where(cell), hint=hint)
