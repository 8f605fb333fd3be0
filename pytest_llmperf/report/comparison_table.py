"""A comparison with a baseline as a person reads it in a failing test or from the command line."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import Unit, format_value
from pytest_llmperf.report.comparison import title_of
from pytest_llmperf.report.part_text import metric_of, number_text

if TYPE_CHECKING:
    from pytest_llmperf.metrics import Metric
    from pytest_llmperf.report.results_v2 import ChangePart, ComparisonPart, RunDocument

_WIDTH = 80
_SIMULATED = "SIMULATED"
_HEADING = ("metric", "baseline", "measured", "change", "90 % interval", "allowed", "verdict")
_TEXT_COLUMNS = {0, 6}
_NAMED = 3
_SELDOM_LISTED = 10.0
"""A change by this factor or more reads ``12x``: ``+1100%`` says less."""


def comparison_table(part: ComparisonPart, simulated: bool) -> str:
    """A comparison as plain text of at most 80 columns: a line a metric, and under them what the numbers do not say.

    The allowed change of a metric that is not gated stands in brackets.
    """
    mark = f" ({_SIMULATED}: no real server was measured)" if simulated else ""
    lines = textwrap.wrap(f"baseline {part.baseline}: {part.verdict.upper()}{mark}", _WIDTH)
    if part.changes:
        lines += _aligned([_HEADING, *map(change_row, part.changes)])
    for remark in _remarks(part):
        lines += textwrap.wrap(remark, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def change_text(change: ChangePart) -> str:
    """``+12%``, ``-0.4%``, ``12x``; ``+0.7pp`` (percentage points) or ``+50ms`` where differences are compared."""
    return _change(metric_of(change.metric), change)


def comparison_lines(runs: Sequence[RunDocument], width: int) -> Iterator[str]:
    """How a session's runs stand beside their baselines: how many of which verdict, what regressed or could not be compared.

    What is new was compared with nothing; it is named, so that it does not pass without a word.
    """
    compared = [(run, run.comparison) for run in runs if run.comparison is not None]
    for label in dict.fromkeys(part.baseline for _, part in compared):
        counts = Counter(part.verdict for _, part in compared if part.baseline == label)
        yield f"beside baseline {label}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    for run, part in compared:
        worse = [change for change in part.changes if change.verdict == "regressed"]
        # As in the table: what fails no test stands in brackets.
        what = [text if change.gated else f"({text})" for change in worse if (text := f"{change.title} {change_text(change)}")]
        if part.verdict == "incomparable":
            differing = (f"{field}: {change}" for field, change in part.differences.items())
            what = ["; ".join((f"incomparable, {part.note}", *differing))]
        if what:
            yield from _indented(f"{run.node_id}: {', '.join(what)}", width)
    new = list(dict.fromkeys(title_of(run) for run, part in compared if part.verdict == "new"))
    if new:
        more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        yield from _indented(f"new, compared with nothing: {', '.join(new[:_NAMED])}{more}", width)


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def change_row(change: ChangePart) -> tuple[str, ...]:
    """A metric's title, baseline, measured value, change with its interval, what is allowed (in brackets: not gated), verdict."""
    metric = metric_of(change.metric)
    return (
        change.title,
        number_text(change.metric, change.baseline, "baseline" in change.unbounded),
        number_text(change.metric, change.measured, "measured" in change.unbounded),
        _change(metric, change),
        _interval(metric, change),
        change.tolerance if change.gated else f"({change.tolerance})",
        change.verdict,
    )


def _change(metric: Metric, change: ChangePart) -> str:
    """``+12%``, ``-0.4%``, ``12x``; ``+0.7pp`` (percentage points) or ``+50ms`` where differences are compared."""
    if change.measured is None or change.baseline is None:
        return "-"
    if change.scale == "difference":
        number, unit = _difference(metric, change.measured - change.baseline)
        return number + unit
    return "-" if change.ratio is None else _percent(change.ratio)


def _percent(ratio: float) -> str:
    if ratio >= _SELDOM_LISTED:
        return f"{ratio:,.0f}x"
    return f"{_signed((ratio - 1) * 100)}%"


def _interval(metric: Metric, change: ChangePart) -> str:
    """``+8..+16%``; ``> +8%`` and ``< +16%`` where the other end has no bound; ``-`` where nothing is known."""
    if change.low is None and change.high is None:
        return "-"
    ends = [None if end is None else _end(metric, change, end) for end in (change.low, change.high)]
    low, high = ends
    if low is None or high is None:
        text = "".join(low or high or ())
        return f"> {text}" if low is not None else f"< {text}"
    # One unit for both ends is enough, where it is the same.
    return f"{low[0]}..{''.join(high)}" if low[1] == high[1] else f"{''.join(low)}..{''.join(high)}"


def _end(metric: Metric, change: ChangePart, end: float) -> tuple[str, str]:
    """A number and its unit."""
    if change.scale == "difference":
        return _difference(metric, end)
    text = _percent(end)
    return text[:-1], text[-1]


def _difference(metric: Metric, value: float) -> tuple[str, str]:
    if metric.unit is Unit.FRACTION:
        return _signed(value * 100), "pp"
    sign = "-" if value < 0 else "+"
    return f"{sign}{format_value(metric, abs(value))}", ""


def _signed(value: float) -> str:
    """Two significant digits at least, no more than two decimals: ``+12``, ``-4.2``, ``+0.35``, ``0``."""
    size = abs(value)
    decimals = 0 if size >= 9.95 else 1 if size >= 0.995 else 2
    text = f"{value:+,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _WIDTH else 1
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if i in _TEXT_COLUMNS else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = (" " * gap).join(cells).rstrip()
        # A line of names and numbers that are all at their longest goes on below, whole.
        lines += [line] if len(line) <= _WIDTH else textwrap.wrap(" ".join(row), _WIDTH, subsequent_indent="    ")
    return lines


def _remarks(part: ComparisonPart) -> list[str]:
    remarks = [part.note] if part.note else []
    if part.runs:
        remarks.append(f"compared: {_runs(part.repeats)} of this session with {_runs(len(part.runs))} of the baseline")
    if any(not change.gated for change in part.changes):
        remarks.append("allowed in brackets: shown only, fails no test")
    titles: dict[str, list[str]] = {}
    for change in part.changes:
        # How to learn more of a metric that fails no test would hide how to learn more of those that do.
        if change.note and (change.gated or change.verdict != "noise"):
            titles.setdefault(change.note, []).append(change.title)
    remarks += [f"{', '.join(alike)}: {note}" for note, alike in titles.items()]
    differs = "also differs: " if part.changes else ""
    return remarks + [f"{differs}{field}: {change}" for field, change in part.differences.items()]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
