"""What is simulated: GPU, model, engine arguments, cold start and faults, as one plain JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.sim.codec import decode, encode

GIB = 2**30
Interconnect = Literal["nvlink-a100", "nvlink-h100", "nvlink-b200", "pcie", "none"]
EngineClass = Literal["xlarge", "large", "small"]
Precision = Literal["bf16", "fp8"]

DEFAULT_LIMITS: Mapping[EngineClass, tuple[int, int]] = {"xlarge": (16_384, 1024), "large": (8192, 1024), "small": (2048, 256)}
"""(max_num_batched_tokens, max_num_seqs) of ``vllm serve`` (docs/simulator.md)."""


@dataclass(frozen=True)
class GpuSpec:
    """One GPU, or one MIG slice of it: then memory, bandwidth and peaks are the slice's."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops_per_s: Mapping[str, float]
    """Dense peak by precision (``bf16``, ``fp8``); a precision that is missing runs at the bf16 peak."""
    mfu: Mapping[str, float]
    """Share of the dense peak that a whole large prefill reaches, by precision."""
    interconnect: Interconnect = "pcie"
    """``none`` where there is no path between two of them, as between MIG slices."""
    engine_class: EngineClass = "small"
    """Which defaults vLLM takes: ``xlarge`` from 160 GiB on, ``large`` from 70 GiB on unless it is an A100."""
    bandwidth_efficiency: float = 0.80
    layer_overhead_s: float = 40e-6
    """Per layer and step: kernel launches and small kernels that bytes and FLOPs do not explain."""
    sequence_overhead_s: float = 0.3e-6
    """Per layer and running sequence: batch metadata, attention scheduling, GEMMs off their sweet spot."""
    token_overhead_s: float = 0.0
    """Per layer and prompt token: what a prefill costs beside its FLOPs. Of accelerators it is within their MFU."""

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "bandwidth_bytes_per_s", "bandwidth_efficiency"):
            _positive(getattr(self, name), f"gpu.{name}")
        if "bf16" not in self.flops_per_s or "bf16" not in self.mfu:
            raise ConfigError("flops_per_s and mfu need at least 'bf16'", where=Where(key="gpu"))

    @property
    def effective_bandwidth_bytes_per_s(self) -> float:
        """Bytes per second that a decode step really streams."""
        return self.bandwidth_bytes_per_s * self.bandwidth_efficiency

    def effective_flops_per_s(self, precision: str) -> float:
        """FLOP/s of a large prefill; falls back to bf16 where the GPU has no such units."""
        known = precision if precision in self.flops_per_s else "bf16"
        return self.flops_per_s[known] * self.mfu.get(known, self.mfu["bf16"])


