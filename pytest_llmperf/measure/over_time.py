"""What a server's metrics were between two instants: counters that may start anew, gauges that are known now and then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.measure.exposition import Series


_HOLDS = 1.5
"""For so many of its steps a gauge holds its last value: engines are not read at the same instants."""


@dataclass(frozen=True)
class Window:
    """A stretch of the run, in seconds since its start."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Never below 0."""
        return max(0.0, self.end_s - self.start_s)


def counted_on(value: Floats) -> Floats:
    """A counter without its falls, shape (n,): one that starts anew at 0 is counted on from where it was last seen.

    What was counted between that and the restart is lost (Prometheus's ``increase`` does the same).
    """
    lost = np.where(np.diff(value) < 0, value[:-1], 0.0)
    rising: Floats = value + np.concatenate([[0.0], np.cumsum(lost)])
    return rising


def falls_at_s(series: Series) -> tuple[float, ...]:
    """When a counter was first seen below what it had been."""
    return tuple(float(at_s) for at_s in series.at_s[1:][np.diff(series.value) < 0])


def increase(series: Sequence[Series], window: Window) -> float:
    """By how much these counters grew within the window, together; between samples in a straight line."""
    bounds = [window.start_s, window.end_s]
    grown = [np.diff(np.interp(bounds, one.at_s, counted_on(one.value)))[0] for one in series]
    return float(sum(grown))


def on_grid(series: Sequence[Series], grid_s: Floats, *, counters: bool) -> Floats:
    """The series at each instant of the grid, shape (series, instants); nan where a gauge is not known yet or no more.

    A counter stands still before its first sample and after its last, a gauge for ``_HOLDS`` after its last.
    """
    rows = [np.interp(grid_s, one.at_s, counted_on(one.value)) if counters else _gauge_on(one, grid_s) for one in series]
    return np.array(rows).reshape(len(rows), len(grid_s))


def _gauge_on(series: Series, grid_s: Floats) -> Floats:
    at_s = series.at_s
    step_s = float(np.median(np.diff(at_s))) if len(at_s) > 1 else 0.0
    value = np.interp(grid_s, at_s, series.value, left=np.nan)
    known: Floats = np.where(grid_s <= at_s[-1] + _HOLDS * step_s, value, np.nan)
    return known


def mean_within(at_s: Floats, value: Floats, window: Window) -> float | None:
    """The mean over time of a gauge, in straight lines from sample to sample; None where it is not known there.

    ``at_s`` and ``value`` have shape (n,). Towards a bound beyond the samples the nearest one counts on.
    """
    known = ~np.isnan(value)
    at_s, value = at_s[known], value[known]
    if not len(at_s) or at_s[-1] < window.start_s or at_s[0] > window.end_s:
        return None
    inside = at_s[(at_s > window.start_s) & (at_s < window.end_s)]
    instants_s = np.concatenate([[window.start_s], inside, [window.end_s]])
    values = np.interp(instants_s, at_s, value)
    if not window.length_s:
        return float(values[0])
    return float(np.trapezoid(values, instants_s)) / window.length_s


def most_within(at_s: Floats, value: Floats, window: Window) -> float | None:
    """The largest sample of a gauge within the window; None where there is none."""
    inside = value[(at_s >= window.start_s) & (at_s <= window.end_s) & ~np.isnan(value)]
    return float(inside.max()) if len(inside) else None


def steps_of(at_s: Floats, shortest_s: float) -> NDArray[np.intp]:
    """The places of the instants, shape (n,), that are ``shortest_s`` or more after the one before them here; the first is."""
    places: list[int] = []
    for place, instant_s in enumerate(at_s.tolist()):
        if not places or instant_s - at_s[places[-1]] >= shortest_s:
            places.append(place)
    return np.array(places, dtype=np.intp)
