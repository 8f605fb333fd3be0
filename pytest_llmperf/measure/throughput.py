"""What flowed through the measured window. Credited on arrival, whoever had asked for it.

A flow is not a property of the requests counted: the tokens that requests of the warm-up still receive after the window
opened are as much of the server's output as those that the last requests receive after it closed are not. Leaving the former
out would understate every throughput by about one response's length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.latencies import answered_s

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats, LoadResult


@dataclass(frozen=True)
class Throughput:
    """Rates over the window, per second; nan where the window has no length."""

    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float


def throughput(result: LoadResult) -> Throughput:
    """The run's rates: answers completed, output tokens, output and prompt tokens that arrived in the window / its length."""
    log, length = result.log, result.window_end_s - result.window_start_s
    if not length > 0:
        return Throughput(math.nan, math.nan, math.nan)

    def inside(times: Floats) -> NDArray[np.bool_]:
        return (times >= result.window_start_s) & (times <= result.window_end_s)

    ok = log.outcome == Outcome.OK
    # A body that came whole (not streamed) has no chunks; all its tokens arrived with its end.
    whole = ok & (np.diff(log.chunk_start) == 0)
    output = int(log.chunk_tokens[inside(log.chunk_s)].sum(dtype=np.int64))
    output += int(log.output_tokens[whole & inside(log.end_s)].sum())
    read_s = np.where(np.isnan(log.first_token_s) & ok, log.end_s, log.first_token_s)
    prompt = int(log.prompt_tokens[inside(read_s)].sum())
    completed = int(np.count_nonzero(ok & inside(answered_s(log))))
    return Throughput(completed / length, output / length, (output + prompt) / length)
