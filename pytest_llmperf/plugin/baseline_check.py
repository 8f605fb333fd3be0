"""Whether a baseline can be compared with, found out before anything is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.baseline import (
    COMPARE,
    COMPARE_FAIL,
    NO_BASELINE,
    OWN_BASELINE,
    SAVE,
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


def check_baseline(config: pytest.Config, session: LlmperfSession, items: Iterable[pytest.Item]) -> None:
    """Refuse a baseline that was measured under other conditions, before anything is deployed. Raises ``ConfigError``.

    A test that the baseline does not have is new and passes, unless it has none of the session's; so is a cell of a test whose
    other cells it has. A test that needs a baseline where there is none is marked as skipped: its fixtures would be too late,
    the deployment's comes first.
    """
    settings = settings_of(config)
    if settings.save is not None:
        from pytest_llmperf.report.saved import valid_name

        valid_name(settings.save, SAVE)
    tests = [item for item in items if cells.cell_of(item) is not None and "load" in _names(item)]
    baseline = baseline_of(config)
    if baseline is None:
        for item in tests:
            tolerances_of(cells.request_of(item), None)
            if has_none(config) and OWN_BASELINE in _names(item):
                item.add_marker(pytest.mark.skip(reason=NO_BASELINE))
        return
    _check_tests(tests, session, baseline)


def _check_tests(items: Sequence[pytest.Item], session: LlmperfSession, baseline: Baseline) -> None:
    from pytest_llmperf.report.comparison import check_measured, test_key

    refused: dict[str, ConfigError] = {}
    for item in items:
        cell, node_id = cells.cell_of(item), cells.node_id_of(item)
        assert cell is not None
        request = cells.request_of(item)
        for key in tolerances_of(request, baseline):
            where = request.where if key in (request.tolerance or {}) else COMPARE_FAIL
            check_measured(key, baseline.documents, baseline.name, where)
        test = test_key(node_id, cell.id)
        baseline.deciding[test, cell.id] = node_id
        problem = _problem(test, item, cell, session, baseline)
        if problem is not None:
            refused.setdefault(test, problem)
        elif any(test_key(run) == test for run in baseline.documents):
            baseline.known.add((test, cell.id))
    known_tests = {test for test, _ in baseline.known}
    for test, problem in refused.items():
        if test not in known_tests:
            raise problem
    if items and not known_tests:
        tests = sorted({test_key(run) for run in baseline.documents if not run.label})
        raise ConfigError(
            f"baseline {baseline.name!r} has none of the selected tests, such as {next(iter(baseline.deciding))[0]}",
            where=COMPARE,
            hint=f"It has {', '.join(tests[:5])}{f' and {len(tests) - 5} more' if len(tests) > 5 else ''}.",
        )


def _problem(test: str, item: pytest.Item, cell: Cell, session: LlmperfSession, baseline: Baseline) -> ConfigError | None:
    """Why none of the baseline's runs of the test can be compared with it; None where one can, or it has none.

    Raises ``ConfigError`` where it has the same cell, measured under other conditions.
    """
    from pytest_llmperf.report.comparison import test_key

    of_test = [run for run in baseline.documents if not run.label and test_key(run) == test]
    differing = [(run.cell.id != cell.id, _differing(run, item, cell, session), run) for run in of_test]
    if not differing or any(not fields for _, fields, _ in differing):
        return None
    other_cell, fields, run = min(differing, key=lambda found: (found[0], len(found[1])))
    problem = ConfigError(
        f"baseline {baseline.name!r} cannot be compared with {cells.node_id_of(item)}: "
        + "; ".join(f"{name}: {change}".removeprefix(": ") for name, change in fields.items()),
        where=COMPARE,
        hint=f"The nearest run it has is of cell {run.cell.id}. Select cells it has with -k, or save a new baseline.",
    )
    if not other_cell:
        raise problem
    return problem


def _differing(run: RunDocument, item: pytest.Item, cell: Cell, session: LlmperfSession) -> dict[str, str]:
    """The fields in which a baseline's run differs from what the test will do, as far as that is known beforehand."""
    from pytest_llmperf.judge.fingerprint import cell_fingerprint, known_differences
    from pytest_llmperf.report.comparison import NO_FINGERPRINT

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
    return found


def _names(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names
