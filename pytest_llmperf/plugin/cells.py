"""From the matrix to parameters, from the marker to a workload and an SLA, and the order in which tests run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import pytest

from pytest_llmperf.errors import ConfigError, Where, nearest
from pytest_llmperf.experiment.catalog import Catalog
from pytest_llmperf.experiment.fit import fits
from pytest_llmperf.experiment.overrides import check_overrides
from pytest_llmperf.experiment.records import Cell, Hardware, NamedProfile, Workload
from pytest_llmperf.experiment.sla import Gate, Sla, SlaKeyError, parse_sla
from pytest_llmperf.experiment.yaml_source import parse_yaml
from pytest_llmperf.plugin.asserted import LlmperfWarning

MARKER = "llmperf"
MATRIX_FIXTURE = "_llmperf_cells"
"""In the closure of every test that uses the plugin's own ``cell``, and of no other."""
REPETITION = "_llmperf_repetition"
"""The fixture through which ``--llmperf-repeat`` runs a test with a load several times."""
MARKER_KEYS = ("workload", "sla", "profile", "tolerance")

SlaGiven = Sla | Mapping[str, object] | str
"""What may stand for an SLA in a test: the fixture ``sla``, limits, or a name of the catalog."""


@dataclass(frozen=True)
class Request:
    """What a test's marker asks for. ``where`` is the test, for errors."""

    workload: str | None
    sla: str | Mapping[str, object] | None
    profile: str | None
    where: Where
    tolerance: Mapping[str, object] | None = None


def cell_parameters(cells: Sequence[Cell]) -> list[Any]:
    """One pytest parameter a cell: kept on one xdist worker, skipped with the reason where the model cannot fit."""
    parameters = []
    for cell in cells:
        fit = fits(cell)
        marks = [pytest.mark.xdist_group(cell.id)]
        if not fit.ok:
            marks.append(pytest.mark.skip(reason=f"{cell.id}: {fit.reason}"))
        parameters.append(pytest.param(cell, id=cell.id, marks=marks))
    return parameters


def request_of(definition: pytest.Item) -> Request:
    """The nearest ``llmperf`` markers of a test, merged: the function's keys before the class's before the module's.

    Raises ``ConfigError`` for an unknown key or a positional argument.
    """
    path, line, _ = definition.location
    where = Where(file=path, line=(line or 0) + 1, key=f"marker {MARKER}")
    asked: dict[str, Any] = {}
    for mark in definition.iter_markers(MARKER):
        if mark.args:
            raise ConfigError(
                f"takes keywords only, not {mark.args[0]!r}", where=where, hint=f"Write llmperf(workload={mark.args[0]!r})."
            )
        for key, value in mark.kwargs.items():
            if key not in MARKER_KEYS:
                close = nearest(key, MARKER_KEYS)
                meant = f"Did you mean {close!r}? " if close else ""
                raise ConfigError(f"unknown keyword {key!r}", where=where, hint=f"{meant}Known: {', '.join(MARKER_KEYS)}.")
            asked.setdefault(key, value)
    return Request(asked.get("workload"), asked.get("sla"), asked.get("profile"), where, asked.get("tolerance"))


def workload_of(request: Request, catalog: Catalog) -> Workload:
    """The marker's workload. Raises ``ConfigError`` when it is unknown, or none is named."""
    if request.workload is None:
        raise ConfigError(
            "names no workload", where=request.where, hint='Mark the test: @pytest.mark.llmperf(workload="interactive-chat").'
        )
    return catalog.workload_named(request.workload, request.where)


def sla_of(
    request: Request,
    catalog: Catalog,
    workload: Workload | None,
    override: str | None,
    cell: Cell | None = None,
    gate: Gate = "target",
) -> Sla:
    """``--llmperf-sla`` before the marker's SLA (a name or a mapping) before the workload's, as it is for ``cell`` at ``gate``.

    Without a cell its overrides are left in it. Raises ``ConfigError``.
    """
    sla = _sla_asked_for(request, catalog, workload, override)
    return (sla.on(cell) if cell is not None else sla).at(gate)


def _sla_asked_for(request: Request, catalog: Catalog, workload: Workload | None, override: str | None) -> Sla:
    if override is not None:
        return _command_line_sla(override, catalog)
    if request.sla is not None:
        return _marker_sla(request.sla, catalog, request.where)
    if workload is None:
        raise ConfigError("names neither an SLA nor a workload", where=request.where)
    return catalog.sla_for(workload)


def _marker_sla(named: str | Mapping[str, object], catalog: Catalog, where: Where) -> Sla:
    return catalog.sla_named(named, where) if isinstance(named, str) else _parsed("inline", named, where, catalog)


def sla_given(given: object, where: Where, *, catalog: Catalog, gate: Gate = "target") -> Sla:
    """The SLA that a test hands over at ``where``: an SLA as it is; limits, or the name of one of the catalog's, at ``gate``.

    Its overrides are left in it. Raises ``ConfigError``, also for what is neither.
    """
    if isinstance(given, Sla):
        return given
    if isinstance(given, str | Mapping):
        return _marker_sla(given, catalog, where).at(gate)
    raise ConfigError(
        f"takes an SLA, not {type(given).__name__}",
        where=where,
        hint='Give the fixture sla, limits such as {"ttft": {"p99": "1s"}}, or the name of an SLA of the catalog.',
    )


