"""What flowed through the measured window. Credited on arrival, whoever had asked for it.

A flow is not a property of the requests counted: the tokens that requests of the warm-up still receive after the window
opened are as much of the server's output as those that the last requests receive after it closed are not. Leaving the former
out would understate every throughput by about one response's length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.latencies import PIECE, answered_s

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, LoadResult


BLOCKS = 20
_SHORTEST_BLOCK_S = 0.25
_FEWEST_EVENTS = 100


@dataclass(frozen=True)
class Flow:
    """A rate over the window, per second; nan where the window has no length, and of tokens that nobody counted."""

    per_s: float
    blocks_per_s: Floats
    """The rates of 20 equal stretches of the window, shape (20,), in order."""
    events: float
    """What flowed in all: tokens, or requests."""
    window_s: float

    @property
    def is_long_enough(self) -> bool:
        """Whether its stretches say how steady it was: a quarter of a second each, and 100 events in all."""
        return self.window_s >= BLOCKS * _SHORTEST_BLOCK_S and self.events >= _FEWEST_EVENTS


@dataclass(frozen=True)
class Throughput:
    """Answers completed; prompt tokens (whose first output token arrived), output tokens, and both, within the window."""

    requests: Flow
    input_tokens: Flow
    output_tokens: Flow
    total_tokens: Flow


def throughput(result: LoadResult) -> Throughput:
    """What flowed through the run's window."""
    log = result.log
    ok = log.outcome == Outcome.OK
    # A body that came whole (not streamed) has no chunks; all its tokens arrived with its end.
    whole = ok & (np.diff(log.chunk_start) == 0)
    read_s = np.where(np.isnan(log.first_token_s) & ok, log.end_s, log.first_token_s)
    output = _arrived(result, log.chunk_s, log.chunk_tokens) + _arrived(result, log.end_s[whole], log.output_tokens[whole])
    prompt = _arrived(result, read_s, log.prompt_tokens)
    # A text has a token at least, and so has a prompt: 0 is what nobody has counted.
    output = np.full(BLOCKS, math.nan) if np.any(log.output_tokens[ok & ~whole] == 0) else output
    prompt = np.full(BLOCKS, math.nan) if np.any(log.prompt_tokens[ok] == 0) else prompt
    answers = answered_s(log)[ok]
    completed = _arrived(result, answers, np.ones(len(answers)))
    length = result.window_end_s - result.window_start_s
    return Throughput(_flow(completed, length), _flow(prompt, length), _flow(output, length), _flow(output + prompt, length))


def _arrived(result: LoadResult, times_s: Floats, amounts: NDArray[Any]) -> Floats:
    """The amounts by the stretch of the window in which they arrived, shape (20,)."""
    opened_s, length = result.window_start_s, result.window_end_s - result.window_start_s
    arrived = np.zeros(BLOCKS)
    if not length > 0:
        return arrived
    for start in range(0, len(times_s), PIECE):
        at_s = times_s[start : start + PIECE]
        inside = (at_s >= opened_s) & (at_s <= result.window_end_s)
        block = np.minimum(((at_s[inside] - opened_s) * (BLOCKS / length)).astype(np.int64), BLOCKS - 1)
        arrived += np.bincount(block, weights=amounts[start : start + PIECE][inside], minlength=BLOCKS)
    return arrived


def _flow(arrived: Floats, length: float) -> Flow:
    events = float(arrived.sum())
    if not length > 0:
        return Flow(math.nan, np.full(BLOCKS, math.nan), events, length)
    return Flow(events / length, arrived * (BLOCKS / length), events, length)
