"""From what a document holds of a metric to samples that can be compared, and from a change to what a document says of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pytest_llmperf.judge.regression import Change, Sample
from pytest_llmperf.metrics import MetricKey
from pytest_llmperf.report.results_parts import finite
from pytest_llmperf.report.results_v2 import ChangePart, RunDocument


def samples_of(documents: Iterable[RunDocument], key: MetricKey) -> list[Sample]:
    """What each run measured of a metric; nan where it did not."""
    return [_sample(document, key) for document in documents]


def _sample(document: RunDocument, key: MetricKey) -> Sample:
    part = document.metrics.get(key.name)
    if part is None:
        return Sample(math.nan)

    def number(name: Literal["value", "low", "high"]) -> float:
        value: float | None = getattr(part, name)
        if value is not None:
            return value
        return math.inf if name in part.unbounded else math.nan

    return Sample(number("value"), number("low"), number("high"))


def change_part(change: Change, gated: bool) -> ChangePart:
    """A change as a document keeps it; a number without a bound is None, and named where that is a value."""
    metric = change.key.metric
    is_ratio = change.tolerance.relative is not None
    sides: tuple[tuple[Literal["measured", "baseline"], float], ...] = (
        ("measured", change.measured),
        ("baseline", change.baseline),
    )
    return ChangePart(
        metric=change.key.name,
        title=change.key.title,
        unit=metric.unit.value,
        higher_is_better=metric.higher_is_better,
        measured=finite(change.measured),
        baseline=finite(change.baseline),
        unbounded=tuple(name for name, value in sides if value == math.inf),
        ratio=finite(change.ratio),
        scale="ratio" if is_ratio else "difference",
        # A ratio that may be as low as 0 has no lower bound.
        low=None if is_ratio and change.low == 0 else finite(change.low),
        high=finite(change.high),
        tolerance=str(change.tolerance),
        gated=gated,
        verdict=change.verdict.value,
        note=change.note,
    )
