"""Token counts drawn from a workload's length distributions."""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist

from pytest_llmperf.experiment.records import Lengths

_NORMAL = NormalDist()


def sample_length(lengths: Lengths, rng: Random) -> int:
    """One token count, at least 1, within [``min``, ``max``]; exactly one draw from ``rng`` whatever the distribution.

    ``lognormal`` has the given mean and coefficient of variation before it is truncated (sigma^2 = ln(1 + cv^2),
    mu = ln(mean) - sigma^2 / 2). Truncated means drawn from within the bounds, not piled up at them.
    ``uniform`` without ``max`` is symmetric around the mean.
    """
    draw = rng.random()
    low = max(1, lengths.min)
    if lengths.distribution == "uniform":
        high = lengths.max if lengths.max is not None else 2 * lengths.mean - low
        return low + int(draw * max(1, high - low + 1))
    if lengths.distribution == "lognormal" and lengths.cv > 0:
        return _lognormal(lengths, low, draw)
    return _clamped(lengths.mean, low, lengths.max)


def _lognormal(lengths: Lengths, low: int, draw: float) -> int:
    sigma = math.sqrt(math.log1p(lengths.cv**2))
    mu = math.log(lengths.mean) - sigma**2 / 2
    # Half a token to either side: every whole number within the bounds keeps its share after rounding.
    bottom = _NORMAL.cdf((math.log(low - 0.5) - mu) / sigma)
    top = 1.0 if lengths.max is None else _NORMAL.cdf((math.log(lengths.max + 0.5) - mu) / sigma)
    share = min(max(bottom + draw * (top - bottom), 1e-15), 1 - 1e-15)
    return _clamped(round(math.exp(mu + sigma * _NORMAL.inv_cdf(share))), low, lengths.max)


def _clamped(tokens: int, low: int, high: int | None) -> int:
    return max(low, tokens if high is None else min(tokens, high))
