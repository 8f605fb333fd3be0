"""Which rows a summary has: groups of runs under a heading, each run with a label that no other of its group has."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.errors import unknown
from pytest_llmperf.report.columns import value_of
from pytest_llmperf.report.comparison import test_key

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


def _parameters(document: RunDocument) -> str:
    """``[short]``: the test's own parameters, without the cell and the repetition; nothing where it has none."""
    _, bracket, parameters = test_key(document.node_id, document.cell.id).partition("::")[2].partition("[")
    return bracket + parameters


def _file(document: RunDocument) -> str:
    return " " + document.node_id.partition("::")[0]


_OF_TEST: tuple[Callable[[RunDocument], str], ...] = (_parameters, _file)
_FURTHER: tuple[Callable[[RunDocument], str], ...] = (
    _parameters,
    lambda document: f" {document.label}",
    lambda document: f" {document.profile}",
    lambda document: f" {document.workload.name}",
    _file,
)
"""What more is said of runs with equal labels, in this order."""


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
        members = [documents[i] for i in indices]
        labels = _numbered(_told_apart([_first_label(each, group_by) for each in members], members, _FURTHER))
        rows = [Row(label, i) for label, i in zip(labels, indices, strict=True)]
        if sort == "name":
            rows.sort(key=lambda row: row.label)
        elif sort is not None:
            rows.sort(key=lambda row: _rank(documents[row.index], sort))
        groups.append(RowGroup(heading, simulated, tuple(rows)))
    return tuple(groups)


def test_labels(documents: Sequence[RunDocument]) -> list[str]:
    """For tables with columns for cell and load: of each run its test, with what tells it apart from others of its cell."""
    labels = [document.test for document in documents]
    for cell_id in {document.cell.id for document in documents}:
        indices = [i for i, document in enumerate(documents) if document.cell.id == cell_id]
        found = _told_apart([labels[i] for i in indices], [documents[i] for i in indices], _OF_TEST)
        for i, label in zip(indices, found, strict=True):
            labels[i] = label
    loads = zip(documents, load_texts(documents), strict=True)
    elsewhere = [(document.cell.id, document.workload.name, load) for document, load in loads]
    return _numbered(labels, elsewhere)


test_labels.__test__ = False  # type: ignore[attr-defined]  # pytest takes what is imported and called test_… for a test


def load_texts(documents: Sequence[RunDocument]) -> list[str]:
    """Of each run its load, with its label as the part of an experiment: ``poisson 5/s A 2 of 8``.

    A label that the load has in it already (``5/s``) is left out, but where another run of the test has that load and another
    label, or none.
    """
    labels: dict[tuple[str, str, str], set[str]] = {}
    for document in documents:
        labels.setdefault(_load_of_test(document), set()).add(document.label)
    return [_load_text(document, is_told=len(labels[_load_of_test(document)]) == 1) for document in documents]


def _load_of_test(document: RunDocument) -> tuple[str, str, str]:
    return document.node_id, document.workload.name, document.profile


def _load_text(document: RunDocument, *, is_told: bool) -> str:
    """``is_told``: whether the load alone tells the label."""
    is_told = is_told and re.search(rf"(?<!\S){re.escape(document.label)}(?![^\s,])", document.profile) is not None
    return document.profile if is_told else f"{document.profile} {document.label}".rstrip()


def _rank(document: RunDocument, sort: MetricKey) -> float:
    value = value_of(document, sort)
    if math.isnan(value):
        return math.inf
    return -value if sort.metric.higher_is_better else value


def _told_apart(
    labels: list[str], documents: Sequence[RunDocument], further: Sequence[Callable[[RunDocument], str]]
) -> list[str]:
    """The shortest labels that tell runs apart: more is said only of those it sets apart from others."""
    for part in further:
        alike = Counter(labels)
        longer = [f"{x}{part(d)}".rstrip() if alike[x] > 1 else x for x, d in zip(labels, documents, strict=True)]
        if len(set(longer)) > len(alike):
            labels = longer
    return labels


def _first_label(document: RunDocument, group_by: str) -> str:
    """What the heading leaves open: the test, the cell, or both."""
    if group_by == "cell":
        return document.test
    return document.cell.id if group_by == "test" else f"{document.cell.id} {document.test}"


def _numbered(labels: list[str], elsewhere: Sequence[Hashable] = ()) -> list[str]:
    """Runs that are alike in everything, also in what is told of them ``elsewhere``, by their order: ``test_repeat #2``."""
    told = list(zip(labels, elsewhere or [None] * len(labels), strict=True))
    alike, seen = Counter(told), Counter[tuple[str, Hashable]]()
    numbered = []
    for each in told:
        seen[each] += 1
        numbered.append(f"{each[0]} #{seen[each]}" if alike[each] > 1 else each[0])
    return numbered
