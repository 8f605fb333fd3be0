"""What a CI reads of a session: properties in JUnit's XML, a summary as Markdown, annotations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import LlmperfError, Where

if TYPE_CHECKING:
    from pytest_llmperf.plugin.options import Settings
    from pytest_llmperf.plugin.results import Collected
    from pytest_llmperf.report.annotations import Place
    from pytest_llmperf.report.document import RunDocument, SessionDocument

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_LONGEST_SUMMARY = 1_000_000
"""Bytes: GitHub shows no summary of more than 1 MiB, not even its beginning."""
_CUT = b"\n\n*The rest is too long for this page: `--llmperf-markdown` writes all of it.*\n"
_TOLD = pytest.StashKey[list[str]]()
"""On a test: the ids of its runs that have properties, in their order."""


def tell_junit(item: pytest.Item, report: pytest.TestReport, runs: Sequence[RunDocument]) -> None:
    """Add what JUnit is to say of these runs to the test's properties.

    They are read from the last of a test's reports, which takes over what the item has when it is made.
    """
    from pytest_llmperf.report.junit import junit_properties

    told = item.stash.setdefault(_TOLD, [])
    for run in runs:
        if run.run_id not in told:
            told.append(run.run_id)
            properties = junit_properties(run, len(told))
            item.user_properties.extend(properties)
            report.user_properties.extend(properties)


def write_markdown(settings: Settings, document: SessionDocument) -> None:
    """``--llmperf-markdown``. Raises ``LlmperfError``."""
    if settings.markdown is None:
        return
    from pytest_llmperf.report.markdown import markdown
    from pytest_llmperf.report.storage import write_atomically

    write_atomically(settings.markdown, markdown(document))


def write_step_summary(document: SessionDocument, environ: Mapping[str, str]) -> None:
    """The same below what a GitHub job's summary already says, where there is something to tell. Raises ``LlmperfError``."""
    path = environ.get(STEP_SUMMARY, "")
    if not path or not (document.runs or document.deployment_errors):
        return
    from pytest_llmperf.report.markdown import markdown

    append_summary(Path(path), markdown(document))


def append_summary(path: Path, text: str) -> None:
    """Append to a job's summary as much of ``text`` as fits, cut at a line's end, and say so. Raises ``LlmperfError``.

    Nothing is appended to one that has no room even to say that much: GitHub would show none of it.
    """
    try:
        with path.open("ab") as file:
            file.write(_fitting(text.encode(), _LONGEST_SUMMARY - file.tell()))
    except OSError as error:
        raise LlmperfError(
            f"cannot append the summary: {error.strerror or error}", where=Where(file=str(path), key=STEP_SUMMARY)
        ) from error


def _fitting(content: bytes, room: int) -> bytes:
    if len(content) <= room:
        return content
    kept = content[: max(room - len(_CUT), 0)].rpartition(b"\n")[0]
    return kept + _CUT if len(_CUT) <= room else b""


def write_exports(settings: Settings, document: SessionDocument) -> None:
    """What ``--llmperf-export`` asks for. Raises ``LlmperfError``."""
    from pytest_llmperf.report.exports import directories_in, write_export

    for export in settings.export:
        write_export(export.format, export.path, document, directories_in(settings.storage, document))


def annotation_lines(collected: Collected, root: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Workflow commands, where a GitHub job runs the session. ``root`` is pytest's rootdir."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    from pytest_llmperf.report.annotations import workflow_commands

    places = {run_id: place_in(root / file, line, environ) for run_id, (file, line) in collected.places.items()}
    known = {run_id: place for run_id, place in places.items() if place is not None}
    yield from workflow_commands(collected.runs(), collected.undeployed(), known)


def place_in(path: Path, line: int | None, environ: Mapping[str, str]) -> Place | None:
    """A file and line (from 0) as GitHub names them; None where the file is not within the repository (``GITHUB_WORKSPACE``)."""
    from pytest_llmperf.report.annotations import Place

    path, workspace = Path(os.path.normpath(path)), environ.get("GITHUB_WORKSPACE")
    if not workspace or not path.is_relative_to(workspace):
        return None
    return Place(path.relative_to(workspace).as_posix(), (line or 0) + 1)
