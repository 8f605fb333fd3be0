"""Published TPOT measurements, one row each, with the load they were taken under.

``source`` is the anchor of the collected reference points: B1..B8, 2.1 (open loop), 4 (derived table), check (points
that were not used for the fit). Left out, because the simulator models the V1 engine with CUDA graphs:

* vLLM 0.9.0 V0 rows of 2.1, and 0.7.3 rows on fast GPUs (H100 7.74, A100-40 14.27, A100-80 13.19, 8x A100-40 70B 20.93,
  the 0.7.3 rows of B6): that engine adds 1 to 3 ms of host time to each step. On L4, A10G and RTX 6000 Ada a step is so
  long that host time hides behind it, so their single-stream rows stay, as they do among the check points.
* V100S: eager mode.
* B7: prefill and offline batches of vLLM 0.6, no TPOT; its prefill times are checked in test_steptime.py.
* the rows of 2.1 that are duplicates of B2, and the quantisation and EAGLE files the page calls unusable.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_llmperf.sim.spec import SimSpec
from pytest_llmperf.sim.virtual import Arrival, VirtualRun, closed_loop, open_loop

from .cells import EngineArg, spec


@dataclass(frozen=True)
class Row:
    """One measured point. Give ``rate_per_s`` (constant, open loop) or ``concurrency`` (closed loop)."""

    source: str
    gpu: str
    model: str
    prompt_tokens: int
    output_tokens: int
    measured_tpot_ms: float
    tensor_parallel_size: int = 1
    fp8: bool = False
    concurrency: int = 0
    rate_per_s: float = 0.0
    args: Mapping[str, EngineArg] = field(default_factory=dict)
    shared_prompt: bool = False
    """All requests send the same prompt, so the prefix cache answers its full blocks."""
    output_spread: int = 0
    """Output lengths are uniform within this many tokens of ``output_tokens``."""
    bound: float = 0.25
    """The largest relative error this row may have."""

    @property
    def name(self) -> str:
        load = f"c{self.concurrency}" if self.concurrency else f"{self.rate_per_s:g}rps"
        precision = "-fp8" if self.fp8 else ""
        return f"{self.source}-{self.gpu}-tp{self.tensor_parallel_size}-{self.model}{precision}-{load}"

    @property
    def spec(self) -> SimSpec:
        args = {"max_model_len": max(2048, self.prompt_tokens + self.output_tokens), **self.args}
        return spec(self.gpu, self.model, self.tensor_parallel_size, fp8=self.fp8, **args)

    def run(self) -> VirtualRun:
        n_requests = max(2 if self.concurrency == 1 else 24, 4 * self.concurrency, round(20 * self.rate_per_s))
        n_blocks = self.prompt_tokens // self.spec.engine.block_size if self.shared_prompt else 0
        keys = tuple(("shared", block) for block in range(n_blocks))
        draw = random.Random(1)
        arrivals = [
            Arrival(
                at_s=index / self.rate_per_s if self.rate_per_s else 0.0,
                prompt_tokens=self.prompt_tokens,
                output_tokens=self.output_tokens + draw.randint(-self.output_spread, self.output_spread),
                prefix_keys=keys,
            )
            for index in range(n_requests)
        ]
        if self.concurrency:
            return closed_loop(self.spec, arrivals, self.concurrency)
        return open_loop(self.spec, arrivals)

    def simulated_tpot_ms(self) -> float:
        requests = self.run().requests
        return 1e3 * sum(request.tpot_s for request in requests) / len(requests)


# Without chunked prefill the V1 scheduler still fills a step with decodes first and whole prompts after (6.2). 2.1's remark that
# prompts run alone does not hold against its own rows: past the knee, where 20 ms and 101 to 103 requests/s were measured,
# this formula gives 19.5 ms and 101 requests/s with mixed steps, but 23.5 ms and 85 requests/s with prompts in steps alone.
_OPEN: Mapping[str, EngineArg] = {
    "max_num_seqs": 128,
    "max_model_len": 512,
    "gpu_memory_utilization": 0.9,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": False,
}
# 73 GB of weights on each 80 GB GPU leave no room at the default 0.92.
_TIGHT = {"gpu_memory_utilization": 0.95}
_C64 = {"max_num_seqs": 64}


def _open(rate_per_s: float, measured: float, *, bound: float = 0.25) -> Row:
    return Row("2.1", "h100", "llama-3.1-8b", 204, 62, measured, rate_per_s=rate_per_s, args=_OPEN, bound=bound)


def _saturated(source: str, measured: float) -> Row:
    """Past the knee the client's cap of 440 requests in flight makes it a closed loop.

    Answers of exactly one length would keep the 128 sequences in lockstep for ever; the real ones vary a little.
    """
    return Row(source, "h100", "llama-3.1-8b", 204, 62, measured, concurrency=440, args=_OPEN, output_spread=6)


def _scaling(gpu: str, model: str, concurrency: int, measured: dict[int, float], *, fp8: bool) -> list[Row]:
    """Section 4's rows by TP degree, 1k in and 1k out; nominal lengths are 0.9 of that (caveats)."""
    return [
        Row("4", gpu, model, 922, 922, tpot, tensor_parallel_size=tp, fp8=fp8, concurrency=concurrency)
        for tp, tpot in measured.items()
    ]


