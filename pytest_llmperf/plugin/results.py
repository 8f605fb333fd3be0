"""Results on their way: from the recorder onto the test's report, across xdist, into the session's document and summary."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import DeployError, LlmperfError
from pytest_llmperf.plugin.allure_bridge import tell_allure, write_allure_session
from pytest_llmperf.plugin.baseline import BASELINE
from pytest_llmperf.plugin.cells import cell_of
from pytest_llmperf.plugin.ci import tell_junit, write_exports, write_markdown, write_step_summary
from pytest_llmperf.plugin.cluster import LEFT, told
from pytest_llmperf.plugin.options import Settings, settings_of
from pytest_llmperf.plugin.plots import with_plots
from pytest_llmperf.plugin.recorder import Recorder
from pytest_llmperf.plugin.session import STASH
from pytest_llmperf.plugin.terminate import termination_of

if TYPE_CHECKING:
    from pytest_llmperf.report.commit import Commit
    from pytest_llmperf.report.document import DeploymentErrorPart, RunDocument, SessionDocument
    from pytest_llmperf.report.run_context import RunContext

RECORDER = pytest.StashKey[Recorder]()
ATTRIBUTE = "llmperf_runs"
NOT_DEPLOYED = "llmperf_not_deployed"


def tell_results(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Send the test's runs, drawn where that is wanted, with its report, and why it has none; and tell Allure."""
    runs = with_plots(item.config, runs_to_report(item.config.stash[RECORDER], report))
    attach_runs(report, runs)
    attach_deployment_error(report, item, call)
    tell_junit(item, report, runs)
    tell_allure(item, call, runs)


def runs_to_report(recorder: Recorder, report: pytest.TestReport) -> Sequence[RunDocument]:
    """The runs that go with this report: those that a fixture made before the test go with the test's own."""
    return () if report.when == "setup" and report.passed else recorder.drain()


def attach_runs(report: pytest.TestReport, runs: Sequence[RunDocument]) -> None:
    """Put the runs onto the report as plain JSON, the only form that xdist carries."""
    documents = [run.model_dump(mode="json") for run in runs]
    if documents:
        setattr(report, ATTRIBUTE, documents)


