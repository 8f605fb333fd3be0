"""The engine: vLLM's continuous batching as a pure state machine that a clock drives.

One call of ``step`` is one iteration: running requests first, then waiting ones in order of arrival, within
``max_num_seqs`` and ``max_num_batched_tokens``; prompts in chunks; blocks token by token; when blocks run out the
youngest running request is preempted and recomputed later (docs/simulator.md).

A step costs only what changes in it. A decoding request gets a token in every step, so its tokens, its next block and
its last step are known when it begins to decode: requests wait in buckets by the step that touches them, and the sum
of context lengths is kept, not summed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pytest_llmperf.sim.kvcache import BlockPool
from pytest_llmperf.sim.request import FinishReason, KeySource, Request, Step
from pytest_llmperf.sim.spec import SimSpec
from pytest_llmperf.sim.steptime import StepLoad, StepTimeModel, attention_pairs


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine began."""

    n_steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    n_preemptions: int = 0
    n_finished: int = 0
    n_aborted: int = 0


class Engine:
    """Requests go in with ``add_request``; every ``step`` says which of them got a token and when."""

    def __init__(self, spec: SimSpec, seed: int | None = None) -> None:
        self.config = spec.resolve()
        self.step_time = StepTimeModel(spec.model, spec.gpu, self.config.tensor_parallel_size)
        self.pool = BlockPool(self.config.num_gpu_blocks)
        self.stats = EngineStats()
        self._random = random.Random(spec.seed if seed is None else seed)
        self._noise = spec.step_noise_fraction
        self._slowdown = spec.slowdown
        self._block_size = self.config.block_size
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}
        self._prefilling: list[Request] = []
        self._decoding: dict[int, Request] = {}
        self._decode_context = 0
        self._block_due: list[dict[int, Request]] = [{} for _ in range(self._block_size)]
        """Bucket s holds the decoding requests that need a block in steps congruent to s modulo the block size."""
        self._finish_due: dict[int, dict[int, Request]] = {}
        self._next_step = 0
        self._next_order = 0

    @property
    def n_running(self) -> int:
        """Admitted requests."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue, preempted ones included."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    def add_request(
        self,
        request_id: int,
        prompt_tokens: int,
        output_tokens: int,
        arrival_s: float,
        *,
        finish_reason: FinishReason = "length",
        prefix_keys: Sequence[Hashable] = (),
        key_source: KeySource | None = None,
        payload: object = None,
        max_tokens: int = 0,
    ) -> Request:
        """Queue a request; it is considered from the next step on."""
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError(f"a request needs at least one token in and out, got {prompt_tokens} and {output_tokens}")
        if prompt_tokens + output_tokens > self.config.max_model_len:
            raise ValueError(f"{prompt_tokens} + {output_tokens} tokens exceed max_model_len {self.config.max_model_len}")
        request = Request(
            request_id,
            prompt_tokens,
            output_tokens,
            arrival_s,
            finish_reason,
            prefix_keys,
            key_source,
            payload,
            max_tokens or output_tokens,
        )
        self._waiting.append(request)
        return request

    def abort(self, request: Request) -> None:
        """Forget a request and free its blocks, as when its client went away; a finished one is left alone."""
        if request.finished_s is not None or request.finish_reason == "abort":
            return
        request.finish_reason = "abort"
        self.stats.n_aborted += 1
        if request.request_id in self._running:
            self._stop_running(request, keep_cached=True)
        elif request in self._waiting:
            self._waiting.remove(request)

    def step(self, now_s: float) -> Step | None:
        """One iteration that begins at ``now_s``; None where there is nothing to do."""
        if not self.has_work:
            return None
        preempted: list[Request] = []
        self._allocate_for_decodes(preempted)
        chunks = self._continue_prefills(preempted)
        admitted = [] if preempted else self._admit(now_s, chunks)
        decoded = list(self._decoding.values())
        prefill_tokens = sum(tokens for _, tokens in chunks)
        end_s = now_s + self._duration_s(chunks)
        index = self._next_step
        self._next_step = index + 1
        self._decode_context += len(decoded)
        finished = list(self._finish_due.pop(index, {}).values()) if self._finish_due else []
        first_tokens = self._complete_chunks(chunks, index, end_s, finished)
        for request in finished:
            self._finish(request, end_s)
        self.stats.n_steps += 1
        self.stats.generation_tokens += len(decoded) + len(first_tokens)
        return Step(index, now_s, end_s, decoded, first_tokens, finished, preempted, admitted, prefill_tokens)

    def _duration_s(self, chunks: list[tuple[Request, int]]) -> float:
        n_decodes, context = len(self._decoding), self._decode_context
        # A chunk of one token is a decode to the kernels, whatever it is to the scheduler.
        prompts = [(request, tokens) for request, tokens in chunks if tokens > 1]
        for request, tokens in chunks:
            if tokens == 1:
                n_decodes += 1
                context += request.computed_tokens + 1
        if not prompts:
            duration = self.step_time.decode_s(n_decodes, context)
        else:
            load = StepLoad(
                n_decodes=n_decodes,
                decode_context_tokens=context,
                prefill_tokens=sum(tokens for _, tokens in prompts),
                prefill_attention_pairs=sum(attention_pairs(item.computed_tokens, tokens) for item, tokens in prompts),
                prefill_context_tokens=sum(request.computed_tokens for request, _ in prompts),
                n_prefills=len(prompts),
            )
            duration = self.step_time.step_s(load)
        duration *= self._slowdown
        return duration * max(0.2, 1.0 + self._noise * self._random.gauss(0.0, 1.0)) if self._noise else duration

    def _allocate_for_decodes(self, preempted: list[Request]) -> None:
        """A block for each decoding request whose next token begins one."""
        due = self._block_due[self._next_step % self._block_size]
        if len(due) <= self.pool.n_free:
            for request in due.values():
                request.blocks += self.pool.allocate(1)
            return
        for request in sorted(due.values(), key=lambda item: item.running_order):
            # A request that was preempted for an earlier one in this loop is not in its bucket any more.
            if request.request_id in due and self._make_room(request, 1, preempted):
                request.blocks += self.pool.allocate(1)

    def _make_room(self, request: Request, n_blocks: int, preempted: list[Request]) -> bool:
        """Preempt from the end of the running requests until the blocks are free; False if it took the request itself."""
        while self.pool.n_free < n_blocks:
            victim = next(reversed(self._running.values()))
            self._preempt(victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self._stop_running(request, keep_cached=True)
        request.n_preemptions += 1
        request.computed_tokens = 0
        self.stats.n_preemptions += 1
        self._waiting.appendleft(request)

    def _continue_prefills(self, preempted: list[Request]) -> list[tuple[Request, int]]:
        """The next chunk of each prompt that is partly computed."""
        chunks: list[tuple[Request, int]] = []
        budget = self.config.max_num_batched_tokens - len(self._decoding)
        for request in list(self._prefilling):
            tokens = min(self._chunk(request.total_tokens - request.computed_tokens), budget)
            if tokens <= 0 or request.request_id not in self._running:
                continue
            needed = self._blocks_for(request.computed_tokens + tokens) - len(request.blocks)
            if not self._make_room(request, needed, preempted):
                continue
            request.blocks += self.pool.allocate(max(needed, 0))
            chunks.append((request, tokens))
            budget -= tokens
        return [(request, tokens) for request, tokens in chunks if request.request_id in self._running]

    def _admit(self, now_s: float, chunks: list[tuple[Request, int]]) -> list[Request]:
        """Waiting requests in order, until the budget, the sequences or the blocks run out; no skipping ahead."""
        admitted: list[Request] = []
        if not self._waiting:
            return admitted
        budget = self.config.max_num_batched_tokens - len(self._decoding) - sum(tokens for _, tokens in chunks)
        while self._waiting and budget > 0 and len(self._running) < self.config.max_num_seqs:
            request = self._waiting[0]
            cached = self._cached_blocks(request)
            n_cached_tokens = len(cached) * self._block_size
            remaining = request.total_tokens - n_cached_tokens
            if not self.config.enable_chunked_prefill and remaining > budget:
                break
            # The whole prompt must fit now, though blocks are only taken for this step's chunk.
            needed = self._blocks_for(request.total_tokens) - len(cached)
            if needed > self.pool.n_free - sum(map(self.pool.is_idle, cached)):
                break
            self._waiting.popleft()
            tokens = min(self._chunk(remaining), budget)
            self._start(request, cached, tokens, now_s)
            admitted.append(request)
            chunks.append((request, tokens))
            budget -= tokens
        return admitted

    def _start(self, request: Request, cached: list[int], tokens: int, now_s: float) -> None:
        self.pool.acquire(cached)
        request.computed_tokens = len(cached) * self._block_size
        request.n_published = len(cached)
        new_blocks = self._blocks_for(request.computed_tokens + tokens) - len(cached)
        request.blocks = cached + self.pool.allocate(new_blocks)
        request.running_order = self._next_order
        self._next_order += 1
        self._running[request.request_id] = request
        self._prefilling.append(request)
        if request.scheduled_s is None:
            request.scheduled_s = now_s
            request.cached_tokens = request.computed_tokens
            self.stats.prompt_tokens += request.prompt_tokens
            if self.config.enable_prefix_caching:
                self.stats.prefix_query_tokens += request.prompt_tokens
                self.stats.prefix_hit_tokens += request.cached_tokens

    def _cached_blocks(self, request: Request) -> list[int]:
        """Blocks of the longest cached prefix; the last token is always computed, for its logits."""
        if not self.config.enable_prefix_caching or not (request.prefix_keys or request.key_source or request.n_preemptions):
            return []
        if request.n_preemptions:
            return self.pool.lookup(request.keys(request.total_tokens - 1, self._block_size))
        return self.pool.lookup(request.prefix_keys[: (request.prompt_tokens - 1) // self._block_size])

    def _complete_chunks(
        self, chunks: list[tuple[Request, int]], index: int, end_s: float, finished: list[Request]
    ) -> list[Request]:
        """Advance the prompts; those that are complete have their first (or next) token."""
        first_tokens: list[Request] = []
        for request, tokens in chunks:
            request.computed_tokens += tokens
            self._publish(request, request.computed_tokens, request.prefix_keys)
            if request.computed_tokens < request.total_tokens:
                continue
            self._prefilling.remove(request)
            first_tokens.append(request)
            request.segments.append((index, 0))
            if request.first_token_s is None:
                request.first_token_s = end_s
            self._begin_decode(request, index)
            if request.output_tokens == request.produced_tokens:
                finished.append(request)
        return first_tokens

    def _begin_decode(self, request: Request, index: int) -> None:
        """Put the request into the buckets of the steps that will touch it."""
        request.produced_tokens += 1
        request.decode_from_step = first = index + 1
        self._decoding[request.request_id] = request
        self._decode_context += request.computed_tokens + 1
        self._block_due[(first - request.computed_tokens) % self._block_size][request.request_id] = request
        last = index + request.output_tokens - request.produced_tokens
        self._finish_due.setdefault(last, {})[request.request_id] = request

    def _end_decode(self, request: Request) -> None:
        """Take the request out of its buckets and write down how far it got, before the step that comes next."""
        n_decoded = self._next_step - request.decode_from_step
        bucket = (request.decode_from_step - request.computed_tokens) % self._block_size
        last = request.decode_from_step - 1 + request.output_tokens - request.produced_tokens
        del self._decoding[request.request_id]
        del self._block_due[bucket][request.request_id]
        due = self._finish_due.get(last)
        if due is not None:
            due.pop(request.request_id, None)
            if not due:
                del self._finish_due[last]
        request.computed_tokens += n_decoded
        request.produced_tokens += n_decoded
        request.decode_from_step = -1
        self._decode_context -= request.computed_tokens + 1
        request.segments[-1] = (request.segments[-1][0], n_decoded + 1)

    def _stop_running(self, request: Request, *, keep_cached: bool) -> None:
        """Free what the request holds; with ``keep_cached`` its own full blocks stay findable until they are evicted."""
        if request.decode_from_step >= 0:
            self._end_decode(request)
        else:
            self._prefilling.remove(request)
        if keep_cached or request.key_source is not None:
            self._publish(request, request.computed_tokens, request.keys(request.computed_tokens, self._block_size))
        self.pool.release(request.blocks)
        request.blocks = []
        del self._running[request.request_id]

    def _publish(self, request: Request, n_tokens: int, keys: Sequence[Hashable]) -> None:
        if not self.config.enable_prefix_caching or len(keys) <= request.n_published:
            return
        full = min(n_tokens // self._block_size, len(keys))
        self.pool.publish(request.blocks, keys[:full], request.n_published)
        request.n_published = max(full, request.n_published)

    def _finish(self, request: Request, end_s: float) -> None:
        self._stop_running(request, keep_cached=False)
        request.finished_s = end_s
        self.stats.n_finished += 1

    def _chunk(self, tokens: int) -> int:
        threshold = self.config.long_prefill_token_threshold
        return min(tokens, threshold) if threshold else tokens

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)