ROWS = (
    Row("B1", "h100", "llama-3.1-8b", 128, 128, 7.0, concurrency=1, args=_C64),
    # Its TTFT of 26 ms for 64 prompts at once is only possible where the generator repeats its prompt.
    Row("B1", "h100", "llama-3.1-8b", 128, 128, 8.7, concurrency=64, args=_C64, shared_prompt=True),
    _open(1.02, 7.23),
    _open(31.16, 8.42),
    _open(61.24, 10.5),
    _open(91.36, 15.83),
    _saturated("2.1-at-122.59rps", 19.99),
    _saturated("2.1-at-152.98rps", 19.96),
    _saturated("2.1-at-183.38rps", 19.54),
    Row("B3", "a100-80gb", "llama-3.1-8b", 256, 256, 10.77, concurrency=1),
    Row("B3", "l4", "llama-3.1-8b", 256, 128, 61.2, concurrency=1),
    Row("B6", "a100-80gb", "llama-3.1-8b", 28_634, 256, 13.1, concurrency=1),
    Row("B8", "l4", "qwen3-8b", 256, 256, 36.1, fp8=True, concurrency=1),
    Row("B8", "l4", "qwen3-8b", 256, 256, 38.2, fp8=True, concurrency=16, bound=0.30),
    Row("check", "h100", "llama-3.1-8b", 256, 256, 6.48, concurrency=1),
    Row("check", "a100-40gb", "llama-3.1-8b", 512, 256, 13.3, concurrency=1),
    Row("check", "a10g", "llama-3.1-8b", 550, 150, 30.65, concurrency=1),
    Row("check", "rtx-6000-ada", "llama-3.1-8b", 256, 256, 19.21, concurrency=1),
    Row("check", "h100", "qwen2.5-72b", 1024, 128, 30.9, tensor_parallel_size=2, concurrency=1, args=_TIGHT),
    *_scaling("h100", "qwen3-32b", 8, {2: 15.9, 4: 10.6, 8: 7.96}, fp8=False),
    *_scaling("h100", "llama-3.3-70b", 4, {2: 17.41, 4: 11.78, 8: 9.11}, fp8=True),
    *_scaling("h200", "llama-3.3-70b", 4, {1: 21.47, 2: 13.91, 4: 9.85, 8: 7.93}, fp8=True),
    *_scaling("b200", "llama-3.3-70b", 4, {1: 16.34, 2: 10.64, 4: 8.04, 8: 6.32}, fp8=True),
)
