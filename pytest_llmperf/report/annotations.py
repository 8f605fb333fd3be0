"""What GitHub shows beside the lines of a pull request: workflow commands, one a line of the job's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.report.comparison import invalid_reasons, regressed, title_of
from pytest_llmperf.report.comparison_table import change_text
from pytest_llmperf.report.part_text import far_text, measured_text
from pytest_llmperf.report.rows import test_labels

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import DeploymentErrorPart, RunDocument


@dataclass(frozen=True)
class Place:
    """Where a test stands: a path relative to the repository's root, and a line from 1."""

    file: str
    line: int


def workflow_commands(
    runs: Sequence[RunDocument], errors: Sequence[DeploymentErrorPart], places: Mapping[str, Place]
) -> tuple[str, ...]:
    """An error for each run that misses its SLA, is INVALID or regressed, and each cell that was not deployed; a warning for each
    that is INCONCLUSIVE. ``places`` by run id: a run without one is told of without a file.
    """
    found: list[str] = []
    for run, test in zip(runs, test_labels(runs), strict=True):
        mark = " (SIMULATED)" if run.simulated else ""
        place = places.get(run.run_id)
        found += [
            _command(level, f"{title}: {test}{mark}", f"{title_of(run)}: {what}", place) for level, title, what in _findings(run)
        ]
    found += [_command("error", f"not deployed: {error.cell_id}", error.error, None) for error in errors]
    return tuple(found)


def _findings(run: RunDocument) -> Iterator[tuple[str, str, str]]:
    """(level, title, message) of what a reader must know of a run."""
    match run.verdict:
        case "FAIL":
            yield "error", "SLA missed", "\n".join(_missed(run))
        case "INVALID":
            yield "error", "INVALID", "; ".join(invalid_reasons(run)) or "the measurement cannot be trusted"
        case "INCONCLUSIVE":
            reasons = run.sla.reasons if run.sla is not None else ()
            yield "warning", "INCONCLUSIVE", "; ".join(reasons) or "the samples cannot tell"
    if run.comparison is not None and regressed(run.comparison):
        worse = [change for change in run.comparison.changes if change.gated and change.verdict == "regressed"]
        what = "\n".join(f"{change.title} {change_text(change)} ({change.tolerance} allowed)" for change in worse)
        yield "error", f"regressed beside {run.comparison.baseline}", what


def _missed(run: RunDocument) -> Iterator[str]:
    if run.sla is None:
        return
    missed = [check for check in run.sla.checks if check.outcome == "FAIL"]
    if not missed:
        yield "; ".join(run.sla.reasons)
    for check in missed:
        note = f"; {check.note}" if check.note else ""
        yield f"{check.title} {measured_text(check)}, required {check.required} ({far_text(check)}{note})"


def _command(level: str, title: str, message: str, place: Place | None) -> str:
    properties = {"file": place.file, "line": str(place.line)} if place is not None else {}
    told = ",".join(f"{name}={_property(value)}" for name, value in {**properties, "title": title}.items())
    return f"::{level} {told}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
