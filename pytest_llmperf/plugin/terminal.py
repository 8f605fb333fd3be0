"""The lines after the last test: one a run, where the results lie, and why nothing was selected."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.plugin.allure_bridge import render_command
from pytest_llmperf.plugin.ci import annotation_lines
from pytest_llmperf.plugin.cluster import KEPT, LEFT, told
from pytest_llmperf.plugin.options import Settings, settings_of
from pytest_llmperf.plugin.rendering import RENDERED
from pytest_llmperf.plugin.results import COLLECTED, TROUBLE
from pytest_llmperf.plugin.start import nothing_selected
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.report.document import RunDocument


def summary_lines(config: pytest.Config, exitstatus: int, width: int) -> Iterator[str]:
    """What to print below pytest's own failures, at most ``width`` columns wide."""
    trouble = config.stash.get(TROUBLE, None)
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and trouble is None and (hint := nothing_selected(config)):
        yield f"llmperf: {hint}"
    runs = config.stash[COLLECTED].runs()
    if runs:
        from pytest_llmperf.report.client_health import client_lines
        from pytest_llmperf.report.comparison_table import comparison_lines
        from pytest_llmperf.report.server_part import bottleneck_lines
        from pytest_llmperf.report.tables import DEFAULT_KEYS, render_text, summary_table, warmup_lines

        settings = settings_of(config)
        yield ""
        table = summary_table(
            runs,
            width,
            group_by=settings.group_by,
            sort=settings.sort or "name",
            columns=(*DEFAULT_KEYS, *settings.columns),
        )
        yield from render_text(table, width).splitlines()
        yield from warmup_lines(runs, width)
        yield from client_lines(runs, width)
        yield from bottleneck_lines(runs, width)
        yield from _stops(runs)
        yield from comparison_lines(runs, width)
        yield from config.stash[COLLECTED].saved
        yield from _places(config, settings)
    else:
        yield from config.stash[COLLECTED].saved
    yield from annotation_lines(config.stash[COLLECTED], config.rootpath, os.environ)
    yield from _cluster_lines(config)
    if trouble is not None:
        yield f"llmperf: {trouble}"


def _cluster_lines(config: pytest.Config) -> Iterator[str]:
    """What was written for a cluster, what is kept there, and what could not be removed."""
    if (folder := settings_of(config).kubernetes.render) is not None and (count := config.stash.get(RENDERED, None)) is not None:
        yield f"rendered: {count} {'cell' if count == 1 else 'cells'} in {_shown(folder, config.invocation_params.dir)}"
    yield from told(config, KEPT)
    yield from (f"llmperf: {trouble}" for trouble in told(config, LEFT))


def _stops(runs: Sequence[RunDocument]) -> Iterator[str]:
    """What ending loads early has saved."""
    stopped = [run.stopped for run in runs if run.stopped is not None]
    if stopped:
        saved = format_duration(sum(stop.saved_s for stop in stopped))
        yield f"{len(stopped)} of {len(runs)} loads ended early, their verdict settled: {saved} of load saved"


def _places(config: pytest.Config, settings: Settings) -> Iterator[str]:
    here = config.invocation_params.dir
    yield f"runs: {_shown(settings.storage / 'runs', here)}"
    if settings.json is not None and TROUBLE not in config.stash:
        yield f"results: {_shown(settings.json, here)}"
    if settings.markdown is not None and TROUBLE not in config.stash:
        yield f"summary: {_shown(settings.markdown, here)}"
    for export in settings.export if TROUBLE not in config.stash else ():
        yield f"{export.format}: {_shown(export.path, here)}"
    if (render := render_command(config)) is not None:
        yield f"allure: {render}"


def _shown(path: Path, here: Path) -> str:
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
