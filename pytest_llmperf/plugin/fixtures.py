"""The fixtures. Each fits in ten lines and calls what a unit test calls too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest

from pytest_llmperf.deploy.base import Deployment, check_standing
from pytest_llmperf.experiment.profile import TraceReplay
from pytest_llmperf.experiment.records import Cell, NamedProfile, Workload
from pytest_llmperf.experiment.sla import Sla
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.plugin import cells
from pytest_llmperf.plugin.asserted import Rules, judged_by_experiment
from pytest_llmperf.plugin.baseline import BaselineOfTest, baseline_for
from pytest_llmperf.plugin.capacity import FindCapacity, Sweep, Tell
from pytest_llmperf.plugin.display import internal, shown_as
from pytest_llmperf.plugin.load import Load
from pytest_llmperf.plugin.results import RECORDER, run_context
from pytest_llmperf.plugin.start import started
from pytest_llmperf.plugin.trace import trace_profile
from pytest_llmperf.plugin.variants import CompareVariants
from pytest_llmperf.plugin.xdist import xdist_workers


@pytest.fixture(scope="session")
@internal
def _llmperf_cells(request: pytest.FixtureRequest) -> tuple[Cell, ...]:
    """The matrix's cells. Asked for by ``cell`` alone, which tells it from a ``cell`` that a suite has of its own."""
    return started(request.config).cells


@pytest.fixture(scope="session")
@internal
def cell(request: pytest.FixtureRequest, _llmperf_cells: tuple[Cell, ...]) -> Cell:
    """The matrix cell this test runs in."""
    found: Cell = request.param
    return found


@pytest.fixture(scope="session")
@shown_as("The cell's deployment")
def deployment(cell: Cell, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """The cell's deployment: stood up once, shared by the cell's tests, taken down after the last of them."""
    deployments = started(request.config).deployments
    yield deployments.of(cell)
    deployments.close(cell.id)


@pytest.fixture
@internal
def workload(request: pytest.FixtureRequest) -> Workload:
    """The workload that the test's marker names."""
    return cells.workload_of(cells.request_of(request.node), started(request.config).catalog)


@pytest.fixture
@internal
def sla(request: pytest.FixtureRequest) -> Sla:
    """The SLA that applies: ``--llmperf-sla``, else the marker's, else the workload's; as it is for the cell, at the gate."""
    session = started(request.config)
    asked, settings = cells.request_of(request.node), session.settings
    workload = cells.workload_of(asked, session.catalog) if asked.workload is not None else None
    return cells.sla_of(asked, session.catalog, workload, settings.sla, cells.cell_of(request.node), settings.gate)


@pytest.fixture
@internal
def profile(cell: Cell, request: pytest.FixtureRequest) -> NamedProfile:
    """The load at which the SLA is held: the marker's profile, else the workload's, as it is on the cell's hardware."""
    return cells.profile_of(cells.request_of(request.node), started(request.config).catalog, cell.hardware)


@pytest.fixture
@internal
def _llmperf_repetition(request: pytest.FixtureRequest) -> int:
    """Which repetition of the test this is (``--llmperf-repeat``); 1 where it is not repeated."""
    repetition: int = getattr(request, "param", 1)
    return repetition


def _load_on(deployment: Deployment, workload: Workload, request: pytest.FixtureRequest) -> Load:
    """What drives load at ``deployment`` for this test."""
    from pytest_llmperf.load.cores import available_cores

    check_standing(deployment)
    session = started(request.config)
    settings = session.settings
    return Load(
        deployment=deployment,
        workload=workload,
        node_id=cells.node_id_of(request.node),
        seed=settings.seed,
        workers=settings.workers,
        cores=available_cores(xdist_workers(os.environ)),
        trust=settings.trust,
        price=session.catalog.price_of(deployment.cell.hardware, deployment.cell.platform),
        session=run_context(request.config, settings),
        keep=partial(request.config.stash[RECORDER].keep, requests_csv=settings.requests_csv),
        progress=session.deployments.progress,
        rules=Rules(Policy(settings.policy), settings.inconclusive, settings.invalid),
        read_sla=partial(cells.sla_given, catalog=session.catalog, gate=settings.gate),
        server=settings.server,
        spare=session.deployments.spare,
    )


@pytest.fixture
@internal
def load(deployment: Deployment, workload: Workload, _llmperf_repetition: int, request: pytest.FixtureRequest) -> Load:
    """Call it to drive load: ``load(poisson("4/s"), "60s")`` returns the measured run."""
    return _load_on(deployment, workload, request)


@pytest.fixture
@internal
def _llmperf_baseline() -> None:
    """Asked for by ``baseline`` alone, which tells it from a ``baseline`` that a suite has of its own."""


@pytest.fixture
@internal
def baseline(_llmperf_baseline: None, request: pytest.FixtureRequest) -> BaselineOfTest:
    """The runs to compare with (``--llmperf-compare``): ``assert baseline.holds(run)``."""
    return baseline_for(request.node, request.config.stash[RECORDER])


def _tell(request: pytest.FixtureRequest) -> Tell:
    """Puts an experiment's table on the test's report: below a failure, and with ``-rP`` below a pass."""
    return partial(request.node.add_report_section, "call", "llmperf")


@pytest.fixture
@internal
def find_capacity(load: Load, request: pytest.FixtureRequest) -> FindCapacity:
    """Call it to find the highest rate that meets an SLA: ``find_capacity(sla, "4/s", "64/s")``."""
    return FindCapacity(load, _tell(request))


@pytest.fixture
@internal
def sweep(load: Load, request: pytest.FixtureRequest) -> Sweep:
    """Call it to load at several points: ``sweep(["4/s", "8/s"], "20s")``."""
    return Sweep(load, _tell(request))


@pytest.fixture
@internal
def compare_variants(cell: Cell, workload: Workload, request: pytest.FixtureRequest) -> Iterator[CompareVariants]:
    """Call it for an A/B comparison of two variants of the cell: ``compare_variants("default", "fp8")``."""
    session = started(request.config)
    comparing = CompareVariants(
        cell,
        session.catalog,
        session.deployments,
        load_on=lambda deployment: _load_on(deployment, workload, request),
        default_profile=lambda: cells.profile_of(cells.request_of(request.node), session.catalog, cell.hardware),
        tell=_tell(request),
        judges=partial(judged_by_experiment, request.node),
    )
    yield comparing
    comparing.close()


@pytest.fixture
@internal
def replay(request: pytest.FixtureRequest) -> tuple[TraceReplay, str | None]:
    """The trace that ``--llmperf-trace`` names (default: a small synthetic one) and how long to replay it."""
    return trace_profile(started(request.config).settings)
