"""Between pytest and Allure: gathers what ``report.allure`` and its like compute of a test and a session, where it is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import DeployError
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.options import settings_of
from pytest_llmperf.plugin.start import started

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.plugin.allure_teller import AllureTeller, Told
    from pytest_llmperf.report.allure import TestFacts
    from pytest_llmperf.report.allure_attachments import Attachment
    from pytest_llmperf.report.allure_steps import Step
    from pytest_llmperf.report.document import RunDocument, SessionDocument

HISTORY = "allure-history.jsonl"
"""In the storage: what Allure 3 keeps from one report to the next."""
_TELLER: pytest.StashKey[AllureTeller] = pytest.StashKey()


def results_folder(config: pytest.Config) -> Path | None:
    """Where Allure's results are written; None without ``--alluredir``, or without allure-pytest."""
    folder: str | None = config.getoption("allure_report_dir", None)
    return Path(folder) if folder else None


def listen_to_allure(config: pytest.Config) -> None:
    """Be there when allure-pytest writes a test's result, until the session ends."""
    if results_folder(config) is None:
        return
    import allure_commons

    from pytest_llmperf.plugin.allure_teller import AllureTeller

    teller = AllureTeller(config)
    allure_commons.plugin_manager.register(teller)
    config.add_cleanup(lambda: allure_commons.plugin_manager.unregister(teller))
    config.stash[_TELLER] = teller


@dataclass
class _Gathered:
    """What a test's phases have brought so far."""

    began: float
    runs: list[RunDocument] = field(default_factory=list)
    log: str = ""
    """The end of the engine's, where something went wrong."""
    lost: Step | None = None


_GATHERED = pytest.StashKey[_Gathered]()


def tell_allure(item: pytest.Item, call: pytest.CallInfo[None], runs: Sequence[RunDocument]) -> None:
    """Have the teller know of a test what is known after this phase. Called while its report is made."""
    cell, teller = cells.cell_of(item), item.config.stash.get(_TELLER, None)
    if cell is None or teller is None:
        return
    gathered = item.stash.setdefault(_GATHERED, _Gathered(call.start))
    gathered.runs += runs
    _gather_trouble(gathered, cell, item.config, call)
    if call.when != "call":
        # Already after the setup: a session that is interrupted comes to no teardown.
        teller.tell(lambda: _told(item, cell, gathered))


def _gather_trouble(gathered: _Gathered, cell: Cell, config: pytest.Config, call: pytest.CallInfo[None]) -> None:
    """The end of the engine's log and, where it never came up, the one step that there was."""
    if call.excinfo is None or call.excinfo.errisinstance(pytest.skip.Exception):
        return
    error = call.excinfo.value
    standing = started(config).deployments.standing.get(cell.id)
    if isinstance(error, DeployError):
        gathered.log = gathered.log or error.log_tail
        if call.when == "setup" and standing is None:
            from pytest_llmperf.report.allure_steps import failed_deployment

            gathered.lost = failed_deployment(call.start, call.stop, error.what)
    if standing is not None and not gathered.log:
        gathered.log = standing.log_tail()


def _told(item: pytest.Item, cell: Cell, gathered: _Gathered) -> Told:
    from pytest_llmperf.plugin.allure_teller import Told
    from pytest_llmperf.report.allure import allure_test
    from pytest_llmperf.report.allure_attachments import log_attachment, run_attachments
    from pytest_llmperf.report.allure_steps import steps_of
    from pytest_llmperf.report.ci_run import ci_run, links_of
    from pytest_llmperf.report.storage import run_directory

    storage, runs = settings_of(item.config).storage, gathered.runs
    files = [tuple(run_attachments(run, run_directory(storage, run.run_id))) for run in runs]
    attachments = [*(files[0] if len(files) == 1 else ()), *([log_attachment(gathered.log)] if gathered.log else [])]
    steps = [*steps_of(runs, files, gathered.began), *([gathered.lost] if gathered.lost is not None else [])]
    test = allure_test(_facts(item, cell, runs), runs)
    return Told(item.name, cell.id, test, steps, attachments, links_of(ci_run(os.environ)))


def _facts(item: pytest.Item, cell: Cell, runs: Sequence[RunDocument]) -> TestFacts:
    """What is known of a test whether or not it came to a run."""
    from pytest_llmperf.report.allure import TestFacts

    session, asked = started(item.config), cells.request_of(item)
    workload = session.catalog.workload_named(asked.workload) if asked.workload is not None else None
    sla_name = next((run.sla.name for run in runs if run.sla is not None), None)
    if "sla" in getattr(item, "fixturenames", ()):
        sla_name = cells.sla_of(asked, session.catalog, workload, session.settings.sla).name
    return TestFacts(
        name=getattr(item, "originalname", None) or item.name.partition("[")[0],
        cell=cell,
        workload=workload,
        sla_name=sla_name,
        simulated=runs[-1].simulated if runs else session.settings.target == "sim",
        parameters=cells.other_parameters(item, cell),
    )


def write_allure_session(config: pytest.Config, document: SessionDocument) -> None:
    """What allure-pytest does not write: the session's files in the folder of results, and a matrix overview as a global
    attachment. Only where reports come together, at the session's end: an xdist worker empties the folder when it starts.

    Raises ``LlmperfError`` when the disk refuses.
    """
    folder = results_folder(config)
    if folder is None or not (document.runs or document.deployment_errors):
        return
    from pytest_llmperf.report.allure_session import session_files
    from pytest_llmperf.report.ci_run import ci_run
    from pytest_llmperf.report.storage import write_atomically

    history = _from(config.invocation_params.dir, settings_of(config).storage / HISTORY)
    for name, text in session_files(document, ci_run(os.environ), history).items():
        write_atomically(config.invocation_params.dir / folder / name, text)
    if (teller := config.stash.get(_TELLER, None)) is not None:
        teller.attach_to_session(lambda: _overview(document))


def _overview(document: SessionDocument) -> Iterator[Attachment]:
    from pytest_llmperf.report.allure_attachments import Attachment
    from pytest_llmperf.report.overview_html import overview_html

    yield Attachment("Matrix overview", overview_html(document).encode(), "text/html", "html")
    if document.runs:
        from pytest_llmperf.report.plots import draw_overview

        yield Attachment("Latency against throughput", draw_overview(document.runs, "png"), "image/png", "png")


def render_command(config: pytest.Config) -> str | None:
    """What makes the report of this session's results, from the directory in which pytest was started; None without them."""
    folder = results_folder(config)
    if folder is None:
        return None
    from pytest_llmperf.report.allure_session import CONFIGURATION

    written = (config.invocation_params.dir / folder / CONFIGURATION).is_file()
    return f"npx allure generate {folder}" + (f" --config {folder / CONFIGURATION}" if written else "")


def _from(directory: Path, path: Path) -> str:
    """A path as it is written from ``directory``, so that results may move with what lies around them."""
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)
