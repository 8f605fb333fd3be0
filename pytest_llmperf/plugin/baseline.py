"""Runs beside a baseline: found and checked before anything is deployed, compared in the test that made the run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import ConfigError, LlmperfError
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.asserted import LlmperfWarning, Rules, asserted
from pytest_llmperf.plugin.option_table import LATEST
from pytest_llmperf.plugin.options import Settings, settings_of

if TYPE_CHECKING:
    from pytest_llmperf.judge.tolerance import Tolerance
    from pytest_llmperf.plugin.load import LoadRun
    from pytest_llmperf.plugin.recorder import Recorder
    from pytest_llmperf.report.comparison import RunKey
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.results_v2 import ComparisonPart
    from pytest_llmperf.report.saved import History

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

    history: History
    tolerances: Mapping[str, Tolerance]
    """Of ``--llmperf-compare-fail``, by metric key: these fail a test."""
    known: set[tuple[str, str]] = field(default_factory=set)
    """The tests (by key) and cells of this session that it has comparable runs of; ``check_baseline`` finds them."""
    deciding: dict[tuple[str, str], str] = field(default_factory=dict)
    """The last of the selected repetitions (node id) of each test and cell: it decides for all of them."""
    seen: dict[RunKey, dict[str, RunDocument]] = field(default_factory=dict)
    """Every run of this session so far and its repetitions, by their ids."""
    postponed: dict[RunKey, Mapping[str, Tolerance]] = field(default_factory=dict)
    """What ``holds`` was asked before the last repetition, which decides."""
    late: set[RunKey] = field(default_factory=set)
    """The runs that a fixture's teardown makes: they are decided there, and not behind the test's body."""

    @property
    def name(self) -> str:
        """What names the saved session that was asked for: ``0003_main``."""
        return self.history.newest.label

    def compare(self, document: RunDocument, tolerances: Mapping[str, Tolerance]) -> ComparisonPart:
        """One run, and the repetitions of it before, beside the runs of the same test where it was last measured."""
        from pytest_llmperf.report.comparison import compare_runs, run_key

        key = run_key(document)
        self.remember(document)
        now = list(self.seen[key].values())
        source = self.history.source_for(document)
        others = any(test == key.test and cell_id != key.cell_id for test, cell_id in self.known)
        part = compare_runs(now, source.runs, source.label, tolerances, set(tolerances), other_cells_match=others)
        if source is self.history.newest:
            return part
        note = f"{self.name} has no such run, {source.label} is the last before it that has"
        return part.model_copy(update={"note": f"{note}; {part.note}" if part.note else note})

    def remember(self, document: RunDocument, *, late: bool = False) -> None:
        """Keep the newest state of a run beside its repetitions. ``late``: a fixture's teardown made it."""
        from pytest_llmperf.report.comparison import run_key

        self.seen.setdefault(run_key(document), {})[document.run_id] = document
        if late:
            self.late.add(run_key(document))

    def postpone(self, document: RunDocument, tolerances: Mapping[str, Tolerance]) -> None:
        """Keep what is asked of a run and its repetitions, for the last of them."""
        from pytest_llmperf.report.comparison import run_key

        self.postponed[run_key(document)] = tolerances

    def postponed_for(self, document: RunDocument, otherwise: Mapping[str, Tolerance]) -> Mapping[str, Tolerance]:
        """What was asked of a run by ``postpone``."""
        from pytest_llmperf.report.comparison import run_key

        return self.postponed.get(run_key(document), otherwise)

    def undecided(self, item: pytest.Item, made: Sequence[RunDocument], *, late: bool) -> list[RunDocument]:
        """The last run of every load that earlier repetitions of the test made, in their teardown where ``late``.

        Without those that the deciding one ``made`` too.
        """
        from pytest_llmperf.report.comparison import run_key, test_key

        cell = cells.cell_of(item)
        assert cell is not None
        test = test_key(cells.node_id_of(item), cell.id)
        again = set(map(run_key, made))
        return [
            list(runs.values())[-1]
            for key, runs in self.seen.items()
            if (key.test, key.cell_id) == (test, cell.id) and key not in again and (key in self.late) == late
        ]

    def is_decided_by(self, node_id: str) -> bool:
        """Whether a test is the last repetition that was selected: before it, more runs are still to come."""
        return node_id in self.deciding.values()


