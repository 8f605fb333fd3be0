"""What is shipped holds together: every name leads somewhere, every SLA can be decided, every number is of its kind."""

from __future__ import annotations

import time
from datetime import date

import pytest

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog, manifests_directory
from pytest_llmperf.experiment.fit import fits
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Price

CATALOG = load_catalog([builtin_directory()])


def test_has_what_is_promised() -> None:
    assert set(CATALOG.platforms) == {"gke", "ocp", "eks", "eks-auto", "k8s"}
    gpus = {"h100", "h200", "a100-80gb", "a100-40gb", "h100-mig-3g.40gb", "h100-mig-1g.10gb", "l40s", "l40", "l4", "a10g", "t4"}
    assert set(CATALOG.hardware) == gpus
    assert CATALOG.hardware["h100"].counts == (1, 2, 4, 8)
    assert set(CATALOG.models) == {"llama-3.2-3b", "llama-3.1-8b", "llama-4-scout", "llama-3.3-70b", "qwen3-32b"}
    workloads = {"interactive-chat", "classification", "summarization", "code-generation", "translation", "agentic"}
    assert workloads <= set(CATALOG.workloads)
    assert {"default", "full", "mig", "large-models", "variants"} <= set(CATALOG.matrices)


@pytest.mark.parametrize("name", CATALOG.workloads)
def test_every_workload_has_an_sla_with_latency_throughput_and_errors(name: str) -> None:
    sla = CATALOG.sla_for(CATALOG.workload_named(name))
    keys = {threshold.key.name for threshold in sla.thresholds}
    assert "error_rate" in keys
    # How much a replayed trace asks for is the trace's affair.
    assert name == "trace-replay" or keys & {"output_tokens_per_s", "request_rate"}
    assert any(threshold.key.quantile == 0.95 for threshold in sla.thresholds)


@pytest.mark.parametrize("name", CATALOG.slas)
def test_limits_grow_with_the_quantile(name: str) -> None:
    limits: dict[str, list[tuple[float, float]]] = {}
    for threshold in CATALOG.slas[name].thresholds:
        if threshold.key.quantile is not None:
            limits.setdefault(threshold.key.metric.name, []).append((threshold.key.quantile, threshold.limit))
    for of_metric in limits.values():
        assert [limit for _, limit in sorted(of_metric)] == sorted(limit for _, limit in of_metric)


@pytest.mark.parametrize("price", CATALOG.prices.values(), ids=lambda p: f"{p.hardware}-{p.platform}")
def test_every_price_says_where_and_when_and_is_of_hardware_that_is_there(price: Price) -> None:
    assert price.platform in CATALOG.hardware[price.hardware].node_labels
    assert price.source
    assert date.fromisoformat(price.date).year >= 2025
    assert 0 < price.per_gpu < 100


@pytest.mark.parametrize("name", CATALOG.hardware)
def test_hardware(name: str) -> None:
    hardware = CATALOG.hardware[name]
    assert {"ocp", "k8s"} <= set(hardware.node_labels)
    assert hardware.fp8_flops is None or hardware.fp8_flops == pytest.approx(2 * hardware.bf16_flops, rel=0.02)
    assert (hardware.engine_class == "large") == (hardware.memory >= 70 * 2**30 and "a100" not in name)
    assert (hardware.interconnect == "none") == (hardware.counts == (1,)) == ("mig" in name)
    assert hardware.resource == (f"nvidia.com/{name.removeprefix('h100-')}" if "mig" in name else "nvidia.com/gpu")


def test_mig_slices_are_shares_of_the_whole() -> None:
    """Compute in sevenths, memory and bandwidth in eighths."""
    whole = CATALOG.hardware["h100"]
    for name, sevenths, eighths in (("h100-mig-3g.40gb", 3, 4), ("h100-mig-1g.10gb", 1, 1)):
        part = CATALOG.hardware[name]
        assert part.bf16_flops == pytest.approx(whole.bf16_flops * sevenths / 7, rel=0.01)
        assert part.memory == pytest.approx(whole.memory * eighths / 8, rel=0.01)
        assert part.bandwidth == pytest.approx(whole.bandwidth * eighths / 8, rel=0.01)


@pytest.mark.parametrize("name", CATALOG.models)
def test_parameters_follow_from_the_shape(name: str) -> None:
    """Attention and embeddings, counted from the shape, are a plausible share of all parameters: a slip would show."""
    model = CATALOG.models[name]
    attention = model.layers * model.hidden_size * model.head_dim * 2 * (model.heads + model.kv_heads)
    tables = (1 if model.tied_embeddings else 2) * model.vocab_size * model.hidden_size
    assert 0.02 < (attention + tables) / model.params_total < 0.45
    assert (model.params_active < model.params_total) == (model.experts > 0)


def test_the_default_matrix() -> None:
    cells = expand(CATALOG.matrix_named("default"), CATALOG)
    assert [cell.id for cell in cells if "h100" in cell.id] == ["gke_h100_standalone_llama-3.1-8b"]
    assert len(cells) == 3
    assert all(fits(cell).ok for cell in cells)


@pytest.mark.parametrize("name", CATALOG.matrices)
def test_every_matrix_has_cells_that_fit(name: str) -> None:
    cells = expand(CATALOG.matrix_named(name), CATALOG)
    assert any(fits(cell).ok for cell in cells)
    assert len({cell.id for cell in cells}) == len(cells)


def test_the_full_matrix_asks_only_for_what_platforms_offer() -> None:
    for cell in expand(CATALOG.matrix_named("full"), CATALOG):
        assert cell.platform.name in cell.hardware.node_labels, cell.id


@pytest.mark.parametrize("name", CATALOG.methods)
def test_every_method_has_manifests(name: str) -> None:
    assert (manifests_directory() / CATALOG.methods[name].manifests).is_dir()


def test_loads_in_no_time() -> None:
    """Everything is loaded at collection. Best of three: what is held is the work, not the machine's mood."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        load_catalog([builtin_directory()])
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.060
