"""What one pytest session holds: settings, catalog, cells, target, the deployments that stand, the results so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import DeployError, Where
from pytest_llmperf.experiment.catalog import Catalog, catalog_directories, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.plugin.cluster import identity_of
from pytest_llmperf.plugin.options import Settings
from pytest_llmperf.plugin.targets import target_of
from pytest_llmperf.plugin.terminate import termination_of

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Deployment, Target
    from pytest_llmperf.load.worker_process import SpareWorkers
    from pytest_llmperf.plugin.progress import ProgressLine

SPARE_WORKERS = 2
"""More are started when a load asks for them."""


@dataclass
class Deployments:
    """The deployments that stand in this process: at most one a cell."""

    target: Target
    progress: ProgressLine
    standing: dict[str, Deployment] = field(default_factory=dict)
    undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while a deployment is taken down, so that what ends the session lets that be finished."""
    has_url: bool = False
    """Whether they are reached at a URL that the user gives, which leads to one cell."""
    begun: bool = False
    """Whether one was ever asked for."""
    spare: SpareWorkers | None = None
    """Load workers that were started while a deployment came up: its first load follows at once."""

    def of(self, cell: Cell) -> Deployment:
        """The cell's deployment; stands it up on first use. Raises ``DeployError``."""
        if cell.id not in self.standing:
            self.begun = True
            if self.target.name == "kubernetes":
                self._warm()
            with self.progress.deploying(cell) as showing:
                deployment = self.standing[cell.id] = self.target.deploy(cell, showing)
                self.progress.simulated = deployment.info.simulated
                if deployment.info.target == "kubernetes":
                    showing.phases = deployment.info.phases
        return self.standing[cell.id]

    def check_together(self, cells: Sequence[Cell], otherwise: str) -> None:
        """Raises ``ConfigError`` where these cannot be reached side by side; ``otherwise`` is the next step then."""
        if self.target.name == "kubernetes":
            from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget

            assert isinstance(self.target, KubernetesTarget)
            self.target.check_together(cells, otherwise)

    def _warm(self) -> None:
        from pytest_llmperf.load.cores import available_cores
        from pytest_llmperf.load.worker_process import SpareWorkers

        self.spare = self.spare or SpareWorkers()
        self.spare.warm(min(SPARE_WORKERS, available_cores()))

    def close(self, cell_id: str) -> None:
        """Take the cell's deployment down, if it stands. Raises ``DeployError`` when something is left behind."""
        deployment = self.standing.pop(cell_id, None)
        if deployment is not None:
            with self.undisturbed(), self._shown(deployment):
                deployment.close()

    def _shown(self, deployment: Deployment) -> AbstractContextManager[None]:
        """What is said of the end of one that may take its time."""
        if deployment.info.target == "kubernetes":
            return self.progress.removing(deployment.cell.id)
        if deployment.info.target != "process":
            return nullcontext()
        from pytest_llmperf.deploy.supervised import GRACE_S

        return self.progress.ending(deployment.cell, GRACE_S)

    def close_all(self, cell_ids: Iterable[str]) -> None:
        """Take these down; one that fails does not keep the others standing. Raises ``DeployError`` that tells of all of them."""
        failures: list[DeployError] = []
        for cell_id in cell_ids:
            try:
                self.close(cell_id)
            except DeployError as error:
                failures.append(error)
        if failures:
            raise together(failures)

    def end(self) -> str:
        """Take everything down, and what the target holds for the session. Safe to call twice. Raises ``DeployError``.

        What the target says of what it leaves standing; empty where that is nothing.
        """
        try:
            self.close_all(list(self.standing))
        except DeployError as error:
            try:
                self._end_target()
            except DeployError as another:
                raise together([error, another]) from None
            raise
        except BaseException:
            self._end_target()
            raise
        return self._end_target()

    def _end_target(self) -> str:
        if self.spare is not None:
            self.spare.close()
        is_slow = self.begun and self.target.name == "kubernetes"
        with self.progress.removing("the session") if is_slow else nullcontext():
            return self.target.end()


def together(errors: Sequence[DeployError]) -> DeployError:
    """Several errors as one, so that none hides another."""
    if len(errors) == 1:
        return errors[0]
    what, hint, state = (
        joint.join(dict.fromkeys(filter(None, texts)))
        for joint, texts in (
            ("; ", (error.what for error in errors)),
            (" ", (error.hint for error in errors)),
            ("; ", (error.state for error in errors)),
        )
    )
    return DeployError(what, hint=hint or None, state=state or None)


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
    target = target_of(settings, identity=identity_of(config, settings))
    target.check()
    deployments = Deployments(
        target, progress, undisturbed=lambda: termination_of(config).undisturbed(), has_url=settings.url is not None
    )
    return LlmperfSession(settings, catalog, expand(matrix, catalog), deployments)