def attach_deployment_error(report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Put why the test's cell never became ready onto the report, in the same form."""
    cell, error = cell_of(item), call.excinfo.value if call.excinfo is not None else None
    if cell is None or call.when != "setup" or not isinstance(error, DeployError):
        return
    session = item.config.stash[STASH]
    if cell.id not in session.deployments.standing:
        setattr(report, NOT_DEPLOYED, {"cell_id": cell.id, "target": session.settings.target, "error": str(error)})


@dataclass(eq=False)  # pluggy keeps plugins in sets, so it must be hashable
class Collected:
    """The runs that reports have brought to the controller, in order of arrival, each in the state that came last."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By run id: a later repetition may bring a run again, compared."""
    deployment_errors: dict[str, dict[str, str]] = field(default_factory=dict)
    """By cell id: of the cells that never became ready."""
    failed: set[str] = field(default_factory=set)
    """Node ids of tests of which any phase failed, expected or not: their runs are no baseline."""
    saved: list[str] = field(default_factory=list)
    """What to say of the baseline that was saved, or was not."""
    places: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """By run id: the file of the test that made it, as pytest's rootdir has it, and the line from 0."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the runs a report carries, if any: a hook, called in the controller also under xdist."""
        self.add(runs := getattr(report, ATTRIBUTE, ()))
        self.places.update((run["run_id"], (report.location[0], report.location[1])) for run in runs)
        if (error := getattr(report, NOT_DEPLOYED, None)) is not None:
            self.deployment_errors[error["cell_id"]] = error
        if report.failed or (report.skipped and hasattr(report, "wasxfail")):
            from pytest_llmperf.plugin.cells import without_group

            self.failed.add(without_group(report.nodeid))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write ``--llmperf-json`` before pytest ends the fixtures that still stand: a second Ctrl-C may cut that short."""
        termination_of(session.config).end()
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

    def undeployed(self) -> list[DeploymentErrorPart]:
        """The cells that never became ready."""
        if not self.deployment_errors:
            return []
        from pytest_llmperf.report.document import DeploymentErrorPart

        return [DeploymentErrorPart.model_validate(error) for error in self.deployment_errors.values()]


COLLECTED = pytest.StashKey[Collected]()
COMMIT = pytest.StashKey["Commit | None"]()
TROUBLE = pytest.StashKey[str]()


def commit_of_session(config: pytest.Config) -> Commit | None:
    """What is checked out in the rootdir, asked once: before the first load, where there is one."""
    if COMMIT not in config.stash:
        from pytest_llmperf.report.commit import commit_of

        config.stash[COMMIT] = commit_of(config.rootpath)
    return config.stash[COMMIT]


def run_context(config: pytest.Config, settings: Settings) -> RunContext:
    """What this session says of each of its runs."""
    from pytest_llmperf.report.run_context import RunContext, kept_environment, kept_settings

    environment = kept_environment(os.environ, settings.secret_variables)
    return RunContext(kept_settings(settings.given), environment, commit_of_session(config))


def finish(session: pytest.Session) -> None:
    """Write the session's files. A disk that refuses, and what is left on a cluster, fail the session and are told at its end."""
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
    if told(config, LEFT):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def write_before_teardown(config: pytest.Config, *, is_interrupted: bool) -> None:
    """Write ``--llmperf-json`` where something is still to be taken down; ``finish`` writes it again, with all that follows."""
    settings = settings_of(config)
    session = config.stash.get(STASH, None)
    stands = session is not None and bool(session.deployments.standing)
    if settings.json is None or not (stands or is_interrupted) or hasattr(config, "workerinput") or config.option.collectonly:
        return
    _take_over(config)
    # A disk that refuses will do so again, and then it is told.
    with suppress(LlmperfError):
        _write_json(settings, _document(config, settings, config.stash[COLLECTED].runs()))


def _take_over(config: pytest.Config) -> None:
    """A test that Ctrl-C ended has no report: what it had measured is still with the recorder."""
    config.stash[COLLECTED].add(run.model_dump(mode="json") for run in config.stash[RECORDER].runs.values())


def write_session_files(config: pytest.Config, settings: Settings, runs: list[RunDocument]) -> None:
    """The files that speak of the whole session. Raises ``LlmperfError`` when the disk refuses."""
    is_saving = settings.save is not None or settings.autosave
    if not runs and is_saving:
        config.stash[COLLECTED].saved = ["no baseline is saved: no test made a run"]
    is_asked_for = settings.json is not None or settings.markdown is not None or bool(settings.export)
    if not runs and not config.stash[COLLECTED].deployment_errors and not is_asked_for:
        return
    document = _document(config, settings, runs)
    _each(
        lambda: _write_baseline(config, settings, document) if runs and is_saving else None,
        lambda: _write_json(settings, document),
        lambda: write_markdown(settings, document),
        lambda: write_step_summary(document, os.environ),
        lambda: write_exports(settings, document),
        lambda: write_allure_session(config, document),
    )


def _each(*writers: Callable[[], None]) -> None:
    """Call all of them; one that raises keeps none of the others from writing. Raises one ``LlmperfError`` of all at the end."""
    errors: list[LlmperfError] = []
    for write in writers:
        try:
            write()
        except LlmperfError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else LlmperfError("\n".join(map(str, errors)))


def _document(config: pytest.Config, settings: Settings, runs: list[RunDocument]) -> SessionDocument:
    from pytest_llmperf.report.document import session_document
    from pytest_llmperf.report.run_context import printable

    return session_document(
        runs,
        created=time(),
        arguments=[printable(str(argument)) for argument in config.invocation_params.args],
        target=settings.target,
        simulated=settings.target == "sim" or any(run.simulated for run in runs),
        deployment_errors=config.stash[COLLECTED].undeployed(),
        commit=commit_of_session(config),
    )


def _write_json(settings: Settings, document: SessionDocument) -> None:
    """``--llmperf-json``. Raises ``LlmperfError``."""
    if settings.json is None:
        return
    from pytest_llmperf.report.document import to_json
    from pytest_llmperf.report.storage import write_atomically

    write_atomically(settings.json, to_json(document))


def _write_baseline(config: pytest.Config, settings: Settings, document: SessionDocument) -> None:
    """``--llmperf-save`` and ``--llmperf-autosave``. Raises ``LlmperfError``."""
    from pytest_llmperf.report.saved import unfit

    collected = config.stash[COLLECTED]
    flaws = unfit(document.runs, collected.failed, only_compared=config.stash.get(BASELINE, None) is not None)
    collected.saved = list(_save_baseline(document, settings, flaws))


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
