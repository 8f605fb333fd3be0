"""What Allure gets to know of a session, beside its tests: environment, categories, the CI's run, metrics, its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.report.allure_metrics import perf_results, performance_section, samples_of

if TYPE_CHECKING:
    from pytest_llmperf.report.ci_run import CiRun
    from pytest_llmperf.report.results_v2 import SessionDocument

CONFIGURATION = "allurerc.json"
METRICS_FILE = "llmperf-perf.json"
_OF_NO_USE = ("host", "thread", "framework", "language", "package")
"""Labels of allure-pytest that would hide those of the model, the workload and the SLA from sight."""


@dataclass(frozen=True)
class Category:
    """One cause of a test that did not pass. ``message`` is a regular expression that is searched in the error's message."""

    name: str
    statuses: tuple[str, ...]
    message: str


def _judged(outcome: str) -> str:
    """What an assertion of ours says of a verdict: a run's, an experiment's, or that of a run which nobody has judged."""
    return rf"(SlaMissError: SLA [^:]*:\s+{outcome}\b|(ExperimentMissError|Skipped|Failed): {outcome}\b)"


_SLA_MISS, _INVALID, _INCONCLUSIVE = map(_judged, ("FAIL", "INVALID", "INCONCLUSIVE"))
CATEGORIES = (
    Category("SLA miss", ("failed",), _SLA_MISS),
    Category("Invalid measurement", ("failed", "skipped"), _INVALID),
    Category("Inconclusive", ("failed", "skipped"), _INCONCLUSIVE),
    Category("Deployment fault", ("broken",), r"\bDeployError: "),
    # A regression too: the server is worse than it was.
    Category("Product defect", ("failed",), rf"^(?![\s\S]*({_SLA_MISS}|{_INVALID}|{_INCONCLUSIVE}))"),
)


def session_files(session: SessionDocument, ci: CiRun | None, history: str) -> dict[str, str]:
    """The text of each file for the folder of results, by its name; ``history`` is where Allure 3 keeps it, as a path."""
    samples = list(samples_of(session.runs))
    files = {
        "environment.properties": "".join(f"{name}={value}\n" for name, value in environment_properties(session).items()),
        "categories.json": _json(_categories_2()),
        CONFIGURATION: _json(
            {
                "name": f"LLM performance{' (SIMULATED)' if session.simulated else ''}",
                "historyPath": history,
                "hideLabels": list(_OF_NO_USE),
                "plugins": {"awesome": {"options": {"groupBy": ["epic", "feature", "story"]}}},
                "categories": {"rules": _categories_3()},
                "performance": performance_section(samples),
            }
        ),
    }
    if samples:
        files[METRICS_FILE] = _json(perf_results(samples))
    if ci is not None:
        files["executor.json"] = _json(_executor(ci))
    return files


def environment_properties(session: SessionDocument) -> dict[str, str]:
    """What Allure's environment widget shows of a session: one line of text a name, the same for the same software.

    Ready for ``name=value`` lines of ``environment.properties``: no value has a line end or an unescaped backslash.
    """
    runs = session.runs
    values = {
        "Target": session.target,
        "Simulated": "yes" if session.simulated else "no",
        "Cells": _listed([*(run.cell.id for run in runs), *(error.cell_id for error in session.deployment_errors)]),
        "Engine": _listed(run.deployment.engine for run in runs),
        "GPU": _listed(run.configuration.gpu or "" for run in runs),
        "Client": _listed(run.configuration.client_platform for run in runs),
        "Python": _listed(run.configuration.packages.get("python", "") for run in runs),
        "pytest-llmperf": _listed(run.configuration.packages.get("pytest-llmperf", "") for run in runs),
        "Commit": session.commit + (" (modified)" if session.dirty else "") if session.commit else "-",
    }
    return {name: _escaped(value) for name, value in values.items()}


def _categories_2() -> list[dict[str, object]]:
    """For Allure 2, and the reports of Allure 3 that look like it: there an expression has to match the whole message."""
    return [
        {
            "name": category.name,
            "matchedStatuses": list(category.statuses),
            "messageRegex": rf"{category.message}[\s\S]*" if category.message[0] == "^" else rf"[\s\S]*{category.message}[\s\S]*",
        }
        for category in CATEGORIES
    ]


def _categories_3() -> list[dict[str, object]]:
    return [
        {"name": category.name, "matchers": {"statuses": list(category.statuses), "message": category.message}}
        for category in CATEGORIES
    ]


def _executor(ci: CiRun) -> dict[str, object]:
    known = {
        "name": ci.name,
        "type": ci.type,
        "url": ci.url,
        "buildOrder": ci.order,
        "buildName": ci.run_name,
        "buildUrl": ci.run_url,
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values) - {""})) or "-"


def _escaped(value: str) -> str:
    """Java's properties: a backslash starts an escape, a line ends the value."""
    return " ".join(value.replace("\\", "\\\\").splitlines())
