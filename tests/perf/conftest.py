"""The paced server of a session, and the table that is printed at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.montecarlo.tables import write_between
from tests.perf import paced_go
from tests.perf.figures import Table
from tests.perf.paced_go import Paced

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.fixture(scope="session")
def paced() -> Iterator[Paced]:
    """A running paced server; skips where there is none to be had."""
    if reason := paced_go.why_not():
        pytest.skip(reason)
    with paced_go.running() as server:
        yield server


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Printed when all is measured; written into the page with ``LLMPERF_WRITE_DOCS=1``."""
    figures = Table("load engine")
    yield figures
    text = figures.text()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{figures.title}\n\n{text}")
    if os.environ.get("LLMPERF_WRITE_DOCS"):
        write_between(PAGE, figures.title, text)
