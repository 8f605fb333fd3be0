"""Results on their way: from the recorder onto the test's report, across xdist, into the session's document and summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.plugin.allure_bridge import write_environment
from pytest_llmperf.plugin.baseline import BASELINE
from pytest_llmperf.plugin.options import Settings, settings_of
from pytest_llmperf.plugin.recorder import Recorder
from pytest_llmperf.plugin.session import STASH

if TYPE_CHECKING:
    from pytest_llmperf.report.document import RunDocument, SessionDocument

RECORDER = pytest.StashKey[Recorder]()
ATTRIBUTE = "llmperf_runs"


def runs_to_report(recorder: Recorder, report: pytest.TestReport) -> Sequence[RunDocument]:
    """The runs that go with this report: those that a fixture made before the test go with the test's own."""
    return () if report.when == "setup" and report.passed else recorder.drain()


def attach_runs(report: pytest.TestReport, runs: Sequence[RunDocument]) -> None:
    """Put the runs onto the report as plain JSON, the only form that xdist carries."""
    documents = [run.model_dump(mode="json") for run in runs]
    if documents:
        setattr(report, ATTRIBUTE, documents)


@dataclass(eq=False)  # pluggy keeps plugins in sets, so it must be hashable
class Collected:
    """The runs that reports have brought to the controller, in order of arrival, each in the state that came last."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By run id: a later repetition may bring a run again, compared."""
    failed: set[str] = field(default_factory=set)
    """Node ids of tests of which any phase failed, expected or not: their runs are no baseline."""
    saved: list[str] = field(default_factory=list)
    """What to say of the baseline that was saved, or was not."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the runs a report carries, if any: a hook, called in the controller also under xdist."""
        self.add(getattr(report, ATTRIBUTE, ()))
        if report.failed or (report.skipped and hasattr(report, "wasxfail")):
            from pytest_llmperf.plugin.cells import without_group

            self.failed.add(without_group(report.nodeid))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write ``--llmperf-json`` before pytest ends the fixtures that still stand: a second Ctrl-C may cut that short."""
        write_before_teardown(session.config, is_interrupted=session.exitstatus == pytest.ExitCode.INTERRUPTED)

    def add(self, documents: Iterable[dict[str, Any]]) -> None:
        """Remember runs, as plain JSON."""
        self.documents.update((document["run_id"], document) for document in documents)

    def runs(self) -> list[RunDocument]:
        """The runs as documents."""
        if not self.documents:
            return []
        from pytest_llmperf.report.document import RunDocument

        return [RunDocument.model_validate(document) for document in self.documents.values()]


COLLECTED = pytest.StashKey[Collected]()
TROUBLE = pytest.StashKey[str]()


def finish(session: pytest.Session) -> None:
    """Write ``--llmperf-json`` and Allure's environment. A disk that refuses fails the session and is told at its end."""
    config = session.config
    if TROUBLE in config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if session.exitstatus == pytest.ExitCode.USAGE_ERROR or config.getoption("collectonly"):
        return
    _take_over(config)
    runs = config.stash[COLLECTED].runs()
    try:
        write_session_files(config, settings_of(config), runs)
    except LlmperfError as error:
        config.stash[TROUBLE] = str(error)
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def write_before_teardown(config: pytest.Config, *, is_interrupted: bool) -> None:
    """Write ``--llmperf-json`` where something is still to be taken down; ``finish`` writes it again, with all that follows."""
    settings = settings_of(config)
    session = config.stash.get(STASH, None)
    stands = session is not None and bool(session.deployments.standing)
    if settings.json is None or not (stands or is_interrupted) or hasattr(config, "workerinput") or config.option.collectonly:
        return
    _take_over(config)
    from pytest_llmperf.report.document import to_json
    from pytest_llmperf.report.storage import write_atomically

    # A disk that refuses will do so again, and then it is told.
    with suppress(LlmperfError):
        write_atomically(settings.json, to_json(_document(config, settings, config.stash[COLLECTED].runs())))


def _take_over(config: pytest.Config) -> None:
    """A test that Ctrl-C ended has no report: what it had measured is still with the recorder."""
    config.stash[COLLECTED].add(run.model_dump(mode="json") for run in config.stash[RECORDER].runs.values())


def write_session_files(config: pytest.Config, settings: Settings, runs: list[RunDocument]) -> None:
    """The files that speak of the whole session. Raises ``LlmperfError`` when the disk refuses."""
    is_saving = settings.save is not None or settings.autosave
    if not runs and is_saving:
        config.stash[COLLECTED].saved = ["no baseline is saved: no test made a run"]
    if not runs and settings.json is None:
        return
    from pytest_llmperf.report.document import to_json
    from pytest_llmperf.report.saved import unfit
    from pytest_llmperf.report.storage import write_atomically

    document = _document(config, settings, runs)
    if runs and is_saving:
        flaws = unfit(runs, config.stash[COLLECTED].failed, only_compared=config.stash.get(BASELINE, None) is not None)
        config.stash[COLLECTED].saved = list(_save_baseline(document, settings, flaws))
    if settings.json is not None:
        write_atomically(settings.json, to_json(document))
    write_environment(config, document)


def _document(config: pytest.Config, settings: Settings, runs: list[RunDocument]) -> SessionDocument:
    from pytest_llmperf.report.commit import commit_of
    from pytest_llmperf.report.document import session_document

    return session_document(
        runs,
        created=time(),
        arguments=[str(argument) for argument in config.invocation_params.args],
        target=settings.target,
        simulated=settings.target == "sim" or any(run.simulated for run in runs),
        commit=commit_of(config.rootpath),
    )


def _save_baseline(document: SessionDocument, settings: Settings, flaws: Mapping[str, str]) -> Iterator[str]:
    """Save the session's runs but for those with ``flaws`` (by run id), and say which those are. Raises ``LlmperfError``."""
    from pytest_llmperf.report.commit import Commit
    from pytest_llmperf.report.saved import autosave_name, save_session

    kept = tuple(run for run in document.runs if run.run_id not in flaws)
    if kept:
        commit = Commit(document.commit, document.dirty) if document.commit is not None else None
        name = settings.save or autosave_name(commit, time())
        saved = save_session(settings.storage, name, document.model_copy(update={"runs": kept}))
        yield f"saved as baseline {saved.label}: {len(kept)} of {len(document.runs)} runs"
    else:
        yield f"no baseline is saved: none of {len(document.runs)} runs may be in one"
    for run in document.runs:
        if run.run_id in flaws:
            yield f"  left out {run.node_id}{f' {run.label}' if run.label else ''}: {flaws[run.run_id]}"
