"""Whether a baseline can be compared with, found out before anything is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.baseline import (
    NO_BASELINE,
    OWN_BASELINE,
    Baseline,
    baseline_of,
    has_none,
    tolerances_of,
)
from pytest_llmperf.plugin.options import settings_of

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.plugin.session import LlmperfSession
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.saved import Source


def check_baseline(config: pytest.Config, session: LlmperfSession, items: Iterable[pytest.Item]) -> None:
    """Refuse a baseline that was measured under other conditions, before anything is deployed. Raises ``ConfigError``.

    A test that the baseline does not have is new and passes, unless it has none of the session's; so is a cell of a test whose
    other cells it has. A test that needs a baseline where there is none is marked as skipped: its fixtures would be too late,
    the deployment's comes first.
    """
    settings = settings_of(config)
    if settings.save is not None:
        from pytest_llmperf.report.saved import valid_name

        valid_name(settings.save, settings.where("save"))
    tests = [item for item in items if cells.cell_of(item) is not None]
    baseline = baseline_of(config)
    for item in tests:
        tolerances_of(cells.request_of(item), baseline)
    if baseline is None:
        for item in tests:
            if has_none(config) and OWN_BASELINE in _names(item):
                item.add_marker(pytest.mark.skip(reason=NO_BASELINE))
        return
    _check_tests(tests, session, baseline)


def _check_tests(items: Sequence[pytest.Item], session: LlmperfSession, baseline: Baseline) -> None:
    from pytest_llmperf.report.comparison import check_measured, test_key

    refused: dict[str, ConfigError] = {}
    loading: list[str] = []
    left_to_the_test = False
    runs = list(baseline.history.newest.runs)
    for item in items:
        cell, node_id = cells.cell_of(item), cells.node_id_of(item)
        assert cell is not None
        test = test_key(node_id, cell.id)
        # A test may ask for ``load`` by its name, while it runs.
        baseline.deciding[test, cell.id] = node_id
        source = _source(test, item, cell, baseline)
        of_test = [run for run in source.runs if not run.label and test_key(run) == test]
        if "load" in _names(item):
            loading.append(test)
        elif not of_test:
            continue
        if source is not baseline.history.newest:
            # It may have changed for good reason since: that is no reason to refuse the others. Where nothing fits, the test's
            # own gate says so.
            runs += source.runs
            if any(not _differing(run, item, cell, session) for run in of_test):
                baseline.known.add((test, cell.id))
            else:
                left_to_the_test = True
            continue
        request = cells.request_of(item)
        for key in request.tolerance if of_test and request.tolerance is not None else ():
            in_other_cells = [run for run in baseline.history.newest.runs if not run.label and test_key(run) == test]
            check_measured(metric_key(key).name, [*of_test, *in_other_cells], baseline.name, request.where)
        problem = _problem(baseline.name, of_test, item, cell, session)
        if problem is not None:
            refused.setdefault(test, problem)
        elif of_test:
            baseline.known.add((test, cell.id))
    for key in baseline.tolerances if items else ():
        check_measured(key, runs, baseline.name, session.settings.where("compare_fail"))
    _check_known(() if left_to_the_test else loading, refused, runs, baseline, session.settings.where("compare"))


def _source(test: str, item: pytest.Item, cell: Cell, baseline: Baseline) -> Source:
    """Where the test was last measured. Older sessions are not read for a test that may well make no load."""
    # What is marked as skipped, a cell that is too small for example, is missing in all of them.
    loads = "load" in _names(item) and item.get_closest_marker("skip") is None
    return baseline.history.source(test, cell.id) if loads else baseline.history.newest


def _check_known(
    loading: Sequence[str], refused: Mapping[str, ConfigError], runs: Sequence[RunDocument], baseline: Baseline, where: Where
) -> None:
    """Refuse a test of which nothing can be compared, and a session of which nothing is known. Raises ``ConfigError``."""
    from pytest_llmperf.report.comparison import test_key

    known_tests = {test for test, _ in baseline.known}
    for test, problem in refused.items():
        if test not in known_tests:
            raise problem
    if loading and not known_tests:
        tests = sorted({test_key(run) for run in runs if not run.label})
        raise ConfigError(
            f"baseline {baseline.name!r} has none of the selected tests, such as {loading[0]}",
            where=where,
            hint=f"It has {', '.join(tests[:5])}{f' and {len(tests) - 5} more' if len(tests) > 5 else ''}.",
        )


def _problem(
    label: str, of_test: Sequence[RunDocument], item: pytest.Item, cell: Cell, session: LlmperfSession
) -> ConfigError | None:
    """Why none of the baseline's runs of the test can be compared with it; None where one can, or it has none.

    Raises ``ConfigError`` where it has the same cell, measured under other conditions.
    """
    differing = [(run.cell.id != cell.id, _differing(run, item, cell, session), run) for run in of_test]
    if not differing or any(not fields for _, fields, _ in differing):
        return None
    other_cell, fields, run = min(differing, key=lambda found: (found[0], len(found[1])))
    problem = ConfigError(
        f"baseline {label!r} cannot be compared with {cells.node_id_of(item)}: "
        + "; ".join(f"{name}: {change}".removeprefix(": ") for name, change in fields.items()),
        where=session.settings.where("compare"),
        hint=f"The nearest run it has is of cell {run.cell.id}. Select cells it has with -k, or save a new baseline.",
    )
    if not other_cell:
        raise problem
    return problem


def _differing(run: RunDocument, item: pytest.Item, cell: Cell, session: LlmperfSession) -> dict[str, str]:
    """The fields in which a baseline's run differs from what the test will do, as far as that is known beforehand."""
    from pytest_llmperf.judge.fingerprint import cell_fingerprint, known_differences
    from pytest_llmperf.report.comparison import NO_FINGERPRINT, flaw

    if not run.fingerprint:
        return {"": NO_FINGERPRINT}
    request, settings = cells.request_of(item), session.settings
    simulated = True if settings.target == "sim" else None
    now = cell_fingerprint(cell, cells.workload_of(request, session.catalog), settings.target, simulated)
    found = known_differences(now, run.fingerprint)
    if "profile" in _names(item):
        profile = cells.profile_of(request, session.catalog, cell.hardware)
        if run.profile_name == profile.name and run.profile != str(profile.load_profile):
            found["profile"] = f"{run.profile} -> {profile.load_profile}"
    if not found and (why := flaw(run)):
        return {"": f"its run {why}"}
    return found


def _names(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names