@dataclass(frozen=True)
class ModelSpec:
    """The numbers of a decoder-only transformer that its latency depends on."""

    name: str
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    params_total: float
    params_active: float = 0.0
    """Parameters used per token (MoE); 0 means all of them."""
    n_experts: int = 0
    n_experts_per_token: int = 0
    tied_embeddings: bool = False
    precision: Precision = "bf16"
    """The precision the matrix products run in."""
    weight_bytes_per_param: float = 2.0
    """Of the layers; embeddings and the output head stay at ``embedding_bytes_per_param``."""
    embedding_bytes_per_param: float = 2.0
    kv_bytes_per_element: float = 2.0
    max_model_len: int = 131_072

    def __post_init__(self) -> None:
        for name in ("n_layers", "hidden_size", "n_heads", "n_kv_heads", "head_dim", "vocab_size", "params_total"):
            _positive(getattr(self, name), f"model.{name}")
        if self.params_total <= self.embedding_params * (1 if self.tied_embeddings else 2):
            raise ConfigError("params_total is smaller than the embeddings alone", where=Where(key="model.params_total"))
        if self.n_experts and not 0 < self.n_experts_per_token <= self.n_experts:
            raise ConfigError("needs 1 to n_experts", where=Where(key="model.n_experts_per_token"))

    @cached_property
    def embedding_params(self) -> float:
        """One table: vocabulary x hidden size. The output head is as large."""
        return float(self.vocab_size) * self.hidden_size

    @cached_property
    def layer_params(self) -> float:
        """All parameters but the input embedding and the output head."""
        return self.params_total - self.embedding_params * (1 if self.tied_embeddings else 2)

    @cached_property
    def expert_params(self) -> float:
        """Parameters that live in routed experts: solved from total - active = experts x (1 - k/E)."""
        if not self.n_experts or not self.params_active or self.n_experts == self.n_experts_per_token:
            return 0.0
        unused = 1.0 - self.n_experts_per_token / self.n_experts
        return min((self.params_total - self.params_active) / unused, self.layer_params)

    @cached_property
    def active_layer_params(self) -> float:
        """Layer parameters one token passes through."""
        idle = self.expert_params * (1.0 - self.n_experts_per_token / self.n_experts) if self.n_experts else 0.0
        return self.layer_params - idle

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers, over all GPUs."""
        return 2.0 * self.n_layers * self.n_kv_heads * self.head_dim * self.kv_bytes_per_element

    @cached_property
    def total_weight_bytes(self) -> float:
        """What is loaded into memory, over all GPUs."""
        tables = 1 if self.tied_embeddings else 2
        embeddings = tables * self.embedding_params * self.embedding_bytes_per_param
        return self.layer_params * self.weight_bytes_per_param + embeddings


@dataclass(frozen=True)
class EngineArgs:
    """vLLM's engine arguments; None is vLLM's own default for the GPU (docs/simulator.md)."""

    tensor_parallel_size: int = 1
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    block_size: int = 16
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    num_gpu_blocks_override: int | None = None

    def resolve(self, gpu: GpuSpec, model: ModelSpec) -> EngineConfig:
        """All defaults filled in and checked the way vLLM checks them."""
        self._check(gpu, model)
        default_budget, default_seqs = DEFAULT_LIMITS[gpu.engine_class]
        max_model_len = self.max_model_len or model.max_model_len
        if max_model_len > model.max_model_len:
            raise _bad("max_model_len", f"{max_model_len} is more than the model's {model.max_model_len}")
        max_num_seqs = self.max_num_seqs or default_seqs
        budget = self.max_num_batched_tokens or max(default_budget, max_num_seqs)
        if not self.enable_chunked_prefill and self.max_num_batched_tokens is None:
            budget = max(budget, max_model_len)
        if budget < max_num_seqs:
            raise _bad("max_num_batched_tokens", f"{budget} is less than max_num_seqs {max_num_seqs}")
        if not self.enable_chunked_prefill and budget < max_model_len:
            raise _bad("max_num_batched_tokens", f"{budget} cannot hold a prompt of {max_model_len} without chunks")
        config = EngineConfig(
            tensor_parallel_size=self.tensor_parallel_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_model_len=max_model_len,
            block_size=self.block_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            enable_prefix_caching=self.enable_prefix_caching,
            enable_chunked_prefill=self.enable_chunked_prefill,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            num_gpu_blocks=1,
        )
        blocks = self.num_gpu_blocks_override or _num_gpu_blocks(config, gpu, model)
        if blocks * self.block_size < max_model_len:
            raise _bad("num_gpu_blocks_override", f"{blocks} blocks cannot hold one request of max_model_len")
        return replace(config, num_gpu_blocks=blocks)

    def _check(self, gpu: GpuSpec, model: ModelSpec) -> None:
        """What no GPU and model could make right."""
        for name in ("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens", "block_size", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _bad(name, f"{value} is less than 1")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise _bad("gpu_memory_utilization", f"{self.gpu_memory_utilization} is not a share of the memory")
        if gpu.interconnect == "none" and self.tensor_parallel_size > 1:
            raise _bad("tensor_parallel_size", f"there is no path between two {gpu.name}, so only 1 is possible")
        if model.n_heads % self.tensor_parallel_size:
            problem = f"{model.n_heads} attention heads cannot be shared evenly by {self.tensor_parallel_size} GPUs"
            raise _bad("tensor_parallel_size", problem)


@dataclass(frozen=True)
class EngineConfig:
    """Engine arguments with every default resolved."""

    tensor_parallel_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    gpu_memory_utilization: float
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    long_prefill_token_threshold: int
    num_gpu_blocks: int


@dataclass(frozen=True)
class ColdStart:
    """Seconds from process start to ready, by phase; short by default, so that a demonstration does not wait."""

    engine_start_s: float = 0.2
    weights_load_s: float = 0.5
    compile_s: float = 0.3

    @property
    def total_s(self) -> float:
        """From process start to the first 200 of /health."""
        return self.engine_start_s + self.weights_load_s + self.compile_s


@dataclass(frozen=True)
class Faults:
    """What goes wrong, on purpose. All off by default; /admin/faults changes them while the server runs."""

    error_rates: Mapping[str, float] = field(default_factory=dict)
    """Share of generation requests answered with a status, for example ``{"500": 0.01, "429": 0.05}``."""
    abort_rate: float = 0.0
    """Share of streams whose connection is cut ``abort_after_tokens`` tokens in."""
    abort_after_tokens: int = 8
    stall_every_s: float = 0.0
    stall_s: float = 0.0
    """Every ``stall_every_s`` seconds the engine makes no step for ``stall_s`` seconds."""
    crash_after_requests: int = 0
    """The process exits with status 1 when this many generation requests were accepted; 0 is never."""
    crash_at_start: bool = False
    """The process exits with status 1 in the middle of its cold start."""
    slow_start_s: float = 0.0
    """Added to the cold start."""

    def __post_init__(self) -> None:
        for status, rate in self.error_rates.items():
            if not (status.isdigit() and 400 <= int(status) <= 599):
                raise unknown("error status", status, ["400", "429", "500", "503"], where=Where(key="faults.error_rates"))
            _share(rate, f"faults.error_rates.{status}")
        _share(sum(self.error_rates.values()), "faults.error_rates")
        _share(self.abort_rate, "faults.abort_rate")


@dataclass(frozen=True)
class SimSpec:
    """A simulated deployment: everything the server needs, and nothing it would look up elsewhere."""

    gpu: GpuSpec
    model: ModelSpec
    engine: EngineArgs = field(default_factory=EngineArgs)
    cold_start: ColdStart = field(default_factory=ColdStart)
    faults: Faults = field(default_factory=Faults)
    served_model_name: str = ""
    """What clients call the model; empty is ``model.name``."""
    seed: int = 0
    api_overhead_s: float = 0.005
    """HTTP, tokenisation and process hops before the engine sees a request."""
    step_noise_fraction: float = 0.0
    """Relative standard deviation of a step's duration."""
    slowdown: float = 1.0
    """A factor on every step's duration: an engine that does the same with the same arguments, but slower."""
    natural_output_tokens: int = 200
    """Median length of an answer that may end by itself (without ``ignore_eos``)."""

    def __post_init__(self) -> None:
        _positive(self.slowdown, "slowdown")

    @property
    def model_id(self) -> str:
        """The name in /v1/models and in metric labels."""
        return self.served_model_name or self.model.name

    def resolve(self) -> EngineConfig:
        """The engine arguments with vLLM's defaults for this GPU and model."""
        return self.engine.resolve(self.gpu, self.model)

    def to_json(self) -> str:
        """A JSON document that ``from_json`` reads back as an equal spec."""
        return json.dumps(encode(self), indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> SimSpec:
        """The spec of a JSON document. Raises ``ConfigError``."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"the simulator's spec is not JSON: {error}") from None
        return decode(cls, document)


def _num_gpu_blocks(config: EngineConfig, gpu: GpuSpec, model: ModelSpec) -> int:
    """KV blocks that fit beside weights, activations and graphs (docs/simulator.md)."""
    tp = config.tensor_parallel_size
    budget = config.max_num_batched_tokens
    weights = model.total_weight_bytes / tp
    # The profiling run's peak: float32 logits (vLLM never profiles more than about 8k rows) and the widest activations.
    activation = (min(budget, 8192) * model.vocab_size * 4 + budget * 40 * model.hidden_size) / tp
    outside_torch = (600 if tp == 1 else 1536) * 2**20
    graphs = 0.5 * GIB
    free = gpu.memory_bytes * config.gpu_memory_utilization - weights - activation - outside_torch - graphs
    # Below one KV head per GPU the heads are replicated, so the share per GPU stops shrinking.
    kv_bytes_per_token = model.kv_bytes_per_token / min(tp, model.n_kv_heads)
    blocks = int(free // (kv_bytes_per_token * config.block_size))
    if blocks * config.block_size < config.max_model_len:
        needed = config.max_model_len * kv_bytes_per_token / GIB
        raise ConfigError(
            f"{model.name} on {tp}x {gpu.name}: {max(free, 0) / GIB:.1f} GiB are left for the KV cache, and one request "
            f"of max_model_len {config.max_model_len} needs {needed:.1f} GiB",
            hint="Lower max_model_len, raise gpu_memory_utilization or tensor_parallel_size, or take a smaller model.",
        )
    return blocks


def _bad(argument: str, problem: str) -> ConfigError:
    return ConfigError(problem, where=Where(key=f"engine.{argument}"))


def _positive(value: float, key: str) -> None:
    if not value > 0:
        raise ConfigError(f"must be more than 0, got {value!r}", where=Where(key=key))


def _share(value: float, key: str) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"must be between 0 and 1, got {value!r}", where=Where(key=key))
