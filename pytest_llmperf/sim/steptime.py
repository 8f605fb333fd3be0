"""How long one engine step takes: pure functions of the model, the GPUs and what the step computes.

The formula (docs/simulator.md)::

    decode  = (W + sum KV(ctx)) / (TP * eff * BW) + L * (overhead + sequence * batch) + 2 * L * AR(TP, batch * d * 2 B)
    prefill = FLOPs / (TP * mfu * peak) + L * token * N + 2 * L * AR(TP, N * d * 2 B)

joined for a chunked-prefill step, where the prompt's FLOPs come on top of the decode they share the step with: a
step with few prompt tokens still streams all weights, which is what makes the MFU fall below 512 tokens.
Units: seconds, bytes, tokens, FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_llmperf.sim.allreduce import allreduce_s
from pytest_llmperf.sim.spec import GpuSpec, ModelSpec

ACTIVATION_BYTES = 2.0
"""All-reduced activations are 16-bit whatever the weights are."""
ROOFLINE_SHARPNESS = 3.0
"""GEMMs near the ridge (100-300 tokens) are slower than either bound alone; the p of a p-norm over both."""


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step computes."""

    n_decodes: int = 0
    """Sequences that decode one token each."""
    decode_context_tokens: int = 0
    """KV entries those sequences read, summed."""
    prefill_tokens: int = 0
    prefill_attention_pairs: float = 0.0
    """Query-key pairs of the prompt chunks: chunk * start + chunk^2 / 2, summed."""
    prefill_context_tokens: int = 0
    """KV entries the chunks read that earlier steps (or the prefix cache) computed."""
    n_prefills: int = 0


def attention_pairs(start: int, tokens: int) -> float:
    """Query-key pairs of a causal chunk of ``tokens`` that starts at position ``start``."""
    return tokens * start + tokens * tokens / 2


class StepTimeModel:
    """The formula with all constants of one deployment folded in; ``step_s`` and ``decode_s`` are what it answers."""

    def __init__(self, model: ModelSpec, gpu: GpuSpec, tensor_parallel_size: int) -> None:
        self._model = model
        self._gpu = gpu
        self._tp = tp = tensor_parallel_size
        bandwidth = tp * gpu.effective_bandwidth_bytes_per_s
        flops = tp * gpu.effective_flops_per_s(model.precision)
        dense_params = model.layer_params - model.expert_params
        head_bytes = model.embedding_params * model.embedding_bytes_per_param
        self._dense_read_s = (dense_params * model.weight_bytes_per_param + head_bytes) / bandwidth
        self._expert_read_s = model.expert_params * model.weight_bytes_per_param / bandwidth
        # Below one KV head per GPU the heads are replicated: each GPU then reads more than its 1/TP share.
        self._kv_read_s = model.kv_bytes_per_token / bandwidth * tp / min(tp, model.n_kv_heads)
        self._layer_token_s = 2 * model.active_layer_params / flops
        self._prompt_token_s = self._layer_token_s + model.n_layers * gpu.token_overhead_s
        self._head_token_s = 2 * model.embedding_params / (tp * gpu.effective_flops_per_s("bf16"))
        # 4 = two products (scores, values) of two FLOPs per pair and element.
        self._pair_s = 4 * model.n_layers * model.n_heads * model.head_dim / flops
        self._fixed_s = model.n_layers * gpu.layer_overhead_s
        self._sequence_s = model.n_layers * gpu.sequence_overhead_s
        self._decode_base_s: dict[int, float] = {}

    def weights_read_s(self, n_tokens: int) -> float:
        """Streaming the weights that ``n_tokens`` touch: all dense ones, and of the experts those that are routed to."""
        if not self._expert_read_s:
            return self._dense_read_s
        share = self._model.n_experts_per_token / self._model.n_experts
        return self._dense_read_s + self._expert_read_s * (1.0 - (1.0 - share) ** n_tokens)

    def allreduce_s(self, n_tokens: int) -> float:
        """The two all-reduces of every layer, each of ``n_tokens`` activations."""
        message_bytes = n_tokens * self._model.hidden_size * ACTIVATION_BYTES
        return 2 * self._model.n_layers * allreduce_s(self._gpu.interconnect, self._tp, message_bytes)

    def decode_s(self, n_decodes: int, context_tokens: int) -> float:
        """Seconds of a step that only decodes, ``context_tokens`` KV entries in all."""
        base = self._decode_base_s.get(n_decodes)
        if base is None:
            base = self._decode_base_s[n_decodes] = self._base_s(n_decodes, 0, 0)
        return base + context_tokens * self._kv_read_s

    def step_s(self, load: StepLoad) -> float:
        """Seconds of a step, decodes and prompt chunks together."""
        context = load.decode_context_tokens + load.prefill_context_tokens
        return (
            self._base_s(load.n_decodes, load.n_prefills, load.prefill_tokens)
            + context * self._kv_read_s
            + load.prefill_attention_pairs * self._pair_s
        )

    def _base_s(self, n_decodes: int, n_prefills: int, prefill_tokens: int) -> float:
        """All that does not depend on context lengths."""
        n_sequences = n_decodes + n_prefills
        n_tokens = n_decodes + prefill_tokens
        read_s = self.weights_read_s(n_tokens)
        compute_s = n_decodes * self._layer_token_s + n_sequences * self._head_token_s
        gemm_s: float = (read_s**ROOFLINE_SHARPNESS + compute_s**ROOFLINE_SHARPNESS) ** (1 / ROOFLINE_SHARPNESS)
        overhead_s = self._fixed_s + self._sequence_s * n_sequences
        return gemm_s + prefill_tokens * self._prompt_token_s + overhead_s + self.allreduce_s(n_tokens)
