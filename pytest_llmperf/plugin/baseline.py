"""Runs beside a baseline: found and checked before anything is deployed, compared in the test that made the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.options import LATEST, Settings, settings_of

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.judge.tolerance import Tolerance
    from pytest_llmperf.plugin.load import LoadRun
    from pytest_llmperf.plugin.recorder import Recorder
    from pytest_llmperf.plugin.session import LlmperfSession
    from pytest_llmperf.report.comparison import RunKey
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.results_v1 import ComparisonPart

COMPARE, COMPARE_FAIL, SAVE = (Where(option=f"--llmperf-{name}") for name in ("compare", "compare-fail", "save"))
_GATED_VERDICTS = frozenset({"regressed", "incomparable", "missing"})
_NO_BASELINE = "no baseline: save one with --llmperf-save=NAME, then compare with --llmperf-compare=NAME"


class RegressionError(AssertionError):
    """A run is worse than its baseline allows; the message is the table. An assertion, so that the test *fails*."""

    def __init__(self, comparison: ComparisonPart, table: str) -> None:
        self.comparison = comparison
        super().__init__(table)


class GateError(RegressionError):
    """The same, found by ``--llmperf-compare-fail`` after the test's own assertions: no line of the test raised it."""


@dataclass
class Baseline:
    """The runs that this session's are compared with, and those of this session that were, by test."""

    name: str
    documents: Sequence[RunDocument]
    tolerances: Mapping[str, Tolerance]
    """Of ``--llmperf-compare-fail``, by metric key: these fail a test."""
    seen: dict[RunKey, list[RunDocument]] = field(default_factory=dict)

    def compare(self, document: RunDocument, tolerances: Mapping[str, Tolerance]) -> ComparisonPart:
        """One run, and the repetitions of it before, beside the baseline's runs of the same test."""
        from pytest_llmperf.report.comparison import compare_runs, run_key

        now = self.seen.setdefault(run_key(document), [])
        if all(run.run_id != document.run_id for run in now):
            now.append(document)
        return compare_runs(now, self.documents, self.name, {**tolerances}, set(tolerances))


@dataclass(frozen=True)
class BaselineOfTest:
    """The ``baseline`` fixture: the session's baseline with the tolerances of one test."""

    baseline: Baseline | None
    """None in a session that only saves: there is nothing to compare with yet."""
    tolerances: Mapping[str, Tolerance]
    recorder: Recorder
    is_last: bool = True
    """Whether this is the last repetition of the test: before it, more runs are still to come."""

    def compare(self, run: LoadRun) -> ComparisonPart | None:
        """How the run stands beside the baseline, metric by metric; kept with the run. None without a baseline."""
        if self.baseline is None:
            return None
        run_id = run.run.identity.run_id
        part = self.baseline.compare(self.recorder.runs[run_id], self.tolerances)
        self.recorder.compared(run_id, part)
        return part

    def holds(self, run: LoadRun) -> bool:
        """True unless the run regressed; then raises ``RegressionError`` with the table. "Cannot tell" is no regression.

        Under ``--llmperf-repeat`` the last repetition decides for all of them.
        """
        __tracebackhide__ = True
        part = self.compare(run)
        if part is not None and self.is_last:
            raise_if_regressed(part, run.run.identity.simulated)
        return True


def raise_if_regressed(part: ComparisonPart, simulated: bool, error: type[RegressionError] = RegressionError) -> None:
    """Raises ``error`` when a gated metric regressed, is gone, or cannot be compared at all."""
    __tracebackhide__ = True
    from pytest_llmperf.report.comparison_table import comparison_table

    gated = {change.verdict for change in part.changes if change.gated}
    if part.verdict == "incomparable" or gated & _GATED_VERDICTS:
        raise error(part, comparison_table(part, simulated))


BASELINE = pytest.StashKey[Baseline | None]()


def baseline_of(config: pytest.Config) -> Baseline | None:
    """The session's baseline, read once; None where none was asked for. Raises ``ConfigError``."""
    if BASELINE not in config.stash:
        config.stash[BASELINE] = _read(config, settings_of(config))
    return config.stash[BASELINE]


def _read(config: pytest.Config, settings: Settings) -> Baseline | None:
    from pytest_llmperf.judge.tolerance import parse_tolerances
    from pytest_llmperf.report.saved import find_saved

    tolerances = parse_tolerances(settings.compare_fail, COMPARE_FAIL)
    wanted = settings.compare or (LATEST if tolerances else None)
    if wanted is None:
        return None
    # The controller has chosen for xdist's workers: what is newest may change while they start.
    chosen = getattr(config, "workerinput", {}).get("llmperf_baseline", wanted)
    saved = find_saved(settings.storage, chosen, COMPARE)
    return Baseline(saved.label, saved.document.runs, tolerances)


def _has_none(config: pytest.Config) -> bool:
    """Whether there is nothing to compare with, and the session does not make it either."""
    settings = settings_of(config)
    return baseline_of(config) is None and settings.save is None and not settings.autosave


def chosen_baseline(config: pytest.Config) -> str | None:
    """In xdist's controller: what names the baseline to the workers. None where there is none, or they will find out why."""
    try:
        baseline = baseline_of(config)
    except ConfigError:
        return None
    return baseline.name if baseline is not None else None


