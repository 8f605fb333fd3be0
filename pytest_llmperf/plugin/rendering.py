"""``--llmperf-render``: what would be applied, as files; no cluster is asked and no test is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.plugin.options import Settings

RENDERED = pytest.StashKey[int]()
"""How many cells were written."""


def render_cells(config: pytest.Config, settings: Settings, cells: Sequence[Cell]) -> None:
    """Write a folder for each cell. Raises ``LlmperfError``."""
    from pytest_llmperf.deploy.kubernetes.rendering.render import render_all
    from pytest_llmperf.deploy.kubernetes.rendering.rendered_files import write_rendered
    from pytest_llmperf.plugin.targets import render_settings
    from pytest_llmperf.secrets import hiding

    folder = settings.kubernetes.render
    assert folder is not None
    # All of them before the first file: a mistake leaves no half.
    for rendered in render_all(cells, render_settings(settings), hiding(os.environ)):
        write_rendered(folder, rendered)
    config.stash[RENDERED] = len(cells)
