"""Many runs beside each other: latency against throughput, what cannot be bettered in both (the Pareto front), and cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llmperf.errors import UnitError
from pytest_llmperf.judge.text import shown
from pytest_llmperf.metrics import MetricKey, format_value, metric_key
from pytest_llmperf.report.columns import value_of
from pytest_llmperf.report.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    SIMULATED,
    SKY,
    head,
    in_units_of,
    new_figure,
    say,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_llmperf.report.results_v2 import RunDocument

THROUGHPUT_KEY = metric_key("output_tokens_per_s")
COST_KEY = metric_key("cost_per_mtok")
_TTFT, _TPOT, _E2E = (metric_key(name, "p99") for name in ("ttft", "tpot", "e2e"))
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLACK)
_MARKERS = {"PASS": "o", "FAIL": "X", "INCONCLUSIVE": "^", "INVALID": "x", None: "D"}
_LEAST_SIZE, _MOST_SIZE, _SIZE = 50.0, 260.0, 80.0
_ROW_IN = 3.2
_KEY_LINE_IN = 0.17
_MOST_IN_KEY = 40
_LONGEST_LOAD = 30
_NEAR = 2.0
_KEY_FONT, _KEY_LETTER = 7.5, 0.0068
"""In points, and how much of the figure's width a letter of it takes."""
_KEY_START = 0.05


