"""A request as the engine sees it, and what one step did."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]
KeySource = Callable[[int], Sequence[Hashable]]


@dataclass(slots=True, eq=False)
class Request:
    """One sequence. Times are on the engine's clock, in seconds; the engine alone writes to it."""

    request_id: int
    prompt_tokens: int
    output_tokens: int
    """How many tokens it will produce, known to the simulator in advance."""
    arrival_s: float
    finish_reason: FinishReason = "length"
    prefix_keys: Sequence[Hashable] = ()
    """Chain keys of the prompt's full blocks that other requests may share."""
    key_source: KeySource | None = None
    """Chain keys of the first n tokens, answer included; without it nobody else can share the answer."""
    payload: object = None
    """The caller's own, for example the connection that waits for the tokens."""
    max_tokens: int = 0
    """What the client asked for, which ``output_tokens`` may fall short of."""

    computed_tokens: int = 0
    """Tokens whose KV entries are in blocks; while it decodes, as of the step it began to."""
    produced_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens the prefix cache answered when the request was first admitted."""
    n_preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    n_published: int = 0
    decode_from_step: int = -1
    """The step of its first decode since it was last (re)computed; -1 while it does not decode."""
    running_order: int = 0
    segments: list[tuple[int, int]] = field(default_factory=list)
    """Runs of consecutive steps with a token each: (first step, number of tokens)."""
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None

    @property
    def total_tokens(self) -> int:
        """Prompt and answer so far: what must be computed before the next token."""
        return self.prompt_tokens + self.produced_tokens

    def keys(self, n_tokens: int, block_size: int) -> Sequence[Hashable]:
        """Chain keys of the full blocks in the first ``n_tokens``; private ones beyond what others may share."""
        n_blocks = n_tokens // block_size
        shared = self.prefix_keys if self.key_source is None else self.key_source(n_tokens)
        if len(shared) >= n_blocks:
            return shared[:n_blocks]
        return [*shared, *((self.request_id, index) for index in range(len(shared), n_blocks))]


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine iteration did; its tokens exist from ``end_s`` on."""

    index: int
    start_s: float
    end_s: float
    decoded: list[Request]
    """Each got one token, those that are in ``finished`` too."""
    first_tokens: list[Request]
    """Completed their prompt (or their recomputation) and got one token."""
    finished: list[Request]
    preempted: list[Request]
    admitted: list[Request]
    prefill_tokens: int

    @property
    def n_tokens(self) -> int:
        """Tokens that went through the model."""
        return len(self.decoded) + self.prefill_tokens
