"""The fixtures. Each fits in ten lines and calls what a unit test calls too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_llmperf.deploy.base import Deployment
from pytest_llmperf.experiment.profile import TraceReplay
from pytest_llmperf.experiment.records import Cell, NamedProfile, Workload
from pytest_llmperf.experiment.sla import Sla
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.load import Load
from pytest_llmperf.plugin.results import RECORDER
from pytest_llmperf.plugin.session import session_of
from pytest_llmperf.plugin.trace import trace_profile


@pytest.fixture(scope="session")
def cell(request: pytest.FixtureRequest) -> Cell:
    """The matrix cell this test runs in."""
    found: Cell = request.param
    return found


@pytest.fixture(scope="session")
def deployment(cell: Cell, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """The cell's deployment: stood up once, shared by the cell's tests, taken down after the last of them."""
    deployments = session_of(request).deployments
    yield deployments.of(cell)
    deployments.close(cell.id)


@pytest.fixture
def workload(request: pytest.FixtureRequest) -> Workload:
    """The workload that the test's marker names."""
    return cells.workload_of(cells.request_of(request.node), session_of(request).catalog)


@pytest.fixture
def sla(request: pytest.FixtureRequest) -> Sla:
    """The SLA that applies: ``--llmperf-sla``, else the marker's, else the workload's."""
    session = session_of(request)
    asked = cells.request_of(request.node)
    workload = cells.workload_of(asked, session.catalog) if asked.workload is not None else None
    return cells.sla_of(asked, session.catalog, workload, session.settings.sla)


@pytest.fixture
def profile(cell: Cell, request: pytest.FixtureRequest) -> NamedProfile:
    """The load at which the SLA is held: the marker's profile, else the workload's, as it is on the cell's hardware."""
    return cells.profile_of(cells.request_of(request.node), session_of(request).catalog, cell.hardware)


@pytest.fixture
def load(deployment: Deployment, workload: Workload, request: pytest.FixtureRequest) -> Load:
    """Call it to drive load: ``load(poisson("4/s"), "60s")`` returns the measured run."""
    session = session_of(request)
    price = session.catalog.price_of(deployment.cell.hardware, deployment.cell.platform)
    return Load(
        deployment=deployment,
        workload=workload,
        node_id=request.node.nodeid.partition("@")[0],  # older xdist adds the group
        seed=session.settings.seed,
        workers=session.settings.workers,
        price_per_hour=price.per_gpu * deployment.cell.hardware.count if price is not None else None,
        keep=request.config.stash[RECORDER].keep,
        progress=session.deployments.progress,
    )


@pytest.fixture
def replay(request: pytest.FixtureRequest) -> tuple[TraceReplay, str]:
    """The trace that ``--llmperf-trace`` names (default: a small synthetic one) and how long to replay it."""
    return trace_profile(session_of(request).settings)