@dataclass(frozen=True)
class BaselineOfTest:
    """The ``baseline`` fixture: the session's baseline with the tolerances of one test."""

    baseline: Baseline | None
    """None in a session that only saves: there is nothing to compare with yet."""
    tolerances: Mapping[str, Tolerance]
    """What ``holds`` gates: ``gates``, or the usual ones besides where the marker has no ``tolerance``."""
    gates: Mapping[str, Tolerance]
    """Of the marker and ``--llmperf-compare-fail``: what is gated whether the test asks or not."""
    recorder: Recorder
    decides: bool = True
    """False for all but the last repetition of a test."""
    rules: Rules = field(default_factory=Rules)

    def compare(self, run: LoadRun) -> ComparisonPart | None:
        """How the run stands beside the baseline, metric by metric; it fails nothing. None without a baseline.

        It is kept with the run, under ``--llmperf-repeat`` only in the last repetition.
        """
        return None if self.baseline is None else self._compared(self.baseline, run, self.gates)

    def _compared(self, baseline: Baseline, run: LoadRun, tolerances: Mapping[str, Tolerance]) -> ComparisonPart:
        run_id = run.run.identity.run_id
        part = baseline.compare(self.recorder.runs[run_id], tolerances)
        # What was decided of the run is read from what is kept: before the last repetition nothing is.
        if self.decides:
            self.recorder.compared(run_id, part)
        return part

    def holds(self, run: LoadRun) -> bool:
        """True unless the run regressed; then raises ``RegressionError`` with the table. "Cannot tell" is no regression.

        What a run does that is INVALID is for ``--llmperf-invalid`` to say.
        Under ``--llmperf-repeat`` the last repetition decides for all of them.
        """
        __tracebackhide__ = True
        if self.baseline is None:
            return True
        document = self.recorder.runs[run.run.identity.run_id]
        if not self.decides:
            self.baseline.remember(document)
            self.baseline.postpone(document, self.tolerances)
            return True
        part = self._compared(self.baseline, run, self.tolerances)
        _raise_if_regressed(part, document, RegressionError)
        _raise_if_invalid(part, document, self.rules, RegressionError)
        return True


def _raise_if_regressed(part: ComparisonPart, document: RunDocument, error: type[RegressionError]) -> None:
    """Raises ``error`` when a gated metric regressed, is gone, or cannot be compared; but not because the run is INVALID."""
    __tracebackhide__ = True
    from pytest_llmperf.report.comparison import failing, is_invalid
    from pytest_llmperf.report.comparison_table import comparison_table

    if failing(part) and not (part.verdict == "incomparable" and is_invalid(document)):
        raise error(part, comparison_table(part, document.simulated))


def _raise_if_invalid(part: ComparisonPart, document: RunDocument, rules: Rules, error: type[RegressionError]) -> None:
    """For an INVALID run do what the session does with those: skip the test, or raise ``error``."""
    __tracebackhide__ = True
    from pytest_llmperf.judge.verdict import Outcome
    from pytest_llmperf.report.comparison import invalid_reasons, is_invalid
    from pytest_llmperf.report.comparison_table import comparison_table

    if is_invalid(document):
        table, reason = comparison_table(part, document.simulated), "; ".join(invalid_reasons(document))
        asserted(Outcome.INVALID, rules, table, reason, error(part, f"INVALID: {reason}\n{table}"))


BASELINE = pytest.StashKey[Baseline | None]()


def baseline_of(config: pytest.Config) -> Baseline | None:
    """The session's baseline, read once; None where none was asked for. Raises ``ConfigError``."""
    if BASELINE not in config.stash:
        config.stash[BASELINE] = _read(config, settings_of(config))
    return config.stash[BASELINE]


def _read(config: pytest.Config, settings: Settings) -> Baseline | None:
    from pytest_llmperf.judge.tolerance import parse_tolerances
    from pytest_llmperf.report.saved import History, Source, find_saved, older_sessions

    tolerances = parse_tolerances(settings.compare_fail, settings.where("compare_fail"))
    wanted = settings.compare or (LATEST if tolerances else None)
    if wanted is None:
        return None
    # The controller has chosen for xdist's workers: what is newest may change while they start. Where it could not, they find
    # out why.
    chosen = getattr(config, "workerinput", {}).get("llmperf_baseline") or wanted
    saved = find_saved(settings.storage, chosen, settings.where("compare"))
    older = older_sessions(settings.storage, saved, wanted)
    return Baseline(History(Source(saved.label, saved.document.runs), older, _pass_over), tolerances)


