"""``latency_analysis``: how the latencies are spread, against the SLA's limits, and how they went over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_llmperf.errors import UnitError
from pytest_llmperf.judge.text import shown
from pytest_llmperf.metrics import METRICS, MetricKey, metric_key
from pytest_llmperf.report.plots.over_time import end_of, line, middles_s, time_axis
from pytest_llmperf.report.plots.samples import METRICS_DRAWN, Ecdf
from pytest_llmperf.report.plots.style import BLUE, GREY, INK, ORANGE, OUTCOME_COLOURS, head_run, in_units_of, new_figure, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_llmperf.report.results_v2 import CheckPart, RunDocument, SeriesPart

_WORDS = {"PASS": "met", "FAIL": "missed", "INCONCLUSIVE": "cannot tell", "INVALID": "not trusted"}
_DASHES = ("--", "-.", ":", (0, (5, 1)))
_ROW_IN = 2.75
_NEAR = 2.0
"""A limit that is farther off than so many times the slowest p99 is not drawn over time."""
_WIDE = 10.0
"""From this ratio of the slowest to the fastest on the axis is logarithmic."""
_FEW = 0.02


def latency_figure(document: RunDocument, ecdfs: Mapping[str, Ecdf] | None) -> Figure | None:
    """One row a latency that the run has: its distribution (None: nobody kept the requests), and its course over time.

    None where there is neither a distribution nor a course to draw. To be called within ``styled()``.
    """
    metrics = [name for name in METRICS_DRAWN if name in (ecdfs or {}) or has_course(document.series, name)]
    if not metrics:
        return None
    columns = (ecdfs is not None) + (document.series is not None)
    figure = new_figure(0.75 + _ROW_IN * len(metrics))
    grid = figure.subplots(len(metrics), columns, squeeze=False)
    for i, (row, name) in enumerate(zip(grid, metrics, strict=True)):
        limits = limits_on(document, name)
        if ecdfs is not None:
            _spread(row[0], name, ecdfs.get(name), limits)
        if document.series is not None:
            _course(row[-1], name, document, limits, is_first=i == 0, is_last=i == len(metrics) - 1)
    head_run(figure, "Latency", document)
    return figure


def has_course(series: SeriesPart | None, metric: str) -> bool:
    """Whether anything is known of a latency over time."""
    return series is not None and any(value is not None for value in getattr(series, f"{metric}_p50_s"))


def limits_on(document: RunDocument, metric: str) -> list[tuple[MetricKey, CheckPart]]:
    """What the SLA says of one latency, in the SLA's order; without what a newer version may say."""
    found = []
    for check in document.sla.checks if document.sla is not None else ():
        try:
            key = metric_key(check.metric)
        except UnitError:
            continue
        if key.metric.name == metric:
            found.append((key, check))
    return found


def limit_text(key: MetricKey, check: CheckPart) -> str:
    """``p95 <= 400ms: met``."""
    return f"{key.statistic} {check.comparator} {shown(key.metric, check.limit)}: {_WORDS[check.outcome]}"


def _spread(axes: Axes, name: str, curve: Ecdf | None, limits: list[tuple[MetricKey, CheckPart]]) -> None:
    """The empirical distribution, and the SLA's limits where they cut it."""
    metric = METRICS[name]
    axes.set_title(f"{metric.title}: share of requests")
    if curve is None:
        say(axes, f"no request that is counted has a {metric.title}")
        return
    axes.set_ylim(0, 1.04)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1], ["0%", "25%", "50%", "75%", "90%", "100%"])
    _draw_curve(axes, curve, f"{metric.title} of {curve.answered:,} requests")
    for i, (key, check) in enumerate(limits):
        colour = OUTCOME_COLOURS[check.outcome]
        axes.axvline(check.limit, color=colour, linestyle=_DASHES[i % len(_DASHES)], linewidth=1.2, label=limit_text(key, check))
        if key.quantile is not None:
            axes.plot([check.limit], [key.quantile], marker="D", markersize=5, color=colour, markeredgecolor=INK, linestyle="")
    _latency_axis(axes, name, curve, [check.limit for _, check in limits])
    axes.set_xlabel(f"{metric.title} at most")
    axes.legend(loc="best")


def _draw_curve(axes: Axes, curve: Ecdf, label: str) -> None:
    if curve.answered:
        axes.step([curve.x_s[0], *curve.x_s], [0.0, *curve.share], where="post", color=BLUE, label=label)
    if curve.failed:
        total = curve.answered + curve.failed
        axes.axhline(
            curve.top, color=GREY, linestyle=":", linewidth=1.2, label=f"{curve.failed:,} of {total:,} failed: never answered"
        )


def _latency_axis(axes: Axes, name: str, curve: Ecdf, limits_s: list[float]) -> None:
    """From 0 to a little above the slowest or the last limit; where that is far, logarithmic from the fastest on.

    The few that are fastest of all do not count as such: a hundredth of a distribution would take half of the axis.
    """
    fast = round(_FEW * len(curve.x_s))
    values = [*limits_s, *(curve.x_s[[fast, -1]].tolist() if curve.answered else [])]
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) >= _WIDE:
        axes.set_xscale("log")
        axes.set_xlim(min(positive) * 0.8, max(positive) * 1.25)
        _round_ticks(axes)
    else:
        axes.set_xlim(0, max(positive, default=1.0) * 1.08)
    in_units_of("x", axes, name)


def _round_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))


def _course(
    axes: Axes,
    name: str,
    document: RunDocument,
    limits: list[tuple[MetricKey, CheckPart]],
    *,
    is_first: bool,
    is_last: bool,
) -> None:
    """Median and p99 of every stretch of time; of the limits those that are near enough not to flatten the lines."""
    series, metric = document.series, METRICS[name]
    assert series is not None
    axes.set_title(f"{metric.title} over time, {shown(metric, series.step_s)} at a time")
    if not has_course(series, name):
        say(axes, "no request ended well")
        return
    at_s = middles_s(series)
    line(axes, at_s, getattr(series, f"{name}_p99_s"), f"{metric.title} p99", ORANGE, is_wide=True)
    line(axes, at_s, getattr(series, f"{name}_p50_s"), f"{metric.title} p50", BLUE)
    highest = max((value for value in getattr(series, f"{name}_p99_s") if value is not None), default=0.0)
    for i, (key, check) in enumerate(limits):
        if check.limit <= _NEAR * highest:
            label = f"limit of {key.statistic}"
            colour = OUTCOME_COLOURS[check.outcome]
            axes.axhline(check.limit, color=colour, linestyle=_DASHES[i % len(_DASHES)], linewidth=1, label=label)
    # The legend stands above the lines, not on them.
    axes.set_ylim(0, axes.get_ylim()[1] * 1.35)
    in_units_of("y", axes, name)
    time_axis(axes, document, end_of(document), named=is_last, explained=is_first)
    axes.legend(loc="upper right", ncols=3, columnspacing=1.2)