@dataclass(frozen=True)
class Point:
    """A run in one panel. ``number`` is its place in the key below the panels, from 1."""

    number: int
    x: float
    y_s: float
    is_trusted: bool


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Which of the points (throughput, latency) no other betters in both, from the lowest throughput to the highest.

    A point is bettered by one that is as good in one and better in the other. Of points that are equal all are kept; one with a
    value that is not finite is never on the front.
    """
    finite = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    front: list[int] = []
    for i in sorted(finite, key=lambda i: (-points[i][0], points[i][1])):
        if not front or points[i][1] < points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return tuple(sorted(front, key=lambda i: (points[i][0], i)))


def overview_figure(documents: Sequence[RunDocument]) -> Figure:
    """One row a workload (two where its cells differ in their number of accelerators): a request's latency, and a token's.

    Every run is a point with a number; below the panels stands which run that is. To be called within ``styled()``.
    """
    rows = _rows(documents)
    lines = min(len(documents), _MOST_IN_KEY) + 1 + (len(documents) > _MOST_IN_KEY)
    key_in = _KEY_LINE_IN * (lines + 1)
    figure = new_figure(0.75 + _ROW_IN * len(rows) + key_in)
    grid = figure.add_gridspec(len(rows) + 1, 2, height_ratios=[*[_ROW_IN] * len(rows), key_in])
    for i, row in enumerate(rows):
        for j, latency in enumerate(row.latencies):
            _panel(figure.add_subplot(grid[i, j]), documents, row, latency)
    simulated = sum(document.simulated for document in documents)
    head(figure, "Latency against throughput", _line(documents, simulated), simulated=simulated > 0)
    _key(figure.add_subplot(grid[len(rows), :]), documents, lines)
    return figure


def _line(documents: Sequence[RunDocument], simulated: int) -> str:
    """What the figure is of, and how to read its marks."""
    parts = [f"{len(documents)} runs" if len(documents) != 1 else "1 run"]
    parts += [f"{simulated} of them {SIMULATED}"] if 0 < simulated < len(documents) else []
    parts += ["the larger a mark, the more its tokens cost"] if len({*_costs(documents)} - {math.nan}) > 1 else []
    parts += ["to the right and down is better"]
    return ", ".join(parts)


@dataclass(frozen=True)
class _Row:
    """The runs (their indices) of one workload, and what is drawn of them."""

    workload: str
    members: tuple[int, ...]
    latencies: tuple[MetricKey, MetricKey]
    per_accelerator: bool


def _rows(documents: Sequence[RunDocument]) -> list[_Row]:
    rows = []
    for workload in dict.fromkeys(document.workload.name for document in documents):
        members = tuple(i for i, document in enumerate(documents) if document.workload.name == workload)
        mine = [documents[i] for i in members]
        latencies = latency_keys(mine)
        rows.append(_Row(workload, members, latencies, per_accelerator=False))
        if len({document.cell.count for document in mine}) > 1:
            rows.append(_Row(workload, members, latencies, per_accelerator=True))
    return rows


def latency_keys(documents: Sequence[RunDocument]) -> tuple[MetricKey, MetricKey]:
    """What is drawn upwards: the first limit of the runs' SLA on a whole request's latency and on TPOT, else both at p99.

    The SLA's where all runs have it. Where no run has a TTFT (nothing was streamed), E2E stands for it.
    """
    limited = dict.fromkeys(key for document in documents for key in _limited(document))
    asked = [key for key in limited if all(key.name in document.metrics for document in documents)]
    whole = [key for key in asked if key.metric.per_request and key.metric.name != "tpot"]
    pace = [key for key in asked if key.metric.name == "tpot"]
    usual = _TTFT if any(not math.isnan(value_of(document, _TTFT)) for document in documents) else _E2E
    return (whole or [usual])[0], (pace or [_TPOT])[0]


def _limited(document: RunDocument) -> Iterable[MetricKey]:
    for check in document.sla.checks if document.sla is not None else ():
        try:
            yield metric_key(check.metric)
        except UnitError:  # of a newer version
            continue


def points_of(documents: Sequence[RunDocument], row: _Row, latency: MetricKey) -> list[Point]:
    """Those runs of a row that have both values."""
    found = []
    for i in row.members:
        document = documents[i]
        flow = value_of(document, THROUGHPUT_KEY) / (document.cell.count if row.per_accelerator else 1)
        latency_s = value_of(document, latency)
        if math.isfinite(flow) and math.isfinite(latency_s):
            found.append(Point(i + 1, flow, latency_s, document.verdict != "INVALID" and not document.client.distrust))
    return found


def marker_sizes(costs: Sequence[float]) -> list[float]:
    """Areas for costs: from the cheapest to the dearest; the usual one where a cost is unknown, or all are equal."""
    known = [cost for cost in costs if math.isfinite(cost)]
    if not known or max(known) == min(known):
        return [_SIZE] * len(costs)
    span = (_MOST_SIZE - _LEAST_SIZE) / (max(known) - min(known))
    return [_LEAST_SIZE + span * (cost - min(known)) if math.isfinite(cost) else _SIZE for cost in costs]


def _costs(documents: Sequence[RunDocument]) -> list[float]:
    return [value_of(document, COST_KEY) for document in documents]


def _mark(axes: Axes, documents: Sequence[RunDocument], i: int, at: tuple[float, float], size: float) -> None:
    """A run's mark: the colour of its cell, the shape of its verdict."""
    cells = list(dict.fromkeys(document.cell.id for document in documents))
    colour = _COLOURS[cells.index(documents[i].cell.id) % len(_COLOURS)]
    marker = _MARKERS[documents[i].verdict]
    if marker == "x":
        axes.scatter(*at, s=size, color=colour, marker=marker, zorder=3)
    else:
        axes.scatter(*at, s=size, color=colour, marker=marker, zorder=3, edgecolors=PAPER, linewidths=0.8)


