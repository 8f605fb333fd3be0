"""What Allure gets to know of a test, as plain data. Whoever talks to Allure hands it over.

Nothing that is measured goes into title, labels or parameters: Allure recognises a test by them from one session to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.report.client_health import client_paragraphs

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell, Workload
    from pytest_llmperf.report.results_v2 import RunDocument

SIMULATED = "SIMULATED"
_UNNAMED_SLAS = {"inline": "SLA of the marker", "command line": "SLA of the command line"}
_MEETS_SLA = {"sla", "meets sla", "meets its sla", "meets the sla"}
_WRITTEN = {"sla": "SLA", "slas": "SLAs", "ttft": "TTFT", "tpot": "TPOT", "itl": "ITL"}


@dataclass(frozen=True)
class TestFacts:
    """What is known of a test before it has run.

    ``name`` is its function's, ``parameters`` its id's but for the cell's; ``sla_name`` is set where it asks for an SLA.
    """

    __test__ = False
    name: str
    cell: Cell
    workload: Workload | None
    sla_name: str | None
    simulated: bool
    parameters: str = ""


@dataclass(frozen=True)
class AllureTest:
    """A test as Allure shows it."""

    title: str
    description: str
    labels: tuple[tuple[str, str], ...]
    """(name, value): ``epic`` is the model, ``feature`` the workload, ``story`` the SLA; ``severity``; ``tag`` when simulated."""
    parameters: tuple[tuple[str, str], ...]
    """(name, value), stable from session to session."""


def allure_test(facts: TestFacts, documents: Sequence[RunDocument] = ()) -> AllureTest:
    """Describe a test; ``documents`` are the runs it made, which add to the description alone.

    The story is the SLA, or the test where it holds none. A test that holds an SLA is critical, any other normal: severity
    says what a failure would mean, so it does not follow from the outcome.
    """
    sla, workload = facts.sla_name, facts.workload
    labels = [("epic", facts.cell.model.name)]
    labels += [("feature", workload.name)] if workload is not None else []
    labels += [
        ("story", _UNNAMED_SLAS.get(sla, sla) if sla else _words(facts.name)),
        ("severity", "critical" if sla else "normal"),
    ]
    labels += [("tag", SIMULATED)] if facts.simulated else []
    return AllureTest(
        title=_title(facts),
        description="\n\n".join((*_description(facts), *client_paragraphs(documents))),
        labels=tuple(labels),
        parameters=_parameters(facts),
    )


def _title(facts: TestFacts) -> str:
    """``Interactive chat meets its SLA on 1 x H100, GKE, Llama 3.1 8B Instruct (SIMULATED)``."""
    mark = f" ({SIMULATED})" if facts.simulated else ""
    beside = f" [{facts.parameters}]" if facts.parameters else ""
    return f"{_subject(facts)}{beside} on {_place(facts.cell)}{mark}"


def _subject(facts: TestFacts) -> str:
    words = _words(facts.name)
    workload = facts.workload
    if workload is None:
        return words[:1].upper() + words[1:]
    told_by_workload = words.lower() in {workload.name.replace("-", " ").lower(), workload.title.lower()}
    if words.lower() in _MEETS_SLA or (told_by_workload and facts.sla_name):
        return f"{workload.title} meets its SLA"
    return workload.title if told_by_workload else f"{workload.title}: {words}"


def _words(name: str) -> str:
    """``test_meets_sla`` -> ``meets SLA``."""
    return " ".join(_WRITTEN.get(word, word) for word in name.removeprefix("test_").split("_") if word) or name


def _place(cell: Cell) -> str:
    """All that tells the cell from others; a method and a variant that are as always are left out."""
    method = [cell.method.name] if cell.method.name != "standalone" else []
    variant = [cell.variant.name] if cell.variant.name != "default" else []
    hardware = f"{cell.hardware.count} x {cell.hardware.name.upper()}"
    return ", ".join([hardware, cell.platform.name.upper(), *method, cell.model.title, *variant])


def _parameters(facts: TestFacts) -> tuple[tuple[str, str], ...]:
    cell = facts.cell
    return (
        ("platform", cell.platform.name),
        ("hardware", cell.hardware.id),
        ("method", cell.method.name),
        ("model", cell.model.name),
        ("variant", cell.variant.name),
        *((("workload", facts.workload.name),) if facts.workload is not None else ()),
    )


def _description(facts: TestFacts) -> list[str]:
    cell, workload = facts.cell, facts.workload
    paragraphs = []
    if workload is not None:
        asked = f"{workload.input.mean:,} tokens in, {workload.output.mean:,} out (means)"
        paragraphs.append(f"**{workload.title}** ({asked}).")
    paragraphs.append(
        f"{cell.model.title} on {cell.hardware.title} ({cell.hardware.id}), {cell.platform.title}, {cell.method.title}."
    )
    if facts.sla_name:
        held = f"the {_UNNAMED_SLAS[facts.sla_name]}" if facts.sla_name in _UNNAMED_SLAS else f"the SLA `{facts.sla_name}`"
        paragraphs.append(f"Held against {held}.")
    if facts.simulated:
        paragraphs.append(f"**{SIMULATED}**: the numbers come from the embedded simulator, not from this hardware.")
    return paragraphs