def profile_of(request: Request, catalog: Catalog, hardware: Hardware | None = None) -> NamedProfile:
    """The marker's load profile before the workload's, as it is on ``hardware``. Raises ``ConfigError``."""
    if request.profile is not None:
        profile = catalog.profile_named(request.profile, request.where)
    else:
        profile = catalog.profile_for(workload_of(request, catalog))
    return profile.on(hardware) if hardware is not None else profile


def _command_line_sla(text: str, catalog: Catalog) -> Sla:
    where = Where(option="--llmperf-sla")
    try:
        document = parse_yaml(text, str(where)).data
    except ConfigError as error:
        raise ConfigError(f"not YAML: {text!r}", where=where, hint=error.what.removeprefix("not YAML: ")) from None
    return _parsed("command line", document, where, catalog)


def _parsed(name: str, document: Any, where: Where, catalog: Catalog) -> Sla:
    try:
        sla = parse_sla(name, document)
    except SlaKeyError as error:
        hint = f"At {'.'.join(error.path)}." if where.option and error.path else None
        raise ConfigError(str(error), where=_within(where, *error.path), hint=hint) from None
    check_overrides(sla, catalog, lambda scope, name: _within(where, scope, name))
    return sla


def _within(where: Where, *path: str) -> Where:
    """A key below a marker; an option is one place as a whole."""
    return where if where.option else replace(where, key=".".join((*([where.key] if where.key else []), *path)) or None)


def check_requests(items: Iterable[pytest.Item], catalog: Catalog, override: str | None) -> None:
    """Resolve what is given to every test with a cell, by its marker or the command line, whether or not the test uses it.

    A typo ends the session before a deployment. Raises ``ConfigError``.
    """
    if override is not None:
        _command_line_sla(override, catalog)
    seen = set()
    for item in items:
        names = getattr(item, "fixturenames", ())
        # A test's cells share its markers; a further parameter may bring its own.
        key = (item.parent, getattr(item, "originalname", item.name), *map(id, item.iter_markers(MARKER)))
        if key in seen or cell_of(item) is None:
            continue
        seen.add(key)
        request = request_of(item)
        workload = workload_of(request, catalog) if request.workload is not None or "load" in names else None
        if request.sla is not None:
            _marker_sla(request.sla, catalog, request.where)
        if "sla" in names:
            sla_of(request, catalog, workload, override)
        elif any("sla" in mark.kwargs for mark in item.own_markers if mark.name == MARKER) and not _may_ask(item):
            _warn_of_idle_sla(item, request.where)
        if request.profile is not None or "profile" in names:
            profile_of(request, catalog)


def ready_paths(items: Iterable[pytest.Item], catalog: Catalog) -> tuple[str, ...]:
    """Where a service must answer that the selected tests ask by templates (``api: http``) alone; else empty.

    A test that names no workload has no say in it.
    """
    named = dict.fromkeys(request_of(item).workload for item in items if cell_of(item) is not None)
    templates = [catalog.workload_named(name).http for name in named if name is not None]
    paths = [template.ready_path for template in templates if template is not None]
    return tuple(dict.fromkeys(paths)) if len(paths) == len(templates) else ()


def _may_ask(item: pytest.Item) -> bool:
    """Whether a test takes ``request``, and so may ask for any fixture while it runs."""
    function = getattr(item, "function", None)
    return function is not None and "request" in signature(function).parameters


def _warn_of_idle_sla(item: pytest.Item, where: Where) -> None:
    """Tell of an SLA on a test that cannot hold it. Not of a class's or a module's, which some of their tests may use."""
    idle = "sla= asserts nothing: the test does not ask for the fixture sla"
    try:
        item.warn(LlmperfWarning(idle))
    except LlmperfWarning:
        # Where warnings are errors.
        raise ConfigError(idle, where=where, hint="Ask for it, or remove sla=.") from None


def cell_of(item: pytest.Item | None) -> Cell | None:
    """The cell a test runs in, or None for tests that have none."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec is not None else None
    return cell if isinstance(cell, Cell) else None


def other_parameters(item: pytest.Item, cell: Cell) -> str:
    """What stands in a test's id beside its cell: ``8`` of ``test[gke_h100_standalone_m-8]``; empty where nothing does."""
    identity: str = getattr(getattr(item, "callspec", None), "id", "")
    return "-".join(filter(None, (part.strip("-") for part in identity.split(cell.id, 1))))


def node_id_of(item: pytest.Item) -> str:
    """The test's id without the group that xdist adds to it under older pytests: ``t.py::test[cell]@group``."""
    return without_group(item.nodeid)


def without_group(node_id: str) -> str:
    """``t.py::test[cell]`` of ``t.py::test[cell]@group``."""
    head, bracket, _ = node_id.rpartition("]")
    return head + bracket if bracket else node_id


def runnable_cells(items: Iterable[pytest.Item]) -> tuple[Cell, ...]:
    """The cells of these tests, each once, without those whose model cannot fit."""
    found = {cell.id: cell for item in items if (cell := cell_of(item)) is not None}
    return tuple(cell for cell in found.values() if fits(cell).ok)


def grouped_by_cell(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests in their order, but each cell's together: a deployment is stood up once and torn down after the last."""
    groups: dict[str | None, list[pytest.Item]] = {}
    for item in items:
        cell = cell_of(item)
        groups.setdefault(cell.id if cell else None, []).append(item)
    return [item for group in groups.values() for item in group]
