"""How each test's metrics went over the saved sessions, with the change against the session before."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from pytest_llmperf.judge.fingerprint import context_differences, differences
from pytest_llmperf.judge.text import shown
from pytest_llmperf.metrics import MetricKey, Unit, metric_key
from pytest_llmperf.report.columns import value_of
from pytest_llmperf.report.comparison import NO_FINGERPRINT, title_of
from pytest_llmperf.report.grid import Field, grid, heading, plain, together, widest
from pytest_llmperf.report.listing import commit_shown, local_time
from pytest_llmperf.units import format_fraction, format_number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from pytest_llmperf.report.results_v2 import RunDocument
    from pytest_llmperf.report.saved import Saved

DEFAULT_KEYS: tuple[MetricKey, ...] = (
    metric_key("ttft", "p50"),
    metric_key("ttft", "p99"),
    metric_key("tpot", "p50"),
    metric_key("output_tokens_per_s"),
    metric_key("error_rate"),
)
"""What is shown when nobody asks for other metrics."""

_LEVELS = "_.-=+*#"
_LEAST_RANGE = 0.2
"""A line's height is at least this share of its highest value: noise of a per cent must not look like a cliff."""
_LONGEST_LINE = 40
_FEWEST_FOR_A_LINE = 3


@dataclass(frozen=True)
class Point:
    """A test's runs in one saved session (several where it was repeated)."""

    saved: Saved
    runs: tuple[RunDocument, ...]

    def value(self, key: MetricKey) -> float:
        """The median over the runs, in base units; nan where none has the metric."""
        values = [value for run in self.runs if not math.isnan(value := value_of(run, key))]
        return median(values) if values else math.nan


@dataclass(frozen=True)
class History:
    """One test on one cell, oldest session first. All of its runs are simulated or none is."""

    title: str
    simulated: bool
    points: tuple[Point, ...]


def histories(sessions: Sequence[Saved]) -> list[History]:
    """The tests of these sessions (oldest first, all of them readable), in the order in which they first appear.

    Runs belong together that ask for the same workload and load of the same cell in the same test; what else they ran under may
    differ from session to session.
    """
    found: dict[_Question, dict[Saved, list[RunDocument]]] = {}
    for saved in sessions:
        for run in saved.document.runs:
            found.setdefault(_question(run), {}).setdefault(saved, []).append(run)
    alike = Counter((question.title, question.simulated) for question in found)
    return [
        History(
            question.title if alike[question.title, question.simulated] == 1 else f"{question.title} {question.load}",
            question.simulated,
            tuple(Point(saved, tuple(runs)) for saved, runs in by_session.items()),
        )
        for question, by_session in found.items()
    ]


@dataclass(frozen=True)
class _Question:
    """What the runs of one history have in common."""

    title: str
    load: str
    simulated: bool


def _question(run: RunDocument) -> _Question:
    return _Question(title_of(run), f"{run.workload.name} {run.profile}", run.simulated)


def trend_table(found: Sequence[History], keys: Sequence[MetricKey], width: int, zone: tzinfo | None = None) -> RenderableType:
    """A block a test: one line a session, metrics with their change against the line above; what changed besides; their course.

    Metrics that do not fit beside each other follow below. Times are in ``zone``; None: where this runs.
    """
    lines: list[Text] = []
    for history in found:
        lines += [plain("")] if lines else []
        lines += heading(history.title, history.simulated, width)
        for block in _blocks(history, keys, width, zone):
            lines += block
        lines += [plain(line) for remark in _remarks(history) for line in _wrapped(remark, width)]
        if len(history.points) >= _FEWEST_FOR_A_LINE:
            lines += [plain(line) for line in _courses(history, keys)]
    return together(lines)