def tolerances_of(request: cells.Request, baseline: Baseline | None) -> dict[str, Tolerance]:
    """What a test may lose: the marker's ``tolerance`` over ``--llmperf-compare-fail``. Raises ``ConfigError``."""
    from pytest_llmperf.judge.tolerance import tolerance_mapping

    given = {} if baseline is None else baseline.tolerances
    return {**given, **tolerance_mapping(request.tolerance or {}, request.where)}


def check_baseline(config: pytest.Config, session: LlmperfSession, items: Iterable[pytest.Item]) -> None:
    """Refuse a baseline that was measured under other conditions, before anything is deployed. Raises ``ConfigError``.

    A test that the baseline does not have at all is new and passes; so is a cell of a test whose other cells it has. A test that
    needs a baseline where there is none is marked as skipped: its fixtures would be too late, the deployment's comes first.
    """
    if settings_of(config).save is not None:
        from pytest_llmperf.report.saved import valid_name

        valid_name(settings_of(config).save or "", SAVE)
    baseline = baseline_of(config)
    has_none = _has_none(config)
    refused: dict[str, ConfigError] = {}
    matched: set[str] = set()
    for item in items:
        cell = cells.cell_of(item)
        if cell is None or "load" not in _names(item):
            continue
        request = cells.request_of(item)
        tolerances_of(request, baseline)
        if baseline is None:
            if has_none and cells.uses_own(item, "baseline"):
                item.add_marker(pytest.mark.skip(reason=_NO_BASELINE))
            continue
        key, problem = _check_item(item, cell, request, session, baseline)
        if problem is None:
            matched.add(key)
        else:
            refused.setdefault(key, problem)
    for key, problem in refused.items():
        if key not in matched:
            raise problem


def _check_item(
    item: pytest.Item, cell: Cell, request: cells.Request, session: LlmperfSession, baseline: Baseline
) -> tuple[str, ConfigError | None]:
    """The test's key in the baseline, and why none of the runs there can be compared with it. Raises for the same cell."""
    from pytest_llmperf.judge.fingerprint import cell_fingerprint, differences
    from pytest_llmperf.report.comparison import test_key

    settings = session.settings
    key = test_key(cells.node_id_of(item))
    workload = cells.workload_of(request, session.catalog)
    simulated = True if settings.target == "sim" else None
    now = dict(cell_fingerprint(cell, workload, settings.target, simulated))
    profile = cells.profile_of(request, session.catalog, cell.hardware) if "profile" in _names(item) else None
    nearest: tuple[int, dict[str, str], RunDocument] | None = None
    for run in baseline.documents:
        if run.label or test_key(run.node_id) != key:
            continue
        before = {name: value for name, value in run.fingerprint.items() if name in now or name.startswith("engine ")}
        differing = differences(now, before)
        if profile is not None and run.profile_name == profile.name and run.profile != str(profile.load_profile):
            differing["profile"] = f"{run.profile} -> {profile.load_profile}"
        if not differing:
            return key, None
        distance = (run.cell.id != cell.id) * 1000 + len(differing)
        if nearest is None or distance < nearest[0]:
            nearest = (distance, differing, run)
    if nearest is None:
        return key, None
    _, differing, run = nearest
    problem = ConfigError(
        f"baseline {baseline.name!r} cannot be compared with {cells.node_id_of(item)}: "
        + "; ".join(f"{name}: {change}" for name, change in differing.items()),
        where=COMPARE,
        hint=f"The nearest run it has is of cell {run.cell.id}. Select cells it has with -k, or save a new baseline.",
    )
    if run.cell.id == cell.id:
        raise problem
    return key, problem


def _names(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names


def baseline_for(item: pytest.Item, recorder: Recorder) -> BaselineOfTest:
    """What the ``baseline`` fixture is. Skips a test that has nothing to compare with, unless the session saves a baseline."""
    from pytest_llmperf.judge.tolerance import DEFAULT_TOLERANCES

    if _has_none(item.config):
        pytest.skip(_NO_BASELINE)
    baseline = baseline_of(item.config)
    tolerances = tolerances_of(cells.request_of(item), baseline) or {t.key.name: t for t in DEFAULT_TOLERANCES}
    return BaselineOfTest(baseline, tolerances, recorder, cells.is_last_repetition(item, settings_of(item.config).repeat))


def gate(item: pytest.Item, recorder: Recorder, *, has_failed: bool = False) -> None:
    """After a test's body: compare its runs that it did not compare itself; a gated regression fails it.

    A test that has failed keeps its own failure; how its runs compare is still kept with them. Runs with a label belong to an
    experiment that judges them by itself. Raises ``GateError``.
    """
    if cells.cell_of(item) is None or (baseline := baseline_of(item.config)) is None:
        return
    tolerances = tolerances_of(cells.request_of(item), baseline)
    decides = bool(tolerances) and not has_failed and cells.is_last_repetition(item, settings_of(item.config).repeat)
    for document in list(recorder.runs.values()):
        if document.label:
            continue
        part = document.comparison
        if part is None:
            part = baseline.compare(document, tolerances)
            recorder.compared(document.run_id, part)
        if decides:
            raise_if_regressed(part, document.simulated, GateError)
