"""Tables for people, in a terminal or a log. They compute text; whoever calls prints it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.judge.text import request_terms, shown, shown_interval
from pytest_llmperf.judge.verdict import reason_of
from pytest_llmperf.metrics import ROUNDING, MetricKey, metric_key
from pytest_llmperf.report.columns import Column, summary_columns
from pytest_llmperf.report.comparison import title_of
from pytest_llmperf.report.rows import RowGroup, row_groups
from pytest_llmperf.units import format_duration, format_fraction

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from pytest_llmperf.experiment.sla import Grade
    from pytest_llmperf.judge.verdict import Check, Verdict
    from pytest_llmperf.report.results_v2 import RunDocument

DEFAULT_KEYS: tuple[MetricKey, ...] = (
    *(metric_key(name, statistic) for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p95", "p99")),
    metric_key("output_tokens_per_s"),
    metric_key("error_rate"),
)
"""What a summary shows when nobody asks for more."""

SIMULATED = "SIMULATED"
_SLA_WIDTH = 80
_SLA_HEADING = ("metric", "required", "measured", "95 % interval", "verdict", "how far")
_LABEL_MIN = 12
_INDENT = 1
_STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "INVALID": "bold magenta"}


def sla_table(verdict: Verdict, simulated: bool) -> str:
    """A verdict as plain text of at most 80 columns: a line a threshold, and under them why it is no PASS.

    A graded limit's verdict is followed by the measured value's grade; where the lines have no room for it, it stands under them.
    """
    mark = f" ({SIMULATED}: no real server was measured)" if simulated else ""
    lines = textwrap.wrap(f"SLA {verdict.sla_name}{_terms(verdict)}: {verdict.outcome}{mark}", _SLA_WIDTH)
    rows = _aligned([_SLA_HEADING, *(_check_row(check, check.grade) for check in verdict.checks)], right={2})
    remarks = _remarks(verdict)
    if max(map(len, rows)) > _SLA_WIDTH:
        rows = _aligned([_SLA_HEADING, *(_check_row(check, None) for check in verdict.checks)], right={2})
        remarks = [*(f"{check.threshold.key.title} is {check.grade}" for check in verdict.checks if check.grade), *remarks]
    lines += rows
    for remark in remarks:
        lines += textwrap.wrap(remark, _SLA_WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines)


def _terms(verdict: Verdict) -> str:
    """How the verdict was reached, where that is not as always."""
    graded = any(check.threshold.grades is not None for check in verdict.checks)
    terms = [f"at {verdict.gate}"] if graded and verdict.gate != "target" else []
    terms += [verdict.policy.value] if verdict.policy != "measured" else []
    return f" ({', '.join(terms)})" if terms else ""


def _remarks(verdict: Verdict) -> list[str]:
    """What the rows of the table do not say by themselves."""
    told = {reason_of(check) for check in verdict.checks}
    terms = [(check.threshold.key.title, request_terms(check.threshold)) for check in verdict.checks]
    return [
        *(reason for reason in verdict.reasons if reason not in told),
        *(f"{check.threshold.key.title}: {check.note}" for check in verdict.checks if check.note),
        *(f"{title}: the share of requests with {limits}" for title, limits in terms if limits),
    ]


def _check_row(check: Check, grade: Grade | None) -> tuple[str, ...]:
    threshold, estimate = check.threshold, check.estimate
    metric = threshold.key.metric
    return (
        threshold.key.title,
        threshold.required,
        shown(metric, estimate.value),
        shown_interval(metric, estimate.low, estimate.high),
        f"{check.outcome.value} ({grade})" if grade else check.outcome.value,
        how_far(check),
    )


def how_far(check: Check) -> str:
    """How far the measured value is from its limit."""
    return margin_text(check.margin, at_most=check.threshold.comparator == "<=")


def margin_text(margin: float, *, at_most: bool) -> str:
    """``1.8x over``, ``4.2% over``, ``17% short`` (of what is to be reached); ``46% of limit``, ``2.9x the limit`` where kept."""
    if math.isnan(margin):
        return "-"
    if math.isinf(margin):
        return "over" if at_most else "above"
    kept = margin <= 1 + ROUNDING if at_most else margin >= 1 - ROUNDING
    if kept:
        return f"{format_fraction(margin)} of limit" if margin < 2 else f"{_times(margin)} the limit"
    if not at_most:
        return f"{format_fraction(1 - margin)} short"
    if margin < 1.1:
        return f"{format_fraction(margin - 1)} over"
    return f"{_times(margin)} over"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}x" if ratio < 10 else f"{ratio:,.0f}x"


def _aligned(rows: Sequence[tuple[str, ...]], right: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Long names are given the space between the columns before the line is given more than its width.
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _SLA_WIDTH else 1
    return [
        (" " * gap)
        .join(
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in rows
    ]


def summary_table(
    documents: Sequence[RunDocument],
    width: int,
    *,
    group_by: str = "cell",
    sort: str | MetricKey | None = None,
    columns: Sequence[str | MetricKey] = DEFAULT_KEYS,
) -> RenderableType:
    """One line a run for a terminal of ``width`` columns, under headings that say SIMULATED where it applies.

    ``columns`` are metrics; neighbouring statistics of one latency share a column. ``group_by`` is ``cell``, ``workload``,
    ``test``, ``hardware`` or ``model``; ``sort`` a metric (best first), ``name``, or None for the order given. Columns that do
    not fit follow in a second block with the labels repeated, and a label that does not fit has a line of its own:
    nothing is cut off. Raises
    ``UnitError`` for an unknown metric, ``ConfigError`` for an unknown grouping.
    """
    from rich.console import Group
    from rich.text import Text

    if not documents:
        return Text("no runs")
    order: MetricKey | Literal["name"] | None = "name" if sort == "name" else None if sort is None else _key(sort)
    groups = row_groups(documents, group_by, order)
    keys = dict.fromkeys(map(_key, columns))
    verdicts = _verdicts(documents)
    blocks = _blocks(summary_columns(documents, tuple(keys)), width - _LABEL_MIN - verdicts.width - 1)
    lines: list[Text] = []
    for block in blocks:
        lines += [Text()] if lines else []
        lines += _Layout((*block, verdicts), groups, group_by, width).lines()
    return Group(*lines)


def warmup_lines(documents: Iterable[RunDocument], width: int) -> Iterator[str]:
    """Which runs began with more requests that are not counted than was asked for, in lines of at most ``width``."""
    for document in documents:
        if document.steadiness is not None and document.steadiness.extra_warmup_s > 0:
            longer = format_duration(document.steadiness.extra_warmup_s)
            told = f"{title_of(document)}: warm-up lengthened by {longer}, since TPOT had not settled before"
            yield from textwrap.wrap(told, width, subsequent_indent="  ")


def render_text(renderable: RenderableType, width: int) -> str:
    """A renderable as plain text: no colour, no trailing blanks, a newline at the end of every line."""
    from rich.console import Console

    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _key(key: str | MetricKey) -> MetricKey:
    return key if isinstance(key, MetricKey) else metric_key(key)


def _verdicts(documents: Sequence[RunDocument]) -> Column:
    words = tuple(document.verdict or "-" for document in documents)
    # PASS and FAIL need no heading, least of all one that is wider than they are.
    return Column(("", "verdict" if max(map(len, words)) >= len("verdict") else ""), words)


def _blocks(columns: Sequence[Column], room: int) -> list[tuple[Column, ...]]:
    blocks: list[list[Column]] = [[]]
    for column in columns:
        if blocks[-1] and sum(c.width + 1 for c in blocks[-1]) + column.width + 1 > room:
            blocks.append([])
        blocks[-1].append(column)
    return [tuple(block) for block in blocks]


class _Layout:
    """Where everything of one block stands: labels left, numbers right-aligned, the verdict last."""

    def __init__(self, columns: tuple[Column, ...], groups: Sequence[RowGroup], group_by: str, width: int) -> None:
        self._columns, self._groups, self._group_by, self._width = columns, groups, group_by, width
        longest = max(len(row.label) for group in groups for row in group.rows) + _INDENT
        widths = sum(column.width for column in columns)
        self._gap = 2 if widths + 2 * len(columns) + longest <= width else 1
        self._label = max(_LABEL_MIN, min(longest, width - widths - self._gap * len(columns)))

    def lines(self) -> list[Text]:
        """The heading's two lines (one, where the first is empty), and each group's."""
        first, second = zip(*(column.heading for column in self._columns), strict=True)
        return [
            *([self._line("", first)] if any(first) else []),
            self._line(self._group_by, second),
            *(line for group in self._groups for line in self._group(group)),
        ]

    def _group(self, group: RowGroup) -> list[Text]:
        mark = f" ({SIMULATED})" if group.simulated else ""
        lines = self._whole(group.heading + mark, style="bold")
        for row in group.rows:
            cells = [column.cells[row.index] for column in self._columns]
            label = " " * _INDENT + row.label
            if len(label) > self._label:
                # A name stays in one piece, to be read and copied; its numbers follow on the next line.
                lines += self._whole(label)
                label = ""
            lines.append(self._line(label, cells))
        return lines

    def _whole(self, text: str, style: str = "") -> list[Text]:
        """A name on a line of its own, on several only where it is longer than the terminal is wide."""
        from rich.text import Text

        indent = " " * _INDENT
        return [Text(part, style) for part in textwrap.wrap(text, self._width, subsequent_indent=indent, break_on_hyphens=False)]

    def _line(self, label: str, cells: Sequence[str]) -> Text:
        from rich.text import Text

        *numbers, verdict = cells
        line = Text(label.ljust(self._label), no_wrap=True, overflow="ignore")
        for column, cell in zip(self._columns, numbers, strict=False):
            line.append(" " * self._gap + cell.rjust(column.width))
        line.append(" " * self._gap)
        return line.append(verdict, _STYLES.get(verdict, ""))
