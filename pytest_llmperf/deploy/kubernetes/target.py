"""The kubernetes target: every cell is objects on a cluster, applied, watched until they are ready, reached, taken away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, time

from pytest_llmperf.deploy.base import DeploymentInfo, Phase, Progress, version_in
from pytest_llmperf.deploy.endpoint import EndpointTarget
from pytest_llmperf.deploy.kubernetes.access.reach import Reached, check_apart, check_reach, reach
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.deployment import KubernetesDeployment, Placed
from pytest_llmperf.deploy.kubernetes.node_labels import accelerator, driver
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import made_name
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession
from pytest_llmperf.deploy.kubernetes.ready.waiting import ReadyPods, await_running
from pytest_llmperf.deploy.kubernetes.rendering.manifests import copied
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, documented, placed, render, render_all
from pytest_llmperf.deploy.kubernetes.rendering.structure import pod_templates
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, check_own_namespace
from pytest_llmperf.deploy.readiness import Answer, await_ready
from pytest_llmperf.deploy.secrets import api_key_of
from pytest_llmperf.errors import ConfigError, DeployError, Where
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import hiding

ANSWER_S = 300.0
"""How long pods that are ready may take to answer where they are reached: a load balancer's name has to become known."""
LOOK_S = 1.0
"""How often the cluster is asked whether a deployment that does not answer is lost."""


class _Waiting:
    """Waits once for a cell's pods."""

    def __init__(self, placed_cell: Placed, progress: Progress) -> None:
        self._placed = placed_cell
        self._progress = progress
        self._ready: ReadyPods | None = None

    @property
    def is_over(self) -> bool:
        """Whether they are ready."""
        return self._ready is not None

    @property
    def ready(self) -> ReadyPods:
        """The pods, which were waited for."""
        assert self._ready is not None
        return self._ready

    def wait(self) -> None:
        """Until they are ready. Raises ``DeployError``."""
        cell = self._placed
        namespace = cell.ownership.namespace
        self._ready = await_running(cell.api, cell.rendered, cell.identity, namespace, cell.settings, self._progress)


