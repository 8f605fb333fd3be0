"""The lines after the last test: one a run, where the results lie, and why nothing was selected."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.plugin.options import Settings, settings_of
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
        from pytest_llmperf.report.tables import DEFAULT_KEYS, render_text, summary_table

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
        yield from _stops(runs)
        yield from _comparisons(runs, width)
        yield from config.stash[COLLECTED].saved
        yield from _places(config, settings)
    else:
        yield from config.stash[COLLECTED].saved
    if trouble is not None:
        yield f"llmperf: {trouble}"


def _stops(runs: Sequence[RunDocument]) -> Iterator[str]:
    """What ending loads early has saved."""
    stopped = [run.stopped for run in runs if run.stopped is not None]
    if stopped:
        saved = format_duration(sum(stop.saved_s for stop in stopped))
        yield f"{len(stopped)} of {len(runs)} loads ended early, their verdict settled: {saved} of load saved"


def _comparisons(runs: Sequence[RunDocument], width: int) -> Iterator[str]:
    """How the runs stand beside the baseline: how many of which verdict, and what regressed or could not be compared."""
    compared = [(run, run.comparison) for run in runs if run.comparison is not None]
    if not compared:
        return
    from pytest_llmperf.report.comparison_table import change_text

    counts = Counter(part.verdict for _, part in compared)
    yield f"beside baseline {compared[0][1].baseline}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    for run, part in compared:
        worse = [change for change in part.changes if change.verdict == "regressed"]
        # As in the table: what fails no test stands in brackets.
        what = [text if change.gated else f"({text})" for change in worse if (text := f"{change.title} {change_text(change)}")]
        if part.verdict == "incomparable":
            differing = (f"{field}: {change}" for field, change in part.differences.items())
            what = ["; ".join((f"incomparable, {part.note}", *differing))]
        if what:
            yield from textwrap.wrap(f"{run.node_id}: {', '.join(what)}", width, initial_indent="  ", subsequent_indent="    ")


def _places(config: pytest.Config, settings: Settings) -> Iterator[str]:
    here = config.invocation_params.dir
    yield f"runs: {_shown(settings.storage / 'runs', here)}"
    if settings.json is not None and TROUBLE not in config.stash:
        yield f"results: {_shown(settings.json, here)}"
    if allure := config.getoption("allure_report_dir", None):
        yield f"allure: {allure} (render: npx allure generate {allure})"


def _shown(path: Path, here: Path) -> str:
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
