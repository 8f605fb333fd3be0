"""What Allure gets to know of a test, as plain data. Whoever talks to Allure attaches it.

Nothing that is measured goes into title, labels or parameters: Allure recognises a test by them from one session to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.report.client_health import client_paragraphs
from pytest_llmperf.report.document import to_json

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell, Workload
    from pytest_llmperf.report.results_v2 import RunDocument, SessionDocument

SIMULATED = "SIMULATED"


@dataclass(frozen=True)
class Attachment:
    """A file of a test's: its name, content, MIME type and extension (without the dot)."""

    name: str
    content: bytes
    mime: str
    extension: str


@dataclass(frozen=True)
class AllureTest:
    """A test as Allure shows it."""

    title: str
    description: str
    labels: tuple[tuple[str, str], ...]
    """(name, value): ``epic`` is the model, ``feature`` the workload, ``story`` the SLA; ``severity``; ``tag`` when simulated."""
    severity: str
    parameters: tuple[tuple[str, str], ...]
    """(name, value), stable from session to session."""
    attachments: tuple[Attachment, ...]


def allure_test(
    test: str,
    cell: Cell,
    workload: Workload,
    *,
    sla_name: str | None,
    simulated: bool,
    documents: Sequence[RunDocument] = (),
) -> AllureTest:
    """Describe a test; ``test`` is its name without parameters, ``documents`` the runs it made.

    The story is the SLA, or the test where it holds none. A test that holds an SLA is critical, any other normal: severity
    says what a failure would mean, so it does not follow from the outcome.
    """
    severity = "critical" if sla_name else "normal"
    labels = (
        ("epic", cell.model.name),
        ("feature", workload.name),
        ("story", sla_name or test),
        ("severity", severity),
    )
    return AllureTest(
        title=f"{test} on {cell.id}" + (f" ({SIMULATED})" if simulated else ""),
        description="\n\n".join((*_description(cell, workload, sla_name, simulated), *client_paragraphs(documents))),
        labels=(*labels, ("tag", SIMULATED)) if simulated else labels,
        severity=severity,
        parameters=_parameters(cell, workload),
        attachments=tuple(_attachment(document) for document in documents),
    )


def environment_properties(session: SessionDocument) -> dict[str, str]:
    """What Allure's environment widget shows of a session: one line of text a name, the same for the same software.

    Ready for ``name=value`` lines of ``environment.properties``: no value has a line end or an unescaped backslash.
    """
    runs = session.runs
    values = {
        "Target": session.target,
        "Simulated": "yes" if session.simulated else "no",
        "Cells": _listed(run.cell.id for run in runs),
        "Engine": _listed(run.deployment.engine for run in runs),
        "Client": _listed(run.configuration.client_platform for run in runs),
        "Python": _listed(run.configuration.packages.get("python", "") for run in runs),
        "pytest-llmperf": _listed(run.configuration.packages.get("pytest-llmperf", "") for run in runs),
    }
    return {name: _escaped(value) for name, value in values.items()}


def _parameters(cell: Cell, workload: Workload) -> tuple[tuple[str, str], ...]:
    return (
        ("platform", cell.platform.name),
        ("hardware", cell.hardware.id),
        ("method", cell.method.name),
        ("model", cell.model.name),
        ("variant", cell.variant.name),
        ("workload", workload.name),
    )


def _description(cell: Cell, workload: Workload, sla_name: str | None, simulated: bool) -> list[str]:
    asked = f"{workload.input.mean:,} tokens in, {workload.output.mean:,} out (means)"
    paragraphs = [
        f"**{workload.title}** ({asked}).",
        f"{cell.model.title} on {cell.hardware.title} ({cell.hardware.id}), {cell.platform.title}, {cell.method.title}.",
    ]
    if sla_name:
        paragraphs.append(f"Held against the SLA `{sla_name}`.")
    if simulated:
        paragraphs.append(f"**{SIMULATED}**: the numbers come from the embedded simulator, not from this hardware.")
    return paragraphs


def _attachment(document: RunDocument) -> Attachment:
    return Attachment(f"run {document.run_id}", to_json(document).encode(), "application/json", "json")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values) - {""})) or "-"


def _escaped(value: str) -> str:
    """Java's properties: a backslash starts an escape, a line ends the value."""
    return " ".join(value.replace("\\", "\\\\").splitlines())
