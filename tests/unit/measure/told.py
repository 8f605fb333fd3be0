"""Series and pages written by hand, for what a server says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_llmperf.measure.exposition import Series

MODEL = {"model_name": "m"}


def series(name: str, value: Sequence[float], **labels: str) -> Series:
    """One metric of model ``m``, a sample a second."""
    return Series(name, {**MODEL, **labels}, np.arange(float(len(value))), np.array(value, float))


def histogram(name: str, below: Mapping[str, Sequence[float]], total: Sequence[float]) -> list[Series]:
    """A histogram's buckets by their bound, its sum and its count."""
    buckets = [series(f"{name}_bucket", value, le=bound) for bound, value in below.items()]
    return [*buckets, series(f"{name}_sum", total), series(f"{name}_count", below["+Inf"])]
