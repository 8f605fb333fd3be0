"""Which rows a summary has: groups of runs under a heading, each run with a label that no other of its group has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.errors import unknown
from pytest_llmperf.report.columns import value_of

if TYPE_CHECKING:
    from pytest_llmperf.metrics import MetricKey
    from pytest_llmperf.report.results_v2 import RunDocument


def hardware_id(document: RunDocument) -> str:
    """``h100`` or ``h100x4``."""
    cell = document.cell
    return cell.hardware if cell.count == 1 else f"{cell.hardware}x{cell.count}"


_GROUPS: dict[str, Callable[[RunDocument], str]] = {
    "cell": lambda document: document.cell.id,
    "workload": lambda document: document.workload.name,
    "test": lambda document: document.test,
    "hardware": hardware_id,
    "model": lambda document: document.cell.model,
}


_FURTHER: tuple[Callable[[RunDocument], str], ...] = (
    lambda document: document.label,
    lambda document: document.profile,
    lambda document: document.workload.name,
    lambda document: document.node_id.partition("::")[0],
)


@dataclass(frozen=True)
class Row:
    """One run: its label, and where its document stands in the sequence that was given."""

    label: str
    index: int


@dataclass(frozen=True)
class RowGroup:
    """Runs under one heading. All of them are simulated or none is: the two never stand side by side unmarked."""

    heading: str
    simulated: bool
    rows: tuple[Row, ...]


def row_groups(documents: Sequence[RunDocument], group_by: str, sort: MetricKey | Literal["name"] | None) -> tuple[RowGroup, ...]:
    """Group and order runs. ``sort``: a metric (best first, unknown values last), by ``name``, or None: as they were given.

    Raises ``ConfigError`` for a grouping that does not exist.
    """
    if group_by not in _GROUPS:
        raise unknown("grouping", group_by, _GROUPS)
    of_group: dict[tuple[str, bool], list[int]] = {}
    for index, document in enumerate(documents):
        of_group.setdefault((_GROUPS[group_by](document), document.simulated), []).append(index)
    groups = []
    for heading, simulated in sorted(of_group) if sort == "name" else of_group:
        indices = of_group[heading, simulated]
        labels = _labels([documents[i] for i in indices], group_by)
        rows = [Row(label, i) for label, i in zip(labels, indices, strict=True)]
        if sort == "name":
            rows.sort(key=lambda row: row.label)
        elif sort is not None:
            rows.sort(key=lambda row: _rank(documents[row.index], sort))
        groups.append(RowGroup(heading, simulated, tuple(rows)))
    return tuple(groups)


def _rank(document: RunDocument, sort: MetricKey) -> float:
    value = value_of(document, sort)
    if math.isnan(value):
        return math.inf
    return -value if sort.metric.higher_is_better else value


def _labels(documents: Sequence[RunDocument], group_by: str) -> list[str]:
    """The shortest labels that tell the runs of a group apart: more is said only of those it sets apart from others."""
    labels = [_first_label(document, group_by) for document in documents]
    for part in _FURTHER:
        alike = Counter(labels)
        longer = [f"{x} {part(d)}".rstrip() if alike[x] > 1 else x for x, d in zip(labels, documents, strict=True)]
        if len(set(longer)) > len(alike):
            labels = longer
    return _numbered(labels)


def _first_label(document: RunDocument, group_by: str) -> str:
    """What the heading leaves open: the test, the cell, or both."""
    if group_by == "cell":
        return document.test
    return document.cell.id if group_by == "test" else f"{document.cell.id} {document.test}"


def _numbered(labels: list[str]) -> list[str]:
    """Runs that are alike in everything are told apart by their order: ``test_repeat #2``."""
    alike, seen = Counter(labels), Counter[str]()
    for i, label in enumerate(labels):
        seen[label] += 1
        if alike[label] > 1:
            labels[i] = f"{label} #{seen[label]}"
    return labels
