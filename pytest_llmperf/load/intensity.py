"""A rate that changes over time, and arrivals that follow it exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_llmperf.experiment.stages import RateStages
from pytest_llmperf.load.records import Floats

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Intensity:
    """A rate over time in straight pieces, and how many arrivals are expected up to the end of each.

    Arrivals at a changing rate are those of a process of rate 1, of which the one at ``u`` comes when ``u`` have been expected:
    the inverse of the rate's integral. From a Poisson process this makes the inhomogeneous one (Çinlar, Introduction to
    Stochastic Processes, 1975, chapter 4), from any stationary renewal process one whose expected count is the integral
    (Gerhardt and Nelson, Transforming Renewal Processes for Simulation of Nonstationary Arrival Processes, INFORMS Journal on
    Computing 21, 2009), and from equal gaps one arrival whenever the integral is a whole number. No step in time is involved.
    """

    ends_s: Floats
    counts: Floats
    start_per_s: Floats
    end_per_s: Floats
    repeat: bool

    @property
    def length_s(self) -> float:
        """How long all pieces are together."""
        return float(self.ends_s[-1])

    @property
    def count(self) -> float:
        """How many arrivals are expected in all of them."""
        return float(self.counts[-1])

    def expected(self, until_s: float) -> float:
        """How many arrivals are expected before ``until_s``."""
        rounds, at_s = divmod(until_s, self.length_s) if self.repeat else (0.0, min(until_s, self.length_s))
        piece = min(int(np.searchsorted(self.ends_s, at_s, side="right")), len(self.ends_s) - 1)
        starts_s, before = _befores(self.ends_s)[piece], _befores(self.counts)[piece]
        length_s, since_s = self.ends_s[piece] - starts_s, at_s - starts_s
        slope = (self.end_per_s[piece] - self.start_per_s[piece]) / length_s
        return float(_settled(rounds * self.count + before + (self.start_per_s[piece] + slope * since_s / 2) * since_s))

    def times(self, units: Floats) -> Floats:
        """When the arrivals of a process of rate 1 come, shape (n,), ascending."""
        rounds = np.floor(units / self.count) if self.repeat else np.zeros(len(units))
        units = units - rounds * self.count
        # An arrival between two pieces comes with the second: of a pause, when it is over.
        piece = np.minimum(np.searchsorted(self.counts, units, side="right"), len(self.counts) - 1)
        starts_s = _befores(self.ends_s)[piece]
        length_s, rest = self.ends_s[piece] - starts_s, units - _befores(self.counts)[piece]
        rate, slope = self.start_per_s[piece], (self.end_per_s[piece] - self.start_per_s[piece]) / length_s
        # The root of rate * t + slope * t^2 / 2 = rest, in the form that loses no digits when the slope is small.
        divisor = rate + np.sqrt(np.maximum(rate**2 + 2 * slope * rest, 0.0))
        since_s = np.divide(2 * rest, divisor, out=np.zeros_like(rest), where=divisor > 0)
        times: Floats = rounds * self.length_s + starts_s + np.minimum(since_s, length_s)
        return times


def intensity(profile: RateStages) -> Intensity:
    """The rate over time that stages describe."""
    lengths_s = np.array([stage.duration_s for stage in profile.stages])
    start_per_s = np.array([stage.start for stage in profile.stages])
    end_per_s = np.array([stage.end for stage in profile.stages])
    counts = _settled(np.cumsum(lengths_s * (start_per_s + end_per_s) / 2))
    return Intensity(np.cumsum(lengths_s), counts, start_per_s, end_per_s, profile.repeat)


def _befores(ends: Floats) -> Floats:
    return np.concatenate([[0.0], ends[:-1]])


def _settled(counts: Floats) -> Floats:
    """Without the rounding error: 0.7/s for 10 s are seven, and no eighth arrival comes at the very end."""
    whole = np.rint(counts)
    return np.where(np.abs(counts - whole) <= _ROUNDING * np.maximum(1.0, whole), whole, counts)
