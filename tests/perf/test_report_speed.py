"""How long a report of a large run takes, and how much memory: in processes of their own, by what the kernel says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.perf.figures import Table

ROOT = Path(__file__).parents[2]
REQUESTS = 1_000_000
RUN_ID = "0123abcd"
MOST_PLOTS_S, MOST_REPORT_S, MOST_BYTES = 10.0, 30.0, 2_000_000_000
MOST_SVG_BYTES = 300_000


def did(*arguments: str) -> dict[str, float]:
    """What a process of ``report_large`` says of itself."""
    command = [sys.executable, "-m", "tests.perf.report_large", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Printed when all is measured."""
    table = Table("report")
    yield table
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{table.title}\n\n{table.text()}")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    did("make", str(folder), str(REQUESTS))
    return folder


def test_plots_of_a_million_requests(figures: Table, storage: Path) -> None:
    directory = storage / "runs" / RUN_ID
    seen = did("plots", str(directory))
    largest = max(path.stat().st_size for path in directory.glob("*.svg"))
    figures.add("1,000,000 requests: a run's four plots", f"{seen['seconds']:.1f} s", "<= 10 s", seen["seconds"] <= MOST_PLOTS_S)
    peak = seen["peak_bytes"]
    figures.add("memory for them", f"{peak / 1e6:,.0f} MB", "< 2 GB", peak < MOST_BYTES)
    figures.add("the larger SVG", f"{largest / 1e3:,.0f} kB", "<= 300 kB", largest <= MOST_SVG_BYTES)
    assert seen["seconds"] <= MOST_PLOTS_S
    assert peak < MOST_BYTES
    assert largest <= MOST_SVG_BYTES


def test_report_on_a_million_requests(figures: Table, storage: Path, tmp_path: Path) -> None:
    seen = did("report", str(storage), str(tmp_path))
    seconds, peak = seen["seconds"], seen["peak_bytes"]
    figures.add("report: table, CSV, JSON, HTML, all plots", f"{seconds:.1f} s", "< 30 s", seconds < MOST_REPORT_S)
    figures.add("memory for it", f"{peak / 1e6:,.0f} MB", "< 2 GB", peak < MOST_BYTES)
    page = (tmp_path / "r.html").stat().st_size
    figures.add("the HTML file", f"{page / 1e3:,.0f} kB")
    assert seconds < MOST_REPORT_S
    assert peak < MOST_BYTES
