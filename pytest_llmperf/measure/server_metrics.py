"""The engines' and exporters' metrics that are read: each quantity once, with the names it has gone by, the newest first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a value behaves over time."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Over(Enum):
    """How several series (data-parallel engines, accelerators, processes) become one value."""

    SUM = "sum"
    MEAN = "mean"


class Owner(Enum):
    """Whose metric it is: what decides which of its series belong to the run."""

    ENGINE = "engine"
    PROCESS = "process"
    """Of any exporter: those count that come from where an engine's come from."""
    CONTAINER = "container"
    GPU = "gpu"


@dataclass(frozen=True)
class Quantity:
    """One value. ``scale`` brings it into its base unit: bytes, watts, a fraction."""

    key: str
    names: tuple[str, ...]
    kind: Kind = Kind.GAUGE
    over: Over = Over.SUM
    owner: Owner = Owner.ENGINE
    scale: float = 1.0


@dataclass(frozen=True)
class Times:
    """One of the engine's histograms of seconds, by its names without ``_bucket``, ``_sum`` and ``_count``."""

    key: str
    names: tuple[str, ...]

    def series(self, part: str) -> tuple[str, ...]:
        """The names of its buckets, sum or count."""
        return tuple(f"{name}_{part}" for name in self.names)


QUANTITIES = (
    Quantity("running", ("vllm:num_requests_running",)),
    Quantity("waiting", ("vllm:num_requests_waiting",)),
    Quantity("kv_cache_usage", ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), over=Over.MEAN),
    Quantity("preemptions", ("vllm:num_preemptions_total",), Kind.COUNTER),
    Quantity("prompt_tokens", ("vllm:prompt_tokens_total",), Kind.COUNTER),
    Quantity("generation_tokens", ("vllm:generation_tokens_total",), Kind.COUNTER),
    Quantity("cache_queries", ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"), Kind.COUNTER),
    Quantity("cache_hits", ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"), Kind.COUNTER),
    Quantity(
        "cpu_seconds",
        ("process_cpu_seconds_total",),
        Kind.COUNTER,
        owner=Owner.PROCESS,
    ),
    Quantity("memory_bytes", ("process_resident_memory_bytes",), owner=Owner.PROCESS),
    Quantity("pod_cpu_seconds", ("container_cpu_usage_seconds_total",), Kind.COUNTER, owner=Owner.CONTAINER),
    Quantity("pod_memory_bytes", ("container_memory_working_set_bytes",), owner=Owner.CONTAINER),
    Quantity("gpu_utilisation", ("DCGM_FI_DEV_GPU_UTIL",), over=Over.MEAN, owner=Owner.GPU, scale=0.01),
    Quantity("gpu_power_w", ("DCGM_FI_DEV_POWER_USAGE",), owner=Owner.GPU),
    Quantity("gpu_memory_bytes", ("DCGM_FI_DEV_FB_USED",), owner=Owner.GPU, scale=2.0**20),
)
TIMES = (
    Times("ttft", ("vllm:time_to_first_token_seconds",)),
    Times("itl", ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")),
    Times("e2e", ("vllm:e2e_request_latency_seconds",)),
    Times("queue", ("vllm:request_queue_time_seconds",)),
    Times("prefill", ("vllm:request_prefill_time_seconds",)),
    Times("decode", ("vllm:request_decode_time_seconds",)),
)
BY_KEY = {quantity.key: quantity for quantity in QUANTITIES}
NAMES = frozenset(
    (
        *(name for quantity in QUANTITIES for name in quantity.names),
        *(name for times in TIMES for part in ("bucket", "sum", "count") for name in times.series(part)),
    )
)
"""Every name that is read."""
ENGINE_NAMES = frozenset(name for name in NAMES if name.startswith("vllm:"))
"""Those that only an engine has."""
