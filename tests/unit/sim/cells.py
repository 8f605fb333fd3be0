"""Specs for tests: cells of the shipped catalog through ``sim_spec``, as users get them.

What only measurements of others need and the catalog has not got stands here: records where a record can hold it, and the
B200, whose link and size class no record has.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.deploy.simspec import sim_spec
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.records import Cell, Efficiency, Hardware, Model, Variant
from pytest_llmperf.sim.spec import GIB, GpuSpec, ModelSpec, SimSpec

CATALOG = load_catalog([builtin_directory()])

_L40S = CATALOG.hardware["l40s"]
MORE_HARDWARE = {
    "rtx-6000-ada": replace(
        _L40S,
        name="rtx-6000-ada",
        memory=int(47.5 * GIB),
        bandwidth=960e9,
        bf16_flops=364e12,
        fp8_flops=728e12,
        efficiency=Efficiency(bandwidth=0.82, layer_overhead=5e-6, mfu_bf16=0.29, mfu_fp8=0.25),
    ),
}
_8B = CATALOG.models["llama-3.1-8b"]
MORE_MODELS = {
    model.name: model
    for model in (
        replace(
            _8B,
            name="llama-3.2-1b",
            params_total=1.236e9,
            params_active=1.236e9,
            layers=16,
            hidden_size=2048,
            head_dim=64,
            tied_embeddings=True,
        ),
        replace(
            _8B, name="qwen3-8b", params_total=8.19e9, params_active=8.19e9, layers=36, vocab_size=151_936, max_model_len=40_960
        ),
        replace(
            CATALOG.models["llama-3.3-70b"],
            name="qwen2.5-72b",
            params_total=72.7e9,
            params_active=72.7e9,
            vocab_size=152_064,
            max_model_len=32_768,
        ),
        replace(
            _8B,
            name="mixtral-8x7b",
            params_total=46.7e9,
            params_active=12.9e9,
            vocab_size=32_000,
            max_model_len=32_768,
            experts=8,
            experts_per_token=2,
        ),
    )
}
B200 = GpuSpec(
    name="b200",
    memory_bytes=179 * GIB,
    bandwidth_bytes_per_s=8e12,
    flops_per_s={"bf16": 2250e12, "fp8": 4500e12},
    mfu={"bf16": 0.45, "fp8": 0.35},
    interconnect="nvlink-b200",
    engine_class="xlarge",
)

EngineArg = str | int | float | bool


def hardware(name: str, count: int = 1) -> Hardware:
    """By name, of the catalog or of the additions here."""
    return replace(MORE_HARDWARE.get(name) or CATALOG.hardware_named(name), count=count)


def model(name: str) -> Model:
    """By name, of the catalog or of the additions here."""
    return MORE_MODELS.get(name) or CATALOG.model_named(name)


def cell(
    gpu: str = "h100", model_name: str = "llama-3.1-8b", count: int = 1, *, fp8: bool = False, **engine_args: EngineArg
) -> Cell:
    """A cell; ``fp8`` takes the catalog's variant, ``engine_args`` come on top of the variant's own."""
    variant = CATALOG.variants["fp8" if fp8 else "default"]
    variant = Variant(variant.name, engine_args={**variant.engine_args, **engine_args}, precision=variant.precision)
    return Cell(CATALOG.platforms["k8s"], hardware(gpu, count), CATALOG.methods["standalone"], model(model_name), variant)


def spec(
    gpu: str = "h100", model_name: str = "llama-3.1-8b", count: int = 1, *, fp8: bool = False, **engine_args: EngineArg
) -> SimSpec:
    """What the simulator is told of such a cell."""
    if gpu == B200.name:
        # Sized as an H200: only cells that fit one, which all of them do.
        return replace(spec("h200", model_name, count, fp8=fp8, **engine_args), gpu=B200)
    return sim_spec(cell(gpu, model_name, count, fp8=fp8, **engine_args))


def gpu_spec(name: str) -> GpuSpec:
    """The GPU alone, whatever fits it."""
    return spec(name, "llama-3.2-1b", max_model_len=2048).gpu


def model_spec(name: str, *, fp8: bool = False) -> ModelSpec:
    """The model alone, on hardware that holds it."""
    return spec("h100", name, 8, fp8=fp8, max_model_len=2048).model
