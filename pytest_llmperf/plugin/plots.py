"""Draws a test's runs as soon as its report is made, where somebody will look at them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.plugin.asserted import warn_only
from pytest_llmperf.plugin.options import settings_of

if TYPE_CHECKING:
    from pytest_llmperf.plugin.options import Settings
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.plots.style import Format


def with_plots(config: pytest.Config, runs: Sequence[RunDocument]) -> Sequence[RunDocument]:
    """The runs, with plots in their folders: by ``--llmperf-plots``, else where Allure's results are written.

    Allure shows PNGs: who did not ask for plots does not wait for SVGs, while the deployment stands. A plot that cannot be drawn
    or written is a warning: what was measured stands, and is told without it.
    """
    settings = settings_of(config)
    formats = formats_wanted(settings.plots, bool(config.getoption("allure_report_dir", None)))
    return [_drawn(settings, run, formats) for run in runs] if formats else runs


def formats_wanted(asked: bool | None, for_allure: bool) -> tuple[Format, ...]:
    """What to draw: all where that was asked, else what Allure's report shows."""
    if asked is None:
        return ("png",) if for_allure else ()
    return ("png", "svg") if asked else ()


def _drawn(settings: Settings, run: RunDocument, formats: Collection[Format]) -> RunDocument:
    from pytest_llmperf.report.plots import write_run_plots
    from pytest_llmperf.report.storage import artifacts_in, run_directory, write_run

    directory = run_directory(settings.storage, run.run_id)
    try:
        write_run_plots(directory, formats)
        drawn = run.model_copy(update={"artifacts": artifacts_in(directory)})
        write_run(settings.storage, drawn)
    except Exception as error:  # noqa: BLE001  (a report is made here: whatever is raised would end the session)
        warn_only(f"run {run.run_id} could not be drawn: {error}")
        return run
    return drawn