@dataclass
class KubernetesTarget:
    """``--llmperf-target=kubernetes``. The cluster is asked for the first time when the cells are known that are to run."""

    settings: KubernetesSettings
    name: str = "kubernetes"
    api_key: str | None = field(default=None, repr=False)
    """The token to send, where it is not in the cell's own arguments."""
    ca_file: str | None = None
    verify: bool = True
    ready_paths: tuple[str, ...] = ()
    """Of a service that only templates ask (``api: http``): where it must answer. Empty: the OpenAI-compatible API."""
    _api: KubeApi | None = field(default=None, repr=False)
    _session: KubeSession | None = field(default=None, repr=False)
    _progress: Progress | None = field(default=None, repr=False)

    def check(self) -> None:
        """No cluster is asked. Raises ``ConfigError`` for a kubeconfig that is not there, and a URL that cannot be one."""
        file, url = self.settings.kubeconfig, self.settings.url
        if file is not None and not file.is_file():
            raise ConfigError(f"the kubeconfig {str(file)!r} does not exist", where=Where(option="--llmperf-kubeconfig"))
        if url is not None:
            # It is asked as any endpoint is.
            EndpointTarget(url, None, ANSWER_S, api_key=self.api_key, ca_file=self.ca_file, verify=self.verify).check()

    def check_cells(self, cells: Sequence[Cell]) -> None:
        """Render every cell, see that it can be reached as it is asked for, and ask the cluster whether it is there.

        Raises ``LlmperfError``.
        """
        settings = self.settings
        if settings.url is not None and len(cells) > 1:
            raise _one_url(cells)
        namespace = settings.namespace or made_name(settings.session)
        every = render_all(cells, settings.render, hiding(os.environ))
        for rendered in every:
            check_own_namespace(settings, rendered.objects)
            check_reach(rendered, settings)
            placed(rendered, settings.identity, namespace, None)
        # Otherwise one is taken away before the next is applied.
        if settings.worker or settings.keep:
            check_apart(every, settings, "run them one after another (without -n and --llmperf-keep)")
        if cells:
            self._connected()

    def check_together(self, cells: Sequence[Cell], otherwise: str) -> None:
        """Whether each of these has an address of its own, for they are to stand at the same time. No cluster is asked.

        Raises ``ConfigError``, with ``otherwise`` as the next step for who cannot give them any.
        """
        each = {cell.id: cell for cell in cells}
        check_apart(render_all(list(each.values()), self.settings.render, hiding(os.environ)), self.settings, otherwise)

    def deploy(self, cell: Cell, progress: Progress) -> KubernetesDeployment:
        """Apply the cell, wait for its pods and its first completion. Raises ``DeployError`` and leaves nothing behind."""
        with self._telling(progress), _named(cell):
            started = monotonic()
            with ExitStack() as undo:
                placed_cell = self._applied(cell, progress, undo)
                applied_s = monotonic() - started
                waiting = _Waiting(placed_cell, progress)
                with _evidence_of(placed_cell, waiting):
                    reached = self._reached(placed_cell, waiting, progress, undo)
                    answer = self._answer(placed_cell, reached, waiting.ready, progress)
                ready = waiting.ready
                reached_s = monotonic() - ready.ready_seen_s - (answer.first_completion_s or 0.0)
                phases = (Phase("applied", applied_s), *ready.phases, Phase("reached", reached_s), *answer.completion_phase)
                info = self._info(placed_cell, ready, reached, answer, phases)
                undo.pop_all()
        return KubernetesDeployment(cell, answer.endpoint, info, placed_cell, ready, reached)

    def end(self) -> str:
        """Remove the session's Lease, and its namespace where one was made; with ``keep`` both stay, marked as kept."""
        session, self._session = self._session, None
        try:
            if session is not None and self.settings.keep:
                return session.keep()
            if session is not None:
                session.close()
            return ""
        finally:
            if self._api is not None:
                self._api.close()

    def _applied(self, cell: Cell, progress: Progress, undo: ExitStack) -> Placed:
        """The cell's objects, applied; ``undo`` takes them away again."""
        api = self._connected()
        progress("opening the session on the cluster")
        if self._session is None:
            self._session = KubeSession(api, self.settings, self._say)
        ownership = self._session.opened()
        rendered = render(cell, self.settings.render, hiding(os.environ), self.settings.identity.suffix)
        objects = placed(rendered, self.settings.identity, ownership.namespace, ownership.owner)
        kinds = tuple(dict.fromkeys(map(api.kind_of, objects)))
        placed_cell = Placed(api, self.settings, cell, rendered, ownership, kinds, documented(objects), self._session)
        if not self.settings.keep:
            undo.push(_removing(placed_cell))
        for manifest in objects:
            progress(f"applying {manifest['kind']} {manifest['metadata']['name']}")
            api.apply(manifest)
        return placed_cell

    def _reached(self, placed_cell: Placed, waiting: _Waiting, progress: Progress, undo: ExitStack) -> Reached:
        """The way to the pods, which are ready then. As much of it as can be is made while they start."""
        namespace = placed_cell.ownership.namespace
        reached = reach(placed_cell.api, placed_cell.rendered, namespace, self.settings, progress, waiting.wait)
        undo.callback(reached.close)
        return reached

    def _answer(self, placed_cell: Placed, reached: Reached, ready: ReadyPods, progress: Progress) -> Answer:
        """What answers there. Raises ``DeployError``."""
        cell = placed_cell.cell
        return await_ready(
            reached.url,
            model=cell.model.name,
            api_key=self.api_key or _key_in(placed_cell.rendered),
            timeout_s=min(ANSWER_S, self.settings.ready_timeout_s),
            progress=progress,
            lost=_seldom(partial(placed_cell.lost, ready)),
            ca_file=self.ca_file,
            verify=self.verify,
            ready_paths=self.ready_paths,
            credential_hint="Name the variable that holds its key with --llmperf-api-key-env.",
        )

    def _info(
        self, placed_cell: Placed, ready: ReadyPods, reached: Reached, answer: Answer, phases: tuple[Phase, ...]
    ) -> DeploymentInfo:
        engine = placed_cell.rendered.engine
        return DeploymentInfo(
            target=self.name,
            simulated=answer.endpoint.simulated,
            engine=answer.engine,
            engine_version=version_in(answer.engine),
            engine_arguments=engine.arguments,
            phases=phases,
            image=ready.image or engine.image,
            image_digest=ready.image_digest or None,
            gpu=accelerator(placed_cell.cell, ready.node_labels, simulated=answer.endpoint.simulated),
            driver=None if answer.endpoint.simulated else driver(ready.node_labels),
            manifests=placed_cell.documents,
            notes=(reached.note,) if reached.note else (),
            pods_ready_at=time() - (monotonic() - ready.ready_seen_s),
        )

    def _connected(self) -> KubeApi:
        if self._api is None:
            self._api = KubeApi.connect(self.settings.kubeconfig, self.settings.context, self._say)
        return self._api

    def _say(self, phrase: str) -> None:
        """What the connection to the API server suffers, and what the session does; told where a deployment is being shown."""
        if (say := self._progress) is not None:
            say(phrase)

    @contextmanager
    def _telling(self, progress: Progress) -> Iterator[None]:
        self._progress = progress
        try:
            yield
        finally:
            self._progress = None


