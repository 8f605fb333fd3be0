"""What the plots of one run have in common along time: the axis, the warm-up's shade, and lines with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.report.plots.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.report.results_v2 import RunDocument, SeriesPart

_SCALES = ((2 * 3600.0, 3600.0, "h"), (600.0, 60.0, "min"), (0.0, 1.0, "s"))


def middles_s(series: SeriesPart) -> Floats:
    """The middle of every bin, in seconds since the run's start."""
    middles: Floats = series.start_s + (np.arange(len(series.in_flight), dtype=np.float64) + 0.5) * series.step_s
    middles[-1:] = _end_s(series) - _last_step_s(series) / 2
    return middles


def line(
    axes: Axes,
    at_s: Sequence[float] | Floats,
    values: Sequence[float | None],
    label: str,
    colour: str,
    style: str = "-",
    *,
    is_wide: bool = False,
) -> None:
    """A line over time; null is a gap. What stands between two gaps is a dot, for a line it is too short.

    One that ``is_wide`` is to be seen also where another lies on it.
    """
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    known = np.isfinite(numbers)
    before, after = np.roll(known, 1), np.roll(known, -1)
    before[:1], after[-1:] = False, False
    axes.plot(at_s, numbers, style, color=colour, label=label, linewidth=2.5 if is_wide else 1.5)
    alone = known & ~before & ~after
    axes.plot(np.asarray(at_s)[alone], numbers[alone], ".", color=colour)


def time_axis(axes: Axes, document: RunDocument, end_s: float, *, named: bool, explained: bool) -> None:
    """The run's time along the x axis in the unit that suits its length, with what is not counted shaded.

    ``named``: with the axis' label; ``explained``: with the shade in the legend. One panel of a column has each.
    """
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    _, size, unit = next(scale for scale in _SCALES if end_s >= scale[0])
    axes.set_xlim(0, end_s)
    axes.xaxis.set_major_locator(MultipleLocator(round_step(end_s / size) * size))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}"))
    if named:
        axes.set_xlabel(f"time since the run's start ({unit})")
    opens_s = document.counted_from_s
    if opens_s > 0:
        axes.axvspan(0, opens_s, color=GREY, alpha=0.15, linewidth=0, label="warm-up, not counted" if explained else None)
    if document.timing.window_end_s < end_s:
        label = "last request due" if explained else None
        axes.axvline(document.timing.window_end_s, color=GREY, linestyle=":", linewidth=1, label=label)


def round_step(length: float, most: int = 8) -> float:
    """1, 2 or 5 times a power of ten, such that at most so many of them fit into ``length``."""
    power = 10.0 ** np.floor(np.log10(max(length, 1e-9) / most))
    return float(next(power * step for step in (1, 2, 5, 10) if length / (power * step) <= most))


def end_of(document: RunDocument) -> float:
    """When there is nothing more to be drawn, in seconds since the run's start."""
    series = document.series
    end_s = document.timing.window_end_s
    return max(end_s, _end_s(series)) if series is not None else end_s


def _end_s(series: SeriesPart) -> float:
    return series.start_s + (len(series.in_flight) - 1) * series.step_s + _last_step_s(series)


def _last_step_s(series: SeriesPart) -> float:
    return series.step_s if series.last_step_s is None else series.last_step_s