def _panel(axes: Axes, documents: Sequence[RunDocument], row: _Row, latency: MetricKey) -> None:
    points = points_of(documents, row, latency)
    axes.set_title(f"{row.workload}: {latency.title}")
    axes.set_xlabel(THROUGHPUT_KEY.title + (" per accelerator" if row.per_accelerator else ""))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    in_units_of("y", axes, latency.metric.name)
    axes.set_xlim(0, max((point.x for point in points), default=1.0) * 1.12)
    axes.set_ylim(0, max((point.y_s for point in points), default=1.0) * 1.18)
    sizes = marker_sizes(_costs(documents))
    for point in points:
        _mark(axes, documents, point.number - 1, (point.x, point.y_s), sizes[point.number - 1])
        away = 2 + math.sqrt(sizes[point.number - 1]) / 2
        axes.annotate(str(point.number), (point.x, point.y_s), (away, 3), textcoords="offset points", fontsize=8, zorder=4)
    trusted = [point for point in points if point.is_trusted]
    front = [trusted[i] for i in pareto_front([(point.x, point.y_s) for point in trusted])]
    if len(front) > 1:
        axes.plot([p.x for p in front], [p.y_s for p in front], color=GREY, zorder=2, label="Pareto front")
    elif len(trusted) > 1:
        ring: dict[str, Any] = {"markersize": 18, "markerfacecolor": "none", "markeredgecolor": GREY, "linestyle": ""}
        axes.plot([front[0].x], [front[0].y_s], "o", label="Pareto front: betters all others", **ring)
    _limit(axes, [documents[i] for i in row.members], latency)
    if not points:
        say(axes, f"no run has both {THROUGHPUT_KEY.title} and {latency.title}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def _limit(axes: Axes, documents: Sequence[RunDocument], latency: MetricKey) -> None:
    """The SLA's limit, where all of the runs have the same one. It is within the picture only where a run comes near it."""
    limits = {
        check.limit
        for document in documents
        for check in (document.sla.checks if document.sla is not None else ())
        if check.metric == latency.name
    }
    if len(limits) == 1:
        (limit,) = limits
        top = axes.get_ylim()[1]
        is_near = limit < _NEAR * top
        above = "" if is_near else " (far above)"
        text = f"SLA: {latency.title} <= {format_value(latency.metric, limit)}{above}"
        axes.axhline(limit, color=INK, linestyle="--", linewidth=1, label=text)
        axes.set_ylim(0, max(top, limit * 1.08) if is_near else top)


def _key(axes: Axes, documents: Sequence[RunDocument], lines: int) -> None:
    """Which number is which run: its cell, workload, load, verdict, throughput and cost."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(lines + 0.5, -0.5)
    heads = ("cell", "workload", "load", "verdict", THROUGHPUT_KEY.title, COST_KEY.title)
    texts = [heads, *(_key_texts(document) for document in documents[:_MOST_IN_KEY])]
    widths = [(max(map(len, column)) + 2) * _KEY_LETTER for column in zip(*texts, strict=True)]
    # Long names make all letters smaller before one leaves the picture.
    scale = min(1.0, (1 - _KEY_START) / sum(widths))
    starts = [_KEY_START + scale * sum(widths[:i]) for i in range(len(widths))]
    for i, row in enumerate(texts):
        weight = "bold" if i == 0 else "normal"
        for x, text in zip(starts, row, strict=True):
            axes.text(x, i, text, fontsize=_KEY_FONT * scale, fontweight=weight, va="center")
        if i > 0:
            axes.text(0, i, str(i), fontsize=_KEY_FONT, va="center")
            _mark(axes, documents, i - 1, (0.03, i), 28)
    if len(documents) > _MOST_IN_KEY:
        axes.text(_KEY_START, lines - 1, f"and {len(documents) - _MOST_IN_KEY} more", fontsize=_KEY_FONT, va="center")


def _key_texts(document: RunDocument) -> tuple[str, ...]:
    flow, cost = (value_of(document, key) for key in (THROUGHPUT_KEY, COST_KEY))
    return (
        document.cell.id,
        document.workload.name,
        textwrap.shorten(document.label or document.profile, _LONGEST_LOAD, placeholder="..."),
        document.verdict or "not judged",
        shown(THROUGHPUT_KEY.metric, flow),
        shown(COST_KEY.metric, cost),
    )
