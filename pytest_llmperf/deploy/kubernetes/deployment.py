"""A cell that stands on a cluster: its objects, its log, how it was lost, its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import httpx

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint
from pytest_llmperf.deploy.kubernetes.access.reach import Reached
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import UnreachableError
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, Ownership
from pytest_llmperf.deploy.kubernetes.ownership.teardown import remove_cell
from pytest_llmperf.deploy.kubernetes.ready.evidence import keep_evidence
from pytest_llmperf.deploy.kubernetes.ready.lost import lost_reason
from pytest_llmperf.deploy.kubernetes.ready.waiting import ReadyPods, engine_log
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings
from pytest_llmperf.deploy.readiness import client_of
from pytest_llmperf.errors import ConfigError, DeployError
from pytest_llmperf.experiment.records import Cell

LOG_LINES = 40


@dataclass(frozen=True)
class Placed:
    """A cell's objects on the cluster: whose they are, and which kinds they have."""

    api: KubeApi
    settings: KubernetesSettings
    cell: Cell
    rendered: Rendered = field(repr=False)
    ownership: Ownership
    kinds: tuple[Kind, ...]
    documents: tuple[str, ...]
    session: KubeSession = field(repr=False)

    @property
    def identity(self) -> Identity:
        """Whose they are."""
        return self.settings.identity

    def log(self) -> str:
        """The engine's last lines."""
        return engine_log(self.api, self.rendered, self.identity, self.ownership.namespace, LOG_LINES)

    def lost(self, ready: ReadyPods) -> str | None:
        """Why the cluster does not run the pods any more that were ready, or None while it does."""
        return lost_reason(self.api, self.rendered, self.identity, self.ownership.namespace, ready)

    def kept_evidence(self, why: str) -> str:
        """Keep logs, events, objects and ``why`` with the results; where, as a sentence's end. Trouble in that hides nothing."""
        folder = self.settings.log_directory
        if folder is None:
            return ""
        try:
            kept = keep_evidence(self.api, self.identity, self.cell, self.ownership.namespace, folder, why, kinds=self.kinds)
        except (DeployError, OSError) as error:
            return f"logs and events could not be kept: {error}"
        return f"logs and events: {kept}"

    def remove(self) -> None:
        """Take everything away and see that it is gone. Raises ``DeployError`` that names what is left."""
        with self.session.removing(self.cell.id):
            remove_cell(self.api, self.identity, self.cell.id, self.ownership.namespace, self.kinds)


@dataclass
class KubernetesDeployment:
    """A cell that stands on a cluster. ``close`` takes it away; if this process dies first, a later one or ``gc`` does."""

    cell: Cell
    endpoint: Endpoint
    made: DeploymentInfo
    placed: Placed = field(repr=False)
    ready: ReadyPods = field(repr=False)
    reached: Reached = field(repr=False)
    is_closed: bool = False
    _lost: str | None = field(default=None, init=False)
    """Why it is lost, and where that is kept, as it was told first."""
    _tail: str = field(default="", init=False, repr=False)
    """The engine's last lines from then."""
    _is_unanswered: bool = field(default=False, init=False)
    """Whether the API server was waited for in vain the last time."""

    @property
    def info(self) -> DeploymentInfo:
        """How it was made, and what has gone wrong on the way to it since."""
        trouble = self.reached.trouble()
        return replace(self.made, notes=(*self.made.notes, trouble)) if trouble is not None else self.made

    def log_tail(self) -> str:
        """The engine's last lines; empty once it is closed, or where the cluster does not tell. Of a lost one those from then."""
        if self.is_closed:
            return ""
        return self._tail if self._is_unanswered or self._lost is not None else self._read_tail()

    def _read_tail(self) -> str:
        try:
            return self.placed.log()
        except DeployError:
            return ""

    def lost(self) -> str | None:
        """How its pods ended, or that it cannot be reached. What was seen of that is kept with the results, once."""
        try:
            reason = self._reason()
        except UnreachableError as error:
            self._is_unanswered = True
            if self._lost is not None:
                return self._lost
            # Who serves without the API server is not lost with it.
            return None if self._answers() else f"nobody can say whether it stands: {error.what}"
        except (DeployError, ConfigError) as error:
            return self._lost or f"nobody can say whether it stands: {error.what}"
        self._is_unanswered = False
        if reason is None:
            # A node that was silent has come back; nothing else does.
            self._lost, self._tail = None, ""
        elif self._lost is None:
            self._tail = self._read_tail()
            self._lost = "; ".join(filter(None, (reason, self.placed.kept_evidence(reason))))
        return self._lost

    def _reason(self) -> str | None:
        if self._is_unanswered:
            # Who was waited for in vain has to answer at once: else every test would wait as long.
            api = self.placed.api
            type(api).connect(api.kubeconfig, api.named_context).close()
        return self.placed.session.lost() or self.placed.lost(self.ready)

    def _answers(self) -> bool:
        try:
            with client_of(self.endpoint) as client:
                client.get("/health")
        except httpx.RequestError:
            return False
        return True

    def close(self) -> None:
        """Take it away and see that it is gone. Raises ``DeployError`` when it is not."""
        if self.is_closed:
            return
        self.reached.close()
        if not self.placed.settings.keep:
            self.placed.remove()
        self.is_closed = True
