"""From a load profile to the times at which its requests arrive, warm-up and window."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pytest_llmperf.experiment.profile import Constant, Gamma, LoadProfile, Poisson, is_open_loop
from pytest_llmperf.experiment.stages import EVEN, POISSON, Bursts, RateStages
from pytest_llmperf.load.arrivals import arrivals, bursts_before, even_arrivals_before, renewals, renewals_before
from pytest_llmperf.load.intensity import intensity
from pytest_llmperf.load.records import Floats
from pytest_llmperf.load.trace import Trace

_NO_TIMES: Floats = np.empty(0)
SHORTEST_S = 1e-6
"""By how much a window ends after its last arrival, at least: told apart from it also on a clock that has run for years."""


@dataclass(frozen=True)
class Schedule:
    """The warm-up's arrivals, from the run's start, and the window's, from its own; ``end_s`` is how long the window is, None
    where that is not known beforehand."""

    warmup_s: Floats = field(repr=False)
    arrivals_s: Floats = field(repr=False)
    end_s: float | None


def schedule(
    profile: LoadProfile,
    trace: Trace | None,
    duration_s: float | None,
    warmup_s: float,
    max_requests: int | None,
    rng: np.random.Generator,
    warmup_rng: np.random.Generator,
) -> Schedule:
    """When requests arrive; without a duration until ``max_requests`` have. A closed loop has no arrivals.

    The warm-up is a stretch at the profile's first rate, from random numbers of its own: of bursts and of a trace at their mean
    rate, as one that is shorter than a pause would have nothing to ask.
    """
    if not is_open_loop(profile):
        return Schedule(_NO_TIMES, _NO_TIMES, duration_s)
    if trace is not None:
        end_s = _trace_end_s(trace, duration_s)
        times_s = trace.time_s[trace.time_s < end_s]
        return Schedule(arrivals(len(times_s) / end_s, POISSON, warmup_s, warmup_rng), times_s, end_s)
    warmup = _warmup(profile, warmup_s, warmup_rng)
    if duration_s is not None:
        return Schedule(warmup, _lasting(profile, duration_s, rng), duration_s)
    return Schedule(warmup, *_counted(profile, max_requests or 0, rng))


def _lasting(profile: LoadProfile, duration_s: float, rng: np.random.Generator) -> Floats:
    """The arrivals of a window of ``duration_s``."""
    if isinstance(profile, Bursts):
        return bursts_before(profile.size, profile.every_s, duration_s)
    rate, burstiness = _first_pace(profile)
    if not isinstance(profile, RateStages):
        return arrivals(rate, burstiness, duration_s, rng)
    over_time = intensity(profile)
    times_s = over_time.times(renewals_before(over_time.expected(duration_s), burstiness, rng))
    return times_s[times_s < duration_s]


def _counted(profile: LoadProfile, count: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """The first ``count`` arrivals, and the end of their window: where the next one would be."""
    if isinstance(profile, Bursts):
        length_s = -(-count // profile.size) * profile.every_s
        return bursts_before(profile.size, profile.every_s, length_s)[:count], length_s
    rate, burstiness = _first_pace(profile)
    units = renewals(count + 1, burstiness, rng)
    times_s = intensity(profile).times(units) if isinstance(profile, RateStages) else units / rate
    # Gaps can be as short as rounding makes them: the window still ends after its last arrival.
    return times_s[:-1], float(max(times_s[-1], times_s[-2] + SHORTEST_S))


def _warmup(profile: LoadProfile, warmup_s: float, rng: np.random.Generator) -> Floats:
    rate, burstiness = _first_pace(profile)
    return even_arrivals_before(rate, warmup_s) if burstiness == EVEN else arrivals(rate, burstiness, warmup_s, rng)


def _first_pace(profile: LoadProfile) -> tuple[float, float]:
    """The rate at which an open loop begins, and the burstiness of its arrivals."""
    match profile:
        case Constant(rate):
            return rate, EVEN
        case Poisson(rate):
            return rate, POISSON
        case Gamma(rate, burstiness):
            return rate, burstiness
        case RateStages():
            return profile.first_rate_per_s, profile.burstiness
        case Bursts(size, every_s):
            return size / every_s, EVEN
    raise AssertionError(f"{profile} has no rate")


def peak_per_s(times_s: Floats, amounts: Floats) -> float:
    """The most of ``amounts`` (n,) that falls due within any one second, ``times_s`` (n,) ascending; 0 for none."""
    if not len(times_s):
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(amounts)])
    ends = np.searchsorted(times_s, times_s + 1.0, side="left")
    return float(np.max(sums[ends] - sums[:-1]))


def _trace_end_s(trace: Trace, duration_s: float | None) -> float:
    """Where the window over a trace ends: at ``duration_s`` or one mean gap after its last request, whichever comes first."""
    last_s = float(trace.time_s[-1])
    mean_gap_s = last_s / (len(trace) - 1) if len(trace) > 1 else 0.0
    # A trace of one instant still needs a window of some length to speak of rates.
    natural_s = last_s + (mean_gap_s or 1.0)
    return natural_s if duration_s is None else min(duration_s, natural_s)
