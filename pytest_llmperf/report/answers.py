"""What a reader asks of many runs first: is it fast enough, and where is the bottleneck. One sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import BottleneckPart, OutcomeName, RunDocument

_ORDER: tuple[OutcomeName | None, ...] = ("PASS", "FAIL", "INCONCLUSIVE", "INVALID", None)
_KINDS = {
    "queueing": "queueing",
    "kv_cache": "KV cache",
    "prefill": "prefill",
    "decode": "decode",
    "client": "the client",
    "none": "none",
    "unknown": "unknown",
}


def fast_enough(documents: Sequence[RunDocument]) -> str:
    """``No: 1 of 9 runs misses its SLA.`` A FAIL settles it; else a verdict that is open leaves it open."""
    counted = Counter(document.verdict for document in documents)
    judged = len(documents) - counted[None]
    if judged == 0:
        return "Not asked: no run was held against an SLA."
    if failed := counted["FAIL"]:
        return f"No: {failed} of {_runs(judged)} {'misses its' if failed == 1 else 'miss their'} SLA."
    if left := judged - counted["PASS"]:
        return f"Not known: {left} of {_runs(judged)} {'has' if left == 1 else 'have'} no verdict that can be relied on."
    return "Yes: the run meets its SLA." if judged == 1 else f"Yes: all {judged} runs meet their SLA."


def verdict_counts(documents: Sequence[RunDocument]) -> dict[str, int]:
    """How many runs have each verdict, in a fixed order; those that nobody judged under ``not judged``."""
    counted = Counter(document.verdict for document in documents)
    return {verdict or "not judged": counted[verdict] for verdict in _ORDER if counted[verdict]}


def bottleneck_name(part: BottleneckPart | None) -> str:
    """What the run waited for, in a word or two; ``-`` where nobody looked."""
    return _KINDS[part.kind] if part is not None else "-"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
