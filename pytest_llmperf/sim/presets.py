"""GPUs and models the step-time constants were checked on; the project's catalog may describe others.

GPU peaks are dense datasheet values; efficiencies are measured ones (reference page, sections 0, 3.1, 4 and 5).
"""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.errors import unknown
from pytest_llmperf.sim.spec import GIB, GpuSpec, Interconnect, ModelSpec

# Slow-memory Ada and Ampere boards hide their launch overhead behind the reads: 82 % of bandwidth, nearly no residue.
_SLOW_MEMORY = {"bandwidth_efficiency": 0.82, "layer_overhead_s": 5e-6}


def _gpu(
    name: str,
    memory_gib: float,
    bandwidth_gb: float,
    tflops: dict[str, float],
    mfu: dict[str, float],
    link: Interconnect,
    bandwidth_efficiency: float = 0.80,
    layer_overhead_s: float = 40e-6,
) -> GpuSpec:
    return GpuSpec(
        name=name,
        memory_bytes=int(memory_gib * GIB),
        bandwidth_bytes_per_s=bandwidth_gb * 1e9,
        flops_per_s={precision: value * 1e12 for precision, value in tflops.items()},
        mfu=mfu,
        interconnect=link,
        bandwidth_efficiency=bandwidth_efficiency,
        layer_overhead_s=layer_overhead_s,
    )


_GPUS = (
    _gpu("t4", 14.75, 320, {"bf16": 65}, {"bf16": 0.40}, "pcie", layer_overhead_s=200e-6),
    _gpu("a10g", 22.35, 600, {"bf16": 70}, {"bf16": 0.80}, "pcie", **_SLOW_MEMORY),
    _gpu("l4", 22.5, 300, {"bf16": 121, "fp8": 242}, {"bf16": 0.40, "fp8": 0.18}, "pcie", **_SLOW_MEMORY),
    _gpu("l40s", 44.99, 864, {"bf16": 362, "fp8": 733}, {"bf16": 0.45, "fp8": 0.36}, "pcie", **_SLOW_MEMORY),
    _gpu("rtx-6000-ada", 47.5, 960, {"bf16": 364, "fp8": 728}, {"bf16": 0.29, "fp8": 0.25}, "pcie", **_SLOW_MEMORY),
    _gpu("a30", 24, 933, {"bf16": 165}, {"bf16": 0.65}, "pcie"),
    _gpu("a100-40gb", 39.5, 1555, {"bf16": 312}, {"bf16": 0.68}, "nvlink-a100"),
    _gpu("a100", 79.2, 2039, {"bf16": 312}, {"bf16": 0.65}, "nvlink-a100"),
    _gpu("a100-80gb-pcie", 79.2, 1935, {"bf16": 312}, {"bf16": 0.62}, "nvlink-a100"),
    _gpu("h100", 79.2, 3350, {"bf16": 989, "fp8": 1979}, {"bf16": 0.58, "fp8": 0.42}, "nvlink-h100"),
    _gpu("h100-pcie", 79.2, 2000, {"bf16": 756.5, "fp8": 1513}, {"bf16": 0.55, "fp8": 0.40}, "nvlink-a100"),
    _gpu("h100-nvl", 93.1, 3900, {"bf16": 835, "fp8": 1671}, {"bf16": 0.56, "fp8": 0.41}, "nvlink-a100"),
    _gpu("h200", 139.8, 4800, {"bf16": 989, "fp8": 1979}, {"bf16": 0.53, "fp8": 0.42}, "nvlink-h100"),
    _gpu("b200", 179, 8000, {"bf16": 2250, "fp8": 4500}, {"bf16": 0.45, "fp8": 0.35}, "nvlink-b200"),
    _gpu("gb200", 185, 8000, {"bf16": 2500, "fp8": 5000}, {"bf16": 0.45, "fp8": 0.35}, "nvlink-b200"),
    _gpu("mi300x", 191.5, 5300, {"bf16": 1307, "fp8": 2615}, {"bf16": 0.40, "fp8": 0.30}, "nvlink-a100"),
)

_MODELS = (
    ModelSpec("qwen2.5-0.5b", 24, 896, 14, 2, 64, 151_936, 0.494e9, tied_embeddings=True, max_model_len=32_768),
    ModelSpec("llama-3.2-1b", 16, 2048, 32, 8, 64, 128_256, 1.236e9, tied_embeddings=True),
    ModelSpec("llama-3.1-8b", 32, 4096, 32, 8, 128, 128_256, 8.03e9),
    ModelSpec("llama-2-7b", 32, 4096, 32, 32, 128, 32_000, 6.74e9, max_model_len=4096),
    ModelSpec("llama-2-13b", 40, 5120, 40, 40, 128, 32_000, 13.02e9, max_model_len=4096),
    ModelSpec("qwen3-8b", 36, 4096, 32, 8, 128, 151_936, 8.19e9, max_model_len=40_960),
    ModelSpec("qwen3-32b", 64, 5120, 64, 8, 128, 151_936, 32.76e9, max_model_len=40_960),
    ModelSpec("llama-3.3-70b", 80, 8192, 64, 8, 128, 128_256, 70.55e9),
    ModelSpec("qwen2.5-72b", 80, 8192, 64, 8, 128, 152_064, 72.7e9, max_model_len=32_768),
    ModelSpec("mixtral-8x7b", 32, 4096, 32, 8, 128, 32_000, 46.7e9, 12.9e9, 8, 2, max_model_len=32_768),
    ModelSpec("qwen3-30b-a3b", 48, 2048, 32, 4, 128, 151_936, 30.5e9, 3.3e9, 128, 8, max_model_len=40_960),
)

GPUS = {gpu.name: gpu for gpu in _GPUS}
MODELS = {model.name: model for model in _MODELS}


def gpu_preset(name: str) -> GpuSpec:
    """A GPU by name, for example ``h100``. Raises ``ConfigError`` with the nearest name."""
    if name not in GPUS:
        raise unknown("GPU", name, GPUS)
    return GPUS[name]


def mig_slice(gpu: GpuSpec, profile: str) -> GpuSpec:
    """One MIG slice, for example ``3g.40gb``: compute in sevenths, memory and bandwidth in eighths."""
    compute, _, memory = profile.partition("g.")
    if not compute.isdigit() or not 1 <= int(compute) <= 7 or not memory.removesuffix("gb").isdigit():
        raise unknown("MIG profile", profile, ["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"])
    # A profile names a nominal size: the eighths nearest to it (1g.10gb of 80 is 1/8, 3g.40gb is 4/8).
    eighths = max(1, min(8, round(8 * int(memory.removesuffix("gb")) * 1e9 / gpu.memory_bytes)))
    share = eighths / 8
    return replace(
        gpu,
        name=f"{gpu.name}-mig-{profile}",
        compute_fraction=int(compute) / 7,
        bandwidth_fraction=share,
        memory_fraction=share,
    )


def model_preset(name: str, *, fp8: bool = False) -> ModelSpec:
    """A model by name, for example ``llama-3.1-8b``; ``fp8`` quantises its layers."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model = MODELS[name]
    return replace(model, name=f"{name}-fp8", precision="fp8", weight_bytes_per_param=1.0) if fp8 else model
