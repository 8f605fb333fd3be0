"""When requests arrive in an open loop: pure functions from a rate, a length of time and a random stream to times.

Every function returns seconds from the beginning of its stretch, ascending, in [0, ``duration_s``).
"""

from __future__ import annotations

import math

import numpy as np

from pytest_llmperf.load.records import Floats

_CHUNK = 4096


def constant_arrivals(rate_per_s: float, duration_s: float) -> Floats:
    """One arrival every ``1 / rate_per_s`` seconds, the first at 0."""
    # k / rate, not a running sum: the gaps do not drift however long the run.
    count = math.ceil(duration_s * rate_per_s)
    times = np.arange(count, dtype=np.float64) / rate_per_s
    return times[times < duration_s]


def constant_arrivals_before(rate_per_s: float, duration_s: float) -> Floats:
    """The same pace, in phase with an arrival at ``duration_s``: what precedes ``constant_arrivals`` without a jolt."""
    steps = np.arange(math.floor(duration_s * rate_per_s), 0, -1, dtype=np.float64)
    times = duration_s - steps / rate_per_s
    return times[times >= 0]


def poisson_arrivals(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """A Poisson process: exponential gaps, also before the first arrival; nothing is forced at either end."""
    parts: list[Floats] = []
    reached_s = 0.0
    while reached_s < duration_s:
        times = reached_s + np.cumsum(rng.exponential(1.0 / rate_per_s, _CHUNK))
        parts.append(times)
        reached_s = float(times[-1])
    times = np.concatenate(parts) if parts else np.empty(0)
    return times[times < duration_s]


def poisson_count(rate_per_s: float, count: int, rng: np.random.Generator) -> Floats:
    """The first ``count`` arrivals of a Poisson process."""
    return np.cumsum(rng.exponential(1.0 / rate_per_s, count))
