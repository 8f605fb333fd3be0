"""Hands what ``report.allure`` computes to allure-pytest, when ``--alluredir`` is in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.plugin.cells import cell_of
from pytest_llmperf.plugin.start import started

if TYPE_CHECKING:
    from pytest_llmperf.report.document import RunDocument, SessionDocument


def _results_folder(config: pytest.Config) -> Path | None:
    folder: str | None = config.getoption("allure_report_dir", None)
    return Path(folder) if folder else None


def tell_allure(item: pytest.Item, phase: str, runs: Sequence[RunDocument]) -> None:
    """Title, labels and attachments of a test with runs. Called while its report is made: attachments land on the test."""
    cell = cell_of(item)
    if not runs or cell is None or phase != "call" or _results_folder(item.config) is None:
        return
    import allure

    from pytest_llmperf.report.allure import allure_test

    last = runs[-1]
    test = allure_test(
        last.test,
        cell,
        started(item.config).catalog.workload_named(last.workload.name),
        sla_name=last.sla.name if last.sla is not None else None,
        simulated=last.simulated,
        documents=runs,
    )
    allure.dynamic.title(test.title)
    allure.dynamic.description(test.description)
    for name, value in test.labels:
        allure.dynamic.label(name, value)
    for attachment in test.attachments:
        allure.attach(attachment.content, name=attachment.name, attachment_type=attachment.mime, extension=attachment.extension)


def write_environment(config: pytest.Config, document: SessionDocument) -> None:
    """``environment.properties``, which allure-pytest does not write. Raises ``LlmperfError``."""
    folder = _results_folder(config)
    if folder is None or not document.runs:
        return
    from pytest_llmperf.report.allure import environment_properties
    from pytest_llmperf.report.storage import write_atomically

    lines = [f"{name}={value}\n" for name, value in environment_properties(document).items()]
    write_atomically(folder / "environment.properties", "".join(lines))
