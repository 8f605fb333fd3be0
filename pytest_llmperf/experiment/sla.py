"""SLAs: thresholds on a run's metrics. Parsing checks every key against the registry of metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, Literal, get_args

from pytest_llmperf.errors import UnitError
from pytest_llmperf.experiment.sla_limits import OVERRIDES, SlaKeyError, read_threshold
from pytest_llmperf.experiment.threshold import Comparator, Gate, Grade, Grades, Threshold
from pytest_llmperf.metrics import METRICS, MetricKey, format_value, metric_key

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell

__all__ = ["Comparator", "Gate", "Grade", "Grades", "Override", "Sla", "SlaKeyError", "Threshold", "parse_sla"]

Scope = Literal["hardware", "cells"]
_LEVELS = {"min": 0.0, "max": 1.0}
"""The extremes as quantiles."""


@dataclass(frozen=True)
class Override:
    """Lines that take the place of an SLA's lines of the same key, or join them, in some cells.

    ``name`` is a hardware (``h100``, ``h100x4`` for just that count) or the id of one cell.
    """

    scope: Scope
    name: str
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True, repr=False)
class Sla:
    """A named set of thresholds; all must hold. ``gate`` is the grade at which ``thresholds`` stand."""

    name: str
    thresholds: tuple[Threshold, ...]
    gate: Gate = "target"
    overrides: tuple[Override, ...] = ()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        # Short: pytest shows it above a failing test, where the table says the rest.
        name = self.name if self.gate == "target" else f"{self.name} at {self.gate}"
        return f"Sla({name}: {', '.join(f'{t.key.title} {t.required}' for t in self.thresholds)})"

    def at(self, gate: Gate) -> Sla:
        """The SLA with the limits that ``gate`` asks for, in its overrides too."""
        return replace(
            self,
            gate=gate,
            thresholds=_at(self.thresholds, gate),
            overrides=tuple(replace(override, thresholds=_at(override.thresholds, gate)) for override in self.overrides),
        )

    def on(self, cell: Cell) -> Sla:
        """The SLA as it is for a cell: the overrides for its hardware, for that count of it, and for the cell itself.

        They are applied in this order, each over the ones before; none is left.
        """
        hardware = cell.hardware
        places = (("hardware", hardware.name), ("hardware", f"{hardware.name}x{hardware.count}"), ("cells", cell.id))
        lines = {threshold.key: threshold for threshold in self.thresholds}
        for place in places:
            for override in self.overrides:
                if (override.scope, override.name) == place:
                    lines.update((threshold.key, threshold) for threshold in override.thresholds)
        return replace(self, thresholds=tuple(lines.values()), overrides=())


def parse_sla(name: str, document: Mapping[str, object]) -> Sla:
    """``{"ttft": {"p99": "1s"}, "error_rate": "0.1%"}`` -> an Sla at its targets. ``docs/slas.md`` has the whole language.

    Raises ``SlaKeyError``. Whether the overrides' hardware and cells exist is for ``experiment.overrides`` to say.
    """
    if not isinstance(document, Mapping):
        raise SlaKeyError((), f"an SLA is a mapping of metrics to limits, not {document!r}")
    lines = _lines((), {key: spec for key, spec in document.items() if key not in OVERRIDES})
    if not lines:
        where_not = " that holds in every cell" if set(OVERRIDES) & set(document) else ""
        raise SlaKeyError((), f"an SLA needs at least one limit{where_not}")
    _check_goodput((), lines.values())
    overrides = tuple(_overrides("hardware", document, lines)) + tuple(_overrides("cells", document, lines))
    return Sla(name, tuple(lines.values()), overrides=overrides)


def _at(thresholds: Iterable[Threshold], gate: Gate) -> tuple[Threshold, ...]:
    return tuple(threshold.at(gate) for threshold in thresholds)


def _overrides(scope: Scope, document: Mapping[str, object], base: Mapping[MetricKey, Threshold]) -> Iterator[Override]:
    if scope not in document:
        return
    names = document[scope]
    if not isinstance(names, Mapping) or not names:
        kind = "hardware names" if scope == "hardware" else "cell ids"
        raise SlaKeyError((scope,), f"must be a mapping of {kind} to limits")
    for name, limits in names.items():
        place = (scope, str(name))
        if not isinstance(limits, Mapping) or not limits:
            raise SlaKeyError(place, "must be a mapping of metrics to limits, with at least one")
        lines = _lines(place, limits)
        _check_goodput(place, {**base, **lines}.values())
        yield Override(scope, str(name), tuple(lines.values()))


def _lines(place: tuple[str, ...], document: Mapping[str, object]) -> dict[MetricKey, Threshold]:
    """The limits of a mapping that stands at ``place``, by what they limit."""
    lines: dict[MetricKey, Threshold] = {}
    paths: dict[MetricKey, tuple[str, ...]] = {}
    for path, spec in _entries(place, document):
        try:
            threshold = read_threshold(path, spec)
        except SlaKeyError as error:
            raise SlaKeyError((*place, *error.path), str(error)) from None
        if threshold.key in lines:
            raise SlaKeyError((*place, *path), f"{threshold.key.title} has a limit already")
        lines[threshold.key], paths[threshold.key] = threshold, (*place, *path)
    for lower, higher in permutations(lines.values(), 2):
        _check_says_something(paths[lower.key], lower, higher)
    return lines


def _check_says_something(path: tuple[str, ...], lower: Threshold, higher: Threshold) -> None:
    """Refuse ``p95 <= 2s`` beside ``p99 <= 1s``: it could never decide, so that the two were likely swapped.

    Grades are held against their like; a line without grades holds at every gate, and says something if it does at one of them.
    Lines of an override are not held against the SLA's own: it may tighten p99 alone.
    """
    low, high = (_LEVELS.get(line.key.statistic or "", line.key.quantile) for line in (lower, higher))
    if lower.key.metric != higher.key.metric or low is None or high is None or low >= high:
        return
    if lower.grades is not None and higher.grades is not None:
        idle = [grade for grade, limit in lower.limits.items() if limit > higher.limits.get(grade, math.inf)]
    else:
        idle = ["target"] if all(lower.at(gate).limit > higher.at(gate).limit for gate in get_args(Gate)) else []
    if idle:
        of_grade = "" if idle[0] == "target" else f" ({idle[0]})"
        says, strict = (f"{line.key.title} <= {format_value(line.key.metric, line.limits[idle[0]])}" for line in (lower, higher))
        raise SlaKeyError(
            path,
            f"{says} says nothing beside {strict}{of_grade}: {lower.key.statistic} is never more than "
            f"{higher.key.statistic}; are the two swapped?",
        )


def _entries(place: tuple[str, ...], document: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], object]]:
    """A line for each limit: a mapping under a distribution holds statistics, any other is the limit itself (its grades)."""
    for key, spec in document.items():
        name = str(key)
        if name in OVERRIDES:
            raise SlaKeyError((*place, name), "overrides do not nest: this one may hold limits only")
        if not isinstance(spec, Mapping) or _is_whole(name):
            yield (name,), spec
        elif not spec:
            raise SlaKeyError((*place, name), "needs a limit, such as {p99: 1s}")
        else:
            yield from (((name, str(statistic)), limit) for statistic, limit in spec.items())


def _is_whole(name: str) -> bool:
    """Whether a name is a metric's key without a statistic below it: ``error_rate``, ``ttft_p99``."""
    if name in METRICS:
        return not METRICS[name].is_distribution
    try:
        metric_key(name)
    except UnitError:
        return False
    return True


def _check_goodput(place: tuple[str, ...], thresholds: Iterable[Threshold]) -> None:
    lines = tuple(thresholds)
    goodput = next((line for line in lines if line.key.metric.name == "goodput"), None)
    if goodput is not None and not goodput.within and all(line.request_level is None for line in lines):
        raise SlaKeyError(
            (*place, "goodput"),
            "no limit says when a request is good: write goodput: {min: 95%, within: {ttft: 1s}}, or limit a quantile such as "
            "ttft p99",
        )