def _one_url(cells: Sequence[Cell]) -> ConfigError:
    return ConfigError(
        f"one URL leads to one cell, but {len(cells)} cells are selected: {', '.join(cell.id for cell in cells)}",
        where=Where(option="--llmperf-url"),
        hint=f"Select the one that it leads to, for example -k {cells[0].id}; --llmperf-reach finds the address of each.",
    )


def _key_in(rendered: Rendered) -> str | None:
    """The token that the engine asks its clients for, where its manifest says it and not a Secret of the cluster."""
    named = (rendered.engine.kind, rendered.engine.name)
    engine = copied(next(one for one in rendered.objects if (one["kind"], one["metadata"]["name"]) == named))
    containers = [one for template in pod_templates(engine) for one in template.spec["containers"]]
    container = next(one for one in containers if one["name"] == rendered.engine.container)
    variables = hiding({one["name"]: str(one["value"]) for one in container.get("env") or () if "value" in one})
    words = [word if isinstance(word, str) else str(word) for key in ("command", "args") for word in container.get(key) or ()]
    return api_key_of(words, variables)


def _removing(placed_cell: Placed) -> Callable[[type[BaseException] | None, BaseException | None, object], None]:
    """What takes a cell away that failed, and lets its own error be read where that fails too."""

    def remove(_kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        try:
            placed_cell.remove()
        except DeployError as left:
            if not isinstance(error, DeployError):
                raise
            state = "; ".join(filter(None, (error.state, left.state)))
            what = f"{error.what}; and it could not be taken away: {left.what}"
            raise DeployError(what, where=error.where, hint=left.hint, state=state, log_tail=error.log_tail) from None

    return remove


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Says in every error which cell it is of."""
    try:
        yield
    except DeployError as error:
        if error.what.startswith(f"{cell.id}: "):
            raise
        what = f"{cell.id}: {error.what}"
        raise DeployError(what, where=error.where, hint=error.hint, state=error.state, log_tail=error.log_tail) from error


@contextmanager
def _evidence_of(placed_cell: Placed, waiting: _Waiting) -> Iterator[None]:
    """Adds the engine's last lines to an error, and where the rest of what was seen is kept; until pods are ready others do."""
    try:
        yield
    except DeployError as error:
        if not waiting.is_over:
            raise
        try:
            tail = error.log_tail or placed_cell.log()
        except DeployError:
            tail = ""
        state = "; ".join(filter(None, (error.state, placed_cell.kept_evidence(error.what))))
        raise DeployError(error.what, where=error.where, hint=error.hint, state=state, log_tail=tail) from None


def _seldom(lost: Callable[[], str | None]) -> Callable[[], str | None]:
    """The same question, put to the cluster once in ``LOOK_S``: whoever polls a server asks it far more often."""
    asked = monotonic()

    def looked() -> str | None:
        nonlocal asked
        if monotonic() - asked < LOOK_S:
            return None
        asked = monotonic()
        return lost()

    return looked
