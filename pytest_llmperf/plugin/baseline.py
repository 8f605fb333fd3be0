"""Runs beside a baseline: found and checked before anything is deployed, compared in the test that made the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.options import LATEST, Settings, settings_of

if TYPE_CHECKING:
    from pytest_llmperf.judge.tolerance import Tolerance
    from pytest_llmperf.plugin.load import LoadRun
    from pytest_llmperf.plugin.recorder import Recorder
    from pytest_llmperf.report.comparison import RunKey
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.results_v1 import ComparisonPart

COMPARE, COMPARE_FAIL, SAVE = (Where(option=f"--llmperf-{name}") for name in ("compare", "compare-fail", "save"))
OWN_BASELINE = "_llmperf_baseline"
"""In the closure of every test that uses the plugin's own ``baseline``, and of no other."""
NO_BASELINE = "no baseline: save one with --llmperf-save=NAME, then compare with --llmperf-compare=NAME"


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
    known: set[tuple[str, str]] = field(default_factory=set)
    """The tests (by key) and cells of this session that it has comparable runs of; ``check_baseline`` finds them."""
    deciding: dict[tuple[str, str], str] = field(default_factory=dict)
    """The last of the selected repetitions (node id) of each test and cell: it decides for all of them."""
    seen: dict[RunKey, list[RunDocument]] = field(default_factory=dict)

    def compare(self, document: RunDocument, tolerances: Mapping[str, Tolerance]) -> ComparisonPart:
        """One run, and the repetitions of it before, beside the baseline's runs of the same test."""
        from pytest_llmperf.report.comparison import compare_runs, run_key

        key = run_key(document)
        now = self.seen.setdefault(key, [])
        if all(run.run_id != document.run_id for run in now):
            now.append(document)
        others = any(test == key.test and cell_id != key.cell_id for test, cell_id in self.known)
        return compare_runs(now, self.documents, self.name, tolerances, set(tolerances), other_cells_match=others)

    def is_decided_by(self, node_id: str) -> bool:
        """Whether a test is the last repetition that was selected: before it, more runs are still to come."""
        return node_id in self.deciding.values()


@dataclass(frozen=True)
class BaselineOfTest:
    """The ``baseline`` fixture: the session's baseline with the tolerances of one test."""

    baseline: Baseline | None
    """None in a session that only saves: there is nothing to compare with yet."""
    tolerances: Mapping[str, Tolerance]
    recorder: Recorder
    decides: bool = True
    """False for all but the last repetition of a test."""

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
        if part is not None and self.decides:
            raise_if_regressed(part, run.run.identity.simulated)
        return True


def raise_if_regressed(part: ComparisonPart, simulated: bool, error: type[RegressionError] = RegressionError) -> None:
    """Raises ``error`` when a gated metric regressed, is gone, or cannot be compared at all."""
    __tracebackhide__ = True
    from pytest_llmperf.report.comparison import failing
    from pytest_llmperf.report.comparison_table import comparison_table

    if failing(part):
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


def has_none(config: pytest.Config) -> bool:
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


def baseline_for(item: pytest.Item, recorder: Recorder) -> BaselineOfTest:
    """What the ``baseline`` fixture is. Skips a test that has nothing to compare with, unless the session saves a baseline."""
    from pytest_llmperf.judge.tolerance import DEFAULT_TOLERANCES

    if has_none(item.config):
        pytest.skip(NO_BASELINE)
    baseline = baseline_of(item.config)
    request = cells.request_of(item)
    defaults = {} if request.tolerance else {tolerance.key.name: tolerance for tolerance in DEFAULT_TOLERANCES}
    tolerances = {**defaults, **tolerances_of(request, baseline)}
    return BaselineOfTest(baseline, tolerances, recorder, _decides(item, baseline))


def _decides(item: pytest.Item, baseline: Baseline | None) -> bool:
    return baseline is None or baseline.is_decided_by(cells.node_id_of(item))


@contextmanager
def gated(item: pytest.Item, recorder: Recorder) -> Iterator[None]:
    """Around a test's body: hold its runs beside the baseline, whatever became of it. Raises ``GateError``."""
    try:
        yield
    except (Exception, pytest.fail.Exception):
        _gate(item, recorder, has_failed=True)
        raise
    except pytest.skip.Exception:
        # INCONCLUSIVE may skip a test; that is no reason to overlook a regression.
        _gate(item, recorder)
        raise
    _gate(item, recorder)


def _gate(item: pytest.Item, recorder: Recorder, *, has_failed: bool = False) -> None:
    """Compare the runs that the test did not compare itself; a gated regression fails it.

    A test that has failed keeps its own failure; how its runs compare is still kept with them. Of repetitions only the last
    compares, with all of them. Runs with a label belong to an experiment that judges them by itself.
    """
    if cells.cell_of(item) is None or (baseline := baseline_of(item.config)) is None:
        return
    tolerances = tolerances_of(cells.request_of(item), baseline)
    decides = _decides(item, baseline)
    for document in list(recorder.runs.values()):
        if document.label:
            continue
        part = document.comparison
        if part is None:
            part = baseline.compare(document, tolerances)
            if decides:
                recorder.compared(document.run_id, part)
        if decides and tolerances and not has_failed:
            raise_if_regressed(part, document.simulated, GateError)