def _pass_over(error: ConfigError) -> None:
    """Warn of an older session that cannot be read. Raises the error where warnings are errors."""
    try:
        warnings.warn(LlmperfWarning(f"passed over: {error}"), stacklevel=2)
    except LlmperfWarning:
        raise error from None


def has_none(config: pytest.Config) -> bool:
    """Whether there is nothing to compare with, and the session does not make it either."""
    settings = settings_of(config)
    return baseline_of(config) is None and settings.save is None and not settings.autosave


def chosen_baseline(config: pytest.Config) -> str | None:
    """In xdist's controller: what names the baseline to the workers. None where there is none, or they will find out why."""
    try:
        baseline = baseline_of(config)
    except LlmperfError:
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
    gates = tolerances_of(request, baseline)
    return BaselineOfTest(baseline, {**defaults, **gates}, gates, recorder, _decides(item, baseline), _rules(item.config))


def _rules(config: pytest.Config) -> Rules:
    settings = settings_of(config)
    return Rules(Policy(settings.policy), settings.inconclusive, settings.invalid)


def _decides(item: pytest.Item, baseline: Baseline | None) -> bool:
    return baseline is None or baseline.is_decided_by(cells.node_id_of(item))


@contextmanager
def gated(item: pytest.Item, recorder: Recorder, *, late: bool = False) -> Iterator[None]:
    """Around a test's body: hold its runs beside the baseline, whatever became of it. Raises ``GateError``.

    ``late``: around its teardown, for the runs that fixtures make there.
    """
    try:
        yield
    except (Exception, pytest.fail.Exception):
        _gate(item, recorder, has_failed=True, late=late)
        raise
    except pytest.skip.Exception:
        # INCONCLUSIVE may skip a test; that is no reason to overlook a regression.
        _gate(item, recorder, late=late)
        raise
    _gate(item, recorder, late=late)


@contextmanager
def gated_where_skipped(item: pytest.Item, recorder: Recorder) -> Iterator[None]:
    """Around a test's setup: where that skips the last repetition, those before it are still decided. Raises ``GateError``."""
    try:
        yield
    except pytest.skip.Exception:
        _gate(item, recorder)
        raise


def _gate(item: pytest.Item, recorder: Recorder, *, has_failed: bool = False, late: bool = False) -> None:
    """Compare the runs that the test did not compare itself; a gated regression fails it.

    A test that has failed keeps its own failure; how its runs compare is still kept with them. Of repetitions only the last
    decides, with all of them; also where it did not make a load that those before it made. Runs with a label belong to an
    experiment that judges them by itself.
    """
    if cells.cell_of(item) is None or (baseline := baseline_of(item.config)) is None:
        return
    made = [document for document in recorder.runs.values() if not document.label]
    for document in made:
        baseline.remember(document, late=late)
    if not _decides(item, baseline):
        return
    tolerances = tolerances_of(cells.request_of(item), baseline)
    held: list[tuple[RunDocument, Mapping[str, Tolerance]]] = [(document, tolerances) for document in made]
    unmade = baseline.undecided(item, made, late=late)
    held += [(document, baseline.postponed_for(document, tolerances)) for document in unmade]
    parts = [_compared(document, recorder, baseline, asked) for document, asked in held]
    decisive = [] if has_failed else [(part, run) for part, (run, asked) in zip(parts, held, strict=True) if asked]
    for part, document in decisive:
        _raise_if_regressed(part, document, GateError)
    made_now = {document.run_id for document in made}
    for part, document in decisive:
        if document.run_id in made_now:
            _raise_if_invalid(part, document, _rules(item.config), GateError)


def _compared(
    document: RunDocument, recorder: Recorder, baseline: Baseline, tolerances: Mapping[str, Tolerance]
) -> ComparisonPart:
    """How a run compares; kept with it. What the test has compared by itself stands, but not in an earlier repetition."""
    if document.run_id in recorder.runs and document.comparison is not None:
        return document.comparison
    part = baseline.compare(document, tolerances)
    recorder.keep(document.model_copy(update={"comparison": part}))
    return part
