"""Whether a model fits: weights and a minimal KV cache against what the engine may use of the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.fit import activation_bytes, fits, kv_bytes_per_token, weight_bytes
from pytest_llmperf.experiment.records import Cell, MemoryPolicy, Variant

CATALOG = load_catalog([builtin_directory()])
GIB = 2**30


def cell(hardware: str, model: str, variant: str = "default") -> Cell:
    return Cell(
        CATALOG.platform_named("ocp"),
        CATALOG.hardware_named(hardware),
        CATALOG.method_named("standalone"),
        CATALOG.model_named(model),
        CATALOG.variant_named(variant),
    )


@pytest.mark.parametrize(
    ("hardware", "model", "variant"),
    [
        ("h100", "llama-3.1-8b", "default"),
        ("h100", "qwen3-32b", "default"),
        ("h100x2", "llama-3.3-70b", "default"),
        ("h100x2", "llama-3.3-70b", "fp8"),
        ("h100x2", "llama-4-scout", "fp8"),
        ("h100x4", "llama-4-scout", "default"),
        ("h200", "llama-3.3-70b", "fp8"),
        ("a100-40gb", "llama-3.1-8b", "default"),
        ("l4", "llama-3.1-8b", "default"),
        ("a10g", "llama-3.1-8b", "default"),
        ("t4", "llama-3.2-3b", "default"),
        ("h100-mig-3g.40gb", "llama-3.1-8b", "default"),
        ("h100-mig-1g.10gb", "llama-3.2-3b", "default"),
    ],
)
def test_fits(hardware: str, model: str, variant: str) -> None:
    fit = fits(cell(hardware, model, variant))
    assert fit.ok, fit.reason
    assert fit.reason == ""
    assert fit.kv_tokens >= MemoryPolicy().min_context_tokens


@pytest.mark.parametrize(
    ("hardware", "model", "variant", "reason"),
    [
        (
            "h100",
            "llama-3.3-70b",
            "default",
            "llama-3.3-70b in bf16 needs 131.5 GiB of weights + 0.6 GiB of KV cache (one request of 2048 tokens); "
            "h100 offers 65.4 GiB of 79.2 GiB",
        ),
        (
            "h100",
            "llama-3.3-70b",
            "fp8",
            "llama-3.3-70b in fp8 needs 67.7 GiB of weights + 0.6 GiB of KV cache (one request of 2048 tokens); "
            "h100 offers 65.4 GiB of 79.2 GiB",
        ),
        (
            "h100x2",
            "llama-4-scout",
            "default",
            "llama-4-scout in bf16 needs 203.0 GiB of weights + 0.4 GiB of KV cache (one request of 2048 tokens); "
            "h100x2 offers 134.0 GiB of 158.4 GiB",
        ),
        (
            "t4",
            "llama-3.1-8b",
            "default",
            "llama-3.1-8b in bf16 needs 15.0 GiB of weights + 0.2 GiB of KV cache (one request of 2048 tokens); "
            "t4 offers 11.2 GiB of 14.8 GiB",
        ),
        (
            "h100-mig-1g.10gb",
            "llama-3.1-8b",
            "default",
            "llama-3.1-8b in bf16 needs 15.0 GiB of weights + 0.2 GiB of KV cache (one request of 2048 tokens); "
            "h100-mig-1g.10gb offers 6.7 GiB of 9.9 GiB",
        ),
        (
            "a100-80gb",
            "llama-3.1-8b",
            "fp8",
            "a100-80gb has no FP8 units, and 'fp8' runs llama-3.1-8b in fp8",
        ),
    ],
)
def test_does_not_fit(hardware: str, model: str, variant: str, reason: str) -> None:
    fit = fits(cell(hardware, model, variant))
    assert not fit.ok
    assert fit.reason == reason


def test_slices_cannot_share_a_model() -> None:
    two = replace(cell("h100-mig-3g.40gb", "llama-3.2-3b"), hardware=replace(CATALOG.hardware["h100-mig-3g.40gb"], count=2))
    assert fits(two).reason == (
        "h100-mig-3g.40gb slices have no path to each other, so tensor parallelism over 2 is not possible"
    )


def test_heads_must_be_shared_evenly() -> None:
    sixteen = replace(cell("h100", "llama-3.2-3b"), hardware=replace(CATALOG.hardware["h100"], count=16))
    assert fits(sixteen).reason == "llama-3.2-3b has 24 attention heads, which 16 accelerators cannot share evenly"


def test_without_bf16_the_engine_computes_in_float16() -> None:
    assert fits(cell("t4", "llama-3.2-3b")).dtype == "float16"
    assert fits(cell("l4", "llama-3.2-3b")).dtype == "bfloat16"


def test_weights_are_what_is_published() -> None:
    """On-disk sizes of the checkpoints (bf16), and of the FP8 one whose embeddings stay at 16 bit; in GB."""
    sizes = {name: weight_bytes(model, "bf16") / 1e9 for name, model in CATALOG.models.items()}
    assert sizes == pytest.approx(
        {"llama-3.2-3b": 6.43, "llama-3.1-8b": 16.06, "llama-3.3-70b": 141.1, "llama-4-scout": 217.3, "qwen3-32b": 65.5},
        rel=0.005,
    )
    assert weight_bytes(CATALOG.models["llama-3.3-70b"], "fp8") / 1e9 == pytest.approx(72.7, rel=0.005)


def test_kv_cache_of_a_token() -> None:
    llama = CATALOG.models["llama-3.1-8b"]
    assert kv_bytes_per_token(llama) == 128 * 1024
    assert kv_bytes_per_token(llama, bytes_per_element=1) == 64 * 1024
    assert kv_bytes_per_token(llama, tensor_parallel=8) == 128 * 1024
    assert kv_bytes_per_token(llama, tensor_parallel=16) == 256 * 1024


def test_activations_are_near_what_was_measured() -> None:
    """1.3 GiB with 2048 tokens a step, 4.8 GiB with 8192, for an 8B model."""
    llama = CATALOG.models["llama-3.1-8b"]
    assert activation_bytes(CATALOG.hardware["l4"], llama) / GIB == pytest.approx(1.3, abs=0.1)
    assert activation_bytes(CATALOG.hardware["h100"], llama) / GIB == pytest.approx(4.8, abs=0.5)


def test_a_variant_may_change_the_shares() -> None:
    base = fits(cell("l4", "llama-3.1-8b"))
    half = Variant("half", engine_args={"kv-cache-dtype": "fp8", "gpu_memory_utilization": 0.5})
    other = fits(replace(cell("l4", "llama-3.1-8b"), variant=half))
    assert other.kv_bytes_per_token == base.kv_bytes_per_token / 2
    assert not other.ok
    assert other.reason.endswith("l4 offers 8.9 GiB of 22.5 GiB")


@given(st.sampled_from(sorted(CATALOG.models)), st.sampled_from(["h100", "a100-80gb", "l40s", "h200"]))
def test_more_accelerators_never_hurt(model: str, hardware: str) -> None:
    found = [fits(cell(f"{hardware}x{count}", model)) for count in (1, 2, 4, 8)]
    assert [fit.ok for fit in found] == sorted(fit.ok for fit in found)
    assert [fit.kv_tokens for fit in found] == sorted(fit.kv_tokens for fit in found)


@given(st.integers(min_value=1, max_value=200_000))
def test_the_capacity_is_what_just_fits(tokens: int) -> None:
    l4 = cell("l4", "llama-3.1-8b")
    capacity = fits(l4).kv_tokens
    assert fits(l4, MemoryPolicy(min_context_tokens=tokens)).ok == (tokens <= capacity)
