"""What one pytest session holds: settings, catalog, cells, target, the deployments that stand, the results so far."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import DeployError, Where
from pytest_llmperf.experiment.catalog import Catalog, catalog_directories, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.plugin.options import Settings
from pytest_llmperf.plugin.targets import target_of

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Deployment, Target
    from pytest_llmperf.plugin.progress import ProgressLine


@dataclass
class Deployments:
    """The deployments that stand in this process: at most one a cell."""

    target: Target
    progress: ProgressLine
    standing: dict[str, Deployment] = field(default_factory=dict)

    def of(self, cell: Cell) -> Deployment:
        """The cell's deployment; stands it up on first use. Raises ``DeployError``."""
        if cell.id not in self.standing:
            with self.progress.deploying(cell) as say:
                self.standing[cell.id] = self.target.deploy(cell, say)
                self.progress.simulated = self.standing[cell.id].info.simulated
        return self.standing[cell.id]

    def close(self, cell_id: str) -> None:
        """Take the cell's deployment down, if it stands. Raises ``DeployError`` when something is left behind."""
        deployment = self.standing.pop(cell_id, None)
        if deployment is not None:
            with self._shown(deployment):
                deployment.close()

    def _shown(self, deployment: Deployment) -> AbstractContextManager[None]:
        """What is said of the end of one that may take its time."""
        if deployment.info.target != "process":
            return nullcontext()
        from pytest_llmperf.deploy.supervised import GRACE_S

        return self.progress.ending(deployment.cell, GRACE_S)

    def close_all(self) -> None:
        """Take everything down; one that fails does not keep the others standing. Raises ``DeployError`` at the end."""
        failures: list[DeployError] = []
        for cell_id in list(self.standing):
            try:
                self.close(cell_id)
            except DeployError as error:
                failures.append(error)
        if failures:
            raise failures[0]


@dataclass(frozen=True)
class LlmperfSession:
    """Made once, when collection starts."""

    settings: Settings
    catalog: Catalog
    cells: tuple[Cell, ...]
    deployments: Deployments


STASH = pytest.StashKey[LlmperfSession]()


def start_session(config: pytest.Config, settings: Settings, progress: ProgressLine) -> LlmperfSession:
    """Load the catalog and expand the matrix. Raises ``ConfigError``."""
    catalog = load_catalog(catalog_directories(config.rootpath, settings.catalog, Where(option="--llmperf-catalog")))
    matrix = catalog.matrix_named(settings.matrix, Where(option="--llmperf-matrix"))
    target = target_of(settings)
    target.check()
    return LlmperfSession(settings, catalog, expand(matrix, catalog), Deployments(target, progress))
