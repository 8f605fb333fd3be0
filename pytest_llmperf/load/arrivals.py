"""When requests arrive in an open loop: pure functions from a rate, a length of time and a random stream to times.

Every function returns seconds from the beginning of its stretch, ascending, in [0, ``duration_s``). Nothing is forced at either
end: the first gap begins before the stretch or with it, as the process says, and the last one ends after it.
"""

from __future__ import annotations

import math

import numpy as np

from pytest_llmperf.experiment.stages import EVEN, POISSON
from pytest_llmperf.load.records import Floats

_CHUNK = 4096


def arrivals(rate_per_s: float, burstiness: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Arrivals at one rate: gaps are gamma-distributed with shape ``burstiness`` (1: exponential; ``EVEN``: all the same)."""
    # Of constant arrivals k / rate, not a running sum: the gaps do not drift however long the run.
    times = renewals_before(duration_s * rate_per_s, burstiness, rng) / rate_per_s
    return times[times < duration_s]


def even_arrivals_before(rate_per_s: float, duration_s: float) -> Floats:
    """Constant arrivals in phase with one at ``duration_s``: what precedes such as begin there without a jolt."""
    steps = np.arange(math.floor(duration_s * rate_per_s), 0, -1, dtype=np.float64)
    times = duration_s - steps / rate_per_s
    return times[times >= 0]


def renewals_before(end: float, burstiness: float, rng: np.random.Generator) -> Floats:
    """A renewal process of rate 1 up to ``end``, its gaps distributed in the same way.

    Stationary from the start (but for ``EVEN``, whose first arrival is at 0): the first gap is what is left of one that 0 has
    cut, so that as many are expected in the first second as in any other.
    """
    if burstiness == EVEN:
        return np.arange(math.ceil(end), dtype=np.float64)
    parts: list[Floats] = []
    reached = 0.0
    while reached < end:
        parts.append(reached + np.cumsum(_gaps(burstiness, rng, is_first=not parts)))
        reached = float(parts[-1][-1])
    times = np.concatenate(parts) if parts else np.empty(0)
    return times[times < end]


def renewals(count: int, burstiness: float, rng: np.random.Generator) -> Floats:
    """The first ``count`` arrivals of the same process."""
    if burstiness == EVEN:
        return np.arange(count, dtype=np.float64)
    parts: list[Floats] = []
    while len(parts) * _CHUNK < count:
        before = float(parts[-1][-1]) if parts else 0.0
        parts.append(before + np.cumsum(_gaps(burstiness, rng, is_first=not parts)))
    return np.concatenate(parts)[:count] if parts else np.empty(0)


def _gaps(burstiness: float, rng: np.random.Generator, *, is_first: bool) -> Floats:
    """The next gaps, always as many, so that a shorter stretch is the beginning of a longer one."""
    if burstiness == POISSON:
        # Exponential gaps remember nothing: the first is one like any other.
        return rng.exponential(1.0, _CHUNK)
    gaps = rng.gamma(burstiness, 1 / burstiness, _CHUNK)
    if is_first:
        # The gap around a given instant is found in proportion to its length, which is a gamma of one shape more, and the
        # instant lies anywhere in it (Cox, Renewal Theory, 1962, chapter 5).
        gaps[0] = rng.uniform() * rng.gamma(burstiness + 1, 1 / burstiness)
    return gaps


def bursts_before(size: int, every_s: float, duration_s: float) -> Floats:
    """``size`` arrivals at 0 and every ``every_s`` seconds after."""
    times = np.arange(math.ceil(duration_s / every_s), dtype=np.float64) * every_s
    return np.repeat(times[times < duration_s], size)
