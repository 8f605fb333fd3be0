"""The fixtures. Each fits in ten lines and calls what a unit test calls too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_llmperf.deploy.base import Deployment, check_standing
from pytest_llmperf.experiment.profile import TraceReplay
from pytest_llmperf.experiment.records import Cell, NamedProfile, Workload
from pytest_llmperf.experiment.sla import Sla
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.load import Load
from pytest_llmperf.plugin.results import RECORDER
from pytest_llmperf.plugin.start import started
from pytest_llmperf.plugin.trace import trace_profile


@pytest.fixture(scope="session")
def _llmperf_cells(request: pytest.FixtureRequest) -> tuple[Cell, ...]:
    """The matrix's cells. Asked for by ``cell`` alone, which tells it from a ``cell`` that a suite has of its own."""
    return started(request.config).cells


@pytest.fixture(scope="session")
def cell(request: pytest.FixtureRequest, _llmperf_cells: tuple[Cell, ...]) -> Cell:
    """The matrix cell this test runs in."""
    found: Cell = request.param
    return found


@pytest.fixture(scope="session")
def deployment(cell: Cell, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """The cell's deployment: stood up once, shared by the cell's tests, taken down after the last of them."""
    deployments = started(request.config).deployments
    yield deployments.of(cell)
    deployments.close(cell.id)


@pytest.fixture
def workload(request: pytest.FixtureRequest) -> Workload:
    """The workload that the test's marker names."""
    return cells.workload_of(cells.request_of(request.node), started(request.config).catalog)


@pytest.fixture
def sla(request: pytest.FixtureRequest) -> Sla:
    """The SLA that applies: ``--llmperf-sla``, else the marker's, else the workload's."""
    session = started(request.config)
    asked = cells.request_of(request.node)
    workload = cells.workload_of(asked, session.catalog) if asked.workload is not None else None
    return cells.sla_of(asked, session.catalog, workload, session.settings.sla)


@pytest.fixture
def profile(cell: Cell, request: pytest.FixtureRequest) -> NamedProfile:
    """The load at which the SLA is held: the marker's profile, else the workload's, as it is on the cell's hardware."""
    return cells.profile_of(cells.request_of(request.node), started(request.config).catalog, cell.hardware)


@pytest.fixture
def load(deployment: Deployment, workload: Workload, request: pytest.FixtureRequest) -> Load:
    """Call it to drive load: ``load(poisson("4/s"), "60s")`` returns the measured run."""
    check_standing(deployment)
    session = started(request.config)
    price = session.catalog.price_of(deployment.cell.hardware, deployment.cell.platform)
    return Load(
        deployment=deployment,
        workload=workload,
        node_id=cells.node_id_of(request.node),
        seed=session.settings.seed,
        workers=session.settings.workers,
        price_per_hour=price.per_gpu * deployment.cell.hardware.count if price is not None else None,
        keep=request.config.stash[RECORDER].keep,
        progress=session.deployments.progress,
    )


@pytest.fixture
def replay(request: pytest.FixtureRequest) -> tuple[TraceReplay, str | None]:
    """The trace that ``--llmperf-trace`` names (default: a small synthetic one) and how long to replay it."""
    return trace_profile(started(request.config).settings)