def _blocks(history: History, keys: Sequence[MetricKey], width: int, zone: tzinfo | None) -> Iterator[list[Text]]:
    points = history.points
    documents = [point.saved.document for point in points]
    before = [
        Field("no.", tuple(f"{point.saved.number or 0:04d}" for point in points)),
        Field("saved", tuple(local_time(document.created, zone) for document in documents)),
        Field("commit", tuple(commit_shown(document) for document in documents)),
    ]
    if any(len(point.runs) > 1 for point in points):
        before.append(Field("runs", tuple(str(len(point.runs)) for point in points), right=True))
    name = before.pop(0)
    if len({point.saved.name for point in points}) > 1:
        name = Field("no. and name", tuple(point.saved.label for point in points))
    room = width - widest((name, *before), 1) - 1
    rest = [_with_changes(points, key) for key in keys]
    while rest:
        fitting = 1
        while fitting < len(rest) and widest(rest[: fitting + 1], 1) <= room:
            fitting += 1
        yield grid((), name, (*before, *rest[:fitting]), width)
        rest = rest[fitting:]


def _with_changes(points: Sequence[Point], key: MetricKey) -> Field:
    values = [point.value(key) for point in points]
    comparable = [False, *(not _apart(point, before) for before, point in pairwise(points))]
    changes = [change_shown(key, value, values[i - 1]) if comparable[i] else "" for i, value in enumerate(values)]
    numbers = [shown(key.metric, value) for value in values]
    wide, changed = max(map(len, numbers)), max(map(len, changes))
    cells = (f"{number.rjust(wide)} {change.rjust(changed)}" for number, change in zip(numbers, changes, strict=True))
    return Field(key.title, tuple(cells), right=True)


def change_shown(key: MetricKey, value: float, before: float) -> str:
    """``+4.2%``, ``0%``; a share's in points: ``+0.1pp``; empty where there is no such number."""
    if not (math.isfinite(value) and math.isfinite(before)):
        return ""
    if key.metric.unit is Unit.FRACTION:
        difference = round((value - before) * 100, 2)
        return f"{'+' if difference > 0 else ''}{format_number(difference)}pp"
    if before == 0:
        return ""
    ratio = round(value / before - 1, 3)
    return f"{'+' if ratio > 0 else ''}{format_fraction(ratio)}"


def _apart(point: Point, before: Point) -> dict[str, str]:
    """What must be equal and is not, where both sides say it."""
    now, was = point.runs[0].fingerprint, before.runs[0].fingerprint
    return differences(now, was) if now and was else {}


def _remarks(history: History) -> Iterator[str]:
    """What else changed from one session to the next: it tells which changes of the numbers are no wonder."""
    for before, point in pairwise(history.points):
        number = f"{point.saved.number or 0:04d}"
        if not (point.runs[0].fingerprint and before.runs[0].fingerprint):
            yield f"{number}: perhaps not comparable with the one before: {NO_FINGERPRINT}"
            continue
        if apart := _apart(point, before):
            yield f"{number}: not comparable with the one before: {_listed(apart)}"
        elif changed := context_differences(point.runs[0].context, before.runs[0].context):
            yield f"{number}: {_listed(changed)}"


def _listed(fields: dict[str, str]) -> str:
    return "; ".join(f"{field} {change}" for field, change in fields.items())


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="      ", break_on_hyphens=False)


def _courses(history: History, keys: Sequence[MetricKey]) -> Iterator[str]:
    points = history.points[-_LONGEST_LINE:]
    apart = [False, *(bool(_apart(point, before)) for before, point in pairwise(points))]
    wide = max(len(key.title) for key in keys)
    for key in keys:
        values = [point.value(key) for point in points]
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            low, high = shown(key.metric, min(finite)), shown(key.metric, max(finite))
            yield f"{key.title.ljust(wide)}  |{course(values, apart)}|  {low if low == high else f'{low}..{high}'}"


def course(values: Sequence[float], apart: Sequence[bool]) -> str:
    """One character a value, from ``_`` (lowest) to ``#`` (highest); ``!`` without bound, blank where unknown.

    The full height is the values' range, and at least 20 % of the highest one. A bar stands before a value that is ``apart``
    from the one before, because the two cannot be compared.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    height = max(high - low, _LEAST_RANGE * abs(high)) or 1.0

    def level(value: float) -> str:
        if not math.isfinite(value):
            return "!" if math.isinf(value) else " "
        return _LEVELS[min(len(_LEVELS) - 1, int((value - low) / height * len(_LEVELS)))]

    return "".join(("|" if bar else "") + level(value) for value, bar in zip(values, apart, strict=True))
