"""Whether a deployment gets worse while one load lasts: the last third of the run against its first, block by block."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llmperf.judge.paired import FIRST_LOOK, SINGLE_LOOK, Comparison, compare
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.steady import without_warmup

if TYPE_CHECKING:
    from pytest_llmperf.load.records import LoadResult
    from pytest_llmperf.metrics import MetricKey

PARTS = 3
"""The middle third is left out: what changes slowly shows most between the ends."""


def drift(result: LoadResult, key: MetricKey, margin: float, *, blocks: int = 6, extra_warmup_s: float = 0.0) -> Comparison:
    """Compare the first third of the measured window (the base) with the last: ``blocks`` of each, the i-th with the i-th.

    The window opens ``extra_warmup_s`` later (``Steadiness``): what was still warming up is no beginning to compare with.
    Each block is measured as a run of its own and gives one number, so that requests which shared a queue count once.
    It is asked once, so each error is 5 %. Raises ``ValueError`` for fewer blocks than it takes.
    """
    if blocks < FIRST_LOOK:
        raise ValueError(f"at least {FIRST_LOOK} blocks are needed, not {blocks}")
    result = without_warmup(result, extra_warmup_s)
    span_s = (result.window_end_s - result.window_start_s) / PARTS
    first = _blocks(result, key, result.window_start_s, span_s, blocks)
    last = _blocks(result, key, result.window_end_s - span_s, span_s, blocks)
    return compare(key, margin, list(zip(first, last, strict=True)), blocks, SINGLE_LOOK)


def _blocks(result: LoadResult, key: MetricKey, start_s: float, span_s: float, blocks: int) -> list[float]:
    """The metric's value in each of so many equal stretches of ``span_s`` seconds from ``start_s`` on."""
    edges = [start_s + span_s * i / blocks for i in range(blocks + 1)]
    stretches = (replace(result, window_start_s=a, window_end_s=b) for a, b in pairwise(edges))
    return [measure(stretch, price_per_hour=None).estimate(key).value for stretch in stretches]
