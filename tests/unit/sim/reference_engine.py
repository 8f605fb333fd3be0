"""The scheduler written out the slow way: every request is looked at in every step, blocks are counted, not named.

It has no prefix cache. What it does each step is what the real engine must do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_llmperf.sim.spec import EngineConfig
from pytest_llmperf.sim.steptime import StepLoad, StepTimeModel, attention_pairs


@dataclass(eq=False)
class Sequence:
    request_id: int
    prompt: int
    output: int
    computed: int = 0
    produced: int = 0
    n_blocks: int = 0
    token_times_s: list[float] = field(default_factory=list)


class ReferenceEngine:
    def __init__(self, config: EngineConfig, times: StepTimeModel) -> None:
        self.config = config
        self.times = times
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.free = config.num_gpu_blocks
        self.n_preemptions = 0

    def _missing(self, sequence: Sequence, tokens: int) -> int:
        return -(-tokens // self.config.block_size) - sequence.n_blocks

    def _take(self, sequence: Sequence, tokens: int) -> None:
        count = self._missing(sequence, tokens)
        self.free -= count
        sequence.n_blocks += count

    def _release(self, sequence: Sequence) -> None:
        self.free += sequence.n_blocks
        sequence.n_blocks = 0

    def step(self, now_s: float) -> float:
        """One iteration; the time it ends."""
        budget = self.config.max_num_batched_tokens
        scheduled: list[tuple[Sequence, int]] = []
        preempted = False
        for sequence in list(self.running):
            if sequence not in self.running:
                continue
            tokens = min(sequence.prompt + sequence.produced - sequence.computed, budget)
            while tokens and self._missing(sequence, sequence.computed + tokens) > self.free:
                victim = self.running.pop()
                self._release(victim)
                victim.computed = 0
                self.waiting.insert(0, victim)
                self.n_preemptions += 1
                preempted = True
                if victim is sequence:
                    break
            if sequence in self.running and tokens:
                self._take(sequence, sequence.computed + tokens)
                scheduled.append((sequence, tokens))
                budget -= tokens
        while not preempted and self.waiting and budget and len(self.running) < self.config.max_num_seqs:
            sequence = self.waiting[0]
            total = sequence.prompt + sequence.produced
            if self._missing(sequence, total) > self.free:
                break
            if not self.config.enable_chunked_prefill and total > budget:
                break
            self.waiting.pop(0)
            self.running.append(sequence)
            tokens = min(total, budget)
            self._take(sequence, tokens)
            scheduled.append((sequence, tokens))
            budget -= tokens
        end_s = now_s + self._duration_s(scheduled)
        for sequence, tokens in scheduled:
            sequence.computed += tokens
            if sequence.computed == sequence.prompt + sequence.produced:
                sequence.produced += 1
                sequence.token_times_s.append(end_s)
                if sequence.produced == sequence.output:
                    self._release(sequence)
                    self.running.remove(sequence)
        return end_s

    def _duration_s(self, scheduled: list[tuple[Sequence, int]]) -> float:
        decoding = [s for s, tokens in scheduled if tokens == 1]
        chunks = [(s, tokens) for s, tokens in scheduled if tokens > 1]
        return self.times.step_s(
            StepLoad(
                n_decodes=len(decoding),
                decode_context_tokens=sum(s.computed + 1 for s in decoding),
                prefill_tokens=sum(tokens for _, tokens in chunks),
                prefill_attention_pairs=sum(attention_pairs(s.computed, tokens) for s, tokens in chunks),
                prefill_context_tokens=sum(s.computed for s, _ in chunks),
                n_prefills=len(chunks),
            )
        )
