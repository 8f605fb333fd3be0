"""Quantiles of what a Prometheus histogram took: as good as its buckets are narrow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats


@dataclass(frozen=True)
class Buckets:
    """What was observed: ``below[i]`` values of at most ``upper[i]``, both of shape (n,), rising; the last bound is +inf.

    ``total`` is the sum of all values.
    """

    upper: Floats
    below: Floats
    total: float

    @property
    def count(self) -> float:
        """How many were observed; a fraction, where a bound of the window lay between two samples."""
        return float(self.below[-1]) if len(self.below) else 0.0

    @property
    def mean(self) -> float:
        """Exactly the mean: a histogram keeps the sum. nan of nothing."""
        return self.total / self.count if self.count else math.nan

    def bucket_of(self, quantile: float) -> tuple[float, float] | None:
        """Between which bounds the quantile lies; None of nothing, and beyond the last finite bound."""
        index = self._place(quantile)
        return None if index is None else (self._lower(index), float(self.upper[index]))

    def quantile(self, quantile: float) -> float | None:
        """By linear interpolation within its bucket, as Prometheus's ``histogram_quantile`` does.

        https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile; the first bucket begins at 0. Beyond
        the last finite bound Prometheus answers with that bound: here it is None, for nothing says how far beyond it lies.
        """
        index = self._place(quantile)
        if index is None:
            return None
        lower, upper = self._lower(index), float(self.upper[index])
        before = float(self.below[index - 1]) if index else 0.0
        within = float(self.below[index]) - before
        return lower + (upper - lower) * (quantile * self.count - before) / within if within else upper

    def _place(self, quantile: float) -> int | None:
        if not self.count:
            return None
        index = int(np.searchsorted(self.below, quantile * self.count))
        return index if math.isfinite(self.upper[index]) else None

    def _lower(self, index: int) -> float:
        return float(self.upper[index - 1]) if index else 0.0
