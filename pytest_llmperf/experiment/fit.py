"""Whether a cell's model can be served on its hardware at all: weights and a minimal KV cache against memory.

The estimate follows what vLLM does at start (``determine_available_memory``): from the share of device memory it may use it
takes the weights, the peak of activations in a profiling step and what CUDA needs; the rest is KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.experiment.records import Cell, Hardware, MemoryPolicy, Model, Precision
from pytest_llmperf.units import parse_fraction

_GIB = 2**30
_BYTES_PER_PARAMETER: dict[Precision, float] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int4": 0.5}
# vLLM's defaults of max_num_batched_tokens for `vllm serve`, by class of GPU.
_BATCHED_TOKENS = {"large": 8192, "small": 2048}
# The profiling step samples at most this many rows of logits.
_MOST_LOGIT_ROWS = 8192


@dataclass(frozen=True)
class Fit:
    """``ok``, or the ``reason`` why not (empty when ok). Bytes are of all the cell's accelerators together.

    ``available_bytes`` is what weights and KV cache may take; ``kv_tokens`` how many tokens of context find room beside the
    weights. ``dtype`` is what the engine must be told to compute in.
    """

    ok: bool
    reason: str
    weight_bytes: float
    kv_bytes_per_token: float
    available_bytes: float
    dtype: Literal["bfloat16", "float16"]

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV cache beside the weights; 0 where even the weights find no room."""
        return max(0, int((self.available_bytes - self.weight_bytes) // self.kv_bytes_per_token))


def weight_bytes(model: Model, precision: Precision) -> float:
    """Bytes of all weights: parameters x bytes of the precision.

    Quantisation leaves the embedding table and (unless tied) the output head at 16 bit, as vLLM and the published
    checkpoints do: Llama 3.3 70B in fp8 is 72.7 GB, not 70.6.
    """
    tables = min((1 if model.tied_embeddings else 2) * model.vocab_size * model.hidden_size, model.params_total)
    return tables * 2.0 + (model.params_total - tables) * _BYTES_PER_PARAMETER[precision]


def kv_bytes_per_token(model: Model, bytes_per_element: float = 2.0, tensor_parallel: int = 1) -> float:
    """Bytes of one token's keys and values over all accelerators: 2 x layers x KV heads x head size x element size.

    Where there are more accelerators than KV heads, the heads are replicated: one on each.
    """
    return 2.0 * model.layers * max(model.kv_heads, tensor_parallel) * model.head_dim * bytes_per_element


def activation_bytes(hardware: Hardware, model: Model) -> float:
    """Peak of a profiling step over all accelerators: float32 logits, and the widest activations of the batch.

    40 bytes x hidden size a token covers the residual stream and the MLP's intermediates in 16 bit. It gives 1.3 GiB for an 8B
    model with 2048 tokens a step and 5.2 GiB with 8192, where 1.3 and 4.8 GiB were measured.
    """
    tokens = _BATCHED_TOKENS[hardware.engine_class]
    return min(tokens, _MOST_LOGIT_ROWS) * model.vocab_size * 4.0 + tokens * 40.0 * model.hidden_size


def fits(cell: Cell, policy: MemoryPolicy | None = None) -> Fit:
    """Whether the cell can be served, and the numbers it was decided by. Tensor parallelism is over all its accelerators."""
    policy = policy or MemoryPolicy()
    hardware, model = cell.hardware, cell.model
    count = hardware.count
    share = cell.variant.engine_arg("gpu-memory-utilization")
    utilization = policy.gpu_memory_utilization if share is None else parse_fraction(share)
    outside_torch = policy.outside_torch if count == 1 else policy.outside_torch_parallel
    usable = hardware.memory * utilization - outside_torch - policy.cuda_graphs
    weights = weight_bytes(model, cell.precision)
    kv_element = 1.0 if str(cell.variant.engine_arg("kv-cache-dtype") or "").startswith("fp8") else 2.0
    kv = kv_bytes_per_token(model, kv_element, count)
    available = max(0.0, usable * count - activation_bytes(hardware, model))
    reason = _cannot_run(cell)
    kv_needed = kv * policy.min_context_tokens
    if not reason and weights + kv_needed > available:
        reason = (
            f"{model.name} in {cell.precision} needs {_gib(weights)} of weights + {_gib(kv_needed)} of KV cache "
            f"(one request of {policy.min_context_tokens} tokens); {hardware.id} offers {_gib(available)} "
            f"of {_gib(hardware.memory * count)}"
        )
    dtype: Literal["bfloat16", "float16"] = "bfloat16" if hardware.supports_bf16 and cell.precision != "fp16" else "float16"
    return Fit(not reason, reason, weights, kv, available, dtype)


def _cannot_run(cell: Cell) -> str:
    """What rules a cell out before memory is counted; empty where nothing does."""
    hardware, model = cell.hardware, cell.model
    if cell.precision == "fp8" and hardware.fp8_flops is None:
        return f"{hardware.name} has no FP8 units, and {cell.variant.name!r} runs {model.name} in fp8"
    if hardware.count > 1 and hardware.interconnect == "none":
        return f"{hardware.name} slices have no path to each other, so tensor parallelism over {hardware.count} is not possible"
    if model.heads % hardware.count:
        return f"{model.name} has {model.heads} attention heads, which {hardware.count} accelerators cannot share evenly"
    return ""


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
