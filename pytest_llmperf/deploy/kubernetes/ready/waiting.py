"""From objects that are applied to pods that are ready: watched, told, given up as soon as they certainly will not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Self

from pytest_llmperf.deploy.base import Phase, Progress
from pytest_llmperf.deploy.kubernetes.api.kinds import POD
from pytest_llmperf.deploy.kubernetes.api.watch import Watch, watching
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.container_faults import log_of
from pytest_llmperf.deploy.kubernetes.ready.container_log import log_text
from pytest_llmperf.deploy.kubernetes.ready.diagnose import diagnose, pods_to_come
from pytest_llmperf.deploy.kubernetes.ready.evidence import keep_evidence, masking, secrets_in_objects
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Waiting
from pytest_llmperf.deploy.kubernetes.ready.looking import LOG_S, Looking
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod, pod_of
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf, Seen
from pytest_llmperf.deploy.kubernetes.ready.timeline import Timeline
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings
from pytest_llmperf.errors import DeployError, LlmperfError
from pytest_llmperf.secrets import masked_text

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered

TAIL_LINES = 20
"""Of a log, in an error."""
TICK_S = 5.0
"""How long nothing may happen before it is looked again: at the log of an engine that starts, at how long a state has lasted."""
LOAD_LINES = 2000
"""Of a log, in which the engine has said how long it loaded the weights."""
BESIDE_S = 10.0
"""How long may be waited for what is read beside pods that are ready; what is not there then is left out."""


@dataclass(frozen=True)
class ReadyPods:
    """The engine's pods when all of them were ready."""

    pods: tuple[Pod, ...]
    ready_seen_s: float
    """When that was heard of; monotonic."""
    image: str
    image_digest: str | None
    timeline: Timeline
    beside: _Beside

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The way to their readiness."""
        return self.timeline.phases(self.ready_seen_s, self.beside.read().log)

    @property
    def node_labels(self) -> Mapping[str, str]:
        """Of the first pod's node; empty where nodes may not be read, or that does not tell them."""
        return self.beside.read().labels


class _Beside:
    """A pod's log and its node's labels, read by a thread of its own: nobody waits for them who is to ask the endpoint."""

    def __init__(self, looking: Looking, pod: Pod, container: str) -> None:
        """Begin."""
        self._looking, self._pod, self._of = looking, pod, LogOf(pod.name, container)
        self.log = ""
        self.labels: Mapping[str, str] = {}
        self._thread = Thread(target=self._run, name="llmperf-ready", daemon=True)
        self._thread.start()

    def read(self) -> Self:
        """What there is once all is read, or ``BESIDE_S`` are over."""
        self._thread.join(BESIDE_S)
        return self

    def _run(self) -> None:
        # Pods that are ready are, also where this cannot be read.
        with suppress(LlmperfError):
            self.log = log_text(self._looking.api, self._looking.namespace, self._of, LOAD_LINES, LOG_S)
        with suppress(LlmperfError):
            self.labels = self._looking.node_labels(self._pod.node)


class _FailedError(Exception):
    """It is certain that the pods will not be ready."""

    def __init__(self, found: Diagnosis, seen: Seen) -> None:
        self.found, self.seen = found, seen
        super().__init__(found.cause)


def await_running(
    api: KubeApi, rendered: Rendered, identity: Identity, namespace: str, settings: KubernetesSettings, progress: Progress
) -> ReadyPods:
    """Wait until all pods of the engine's workload are ready.

    Raises ``DeployError`` with the cause as soon as that is certain, or a patience of ``settings`` is over; logs, events and
    objects are then kept below ``settings.log_directory``.
    """
    looking = Looking(api, rendered, identity, namespace)
    timeline = Timeline(monotonic())
    try:
        with watching(api, looking.watched()) as watch:
            pods, ready_at = _until_ready(watch, looking, timeline, settings, progress)
    except _FailedError as failed:
        raise _error(looking, settings.log_directory, failed) from None
    container = pods[0].container(rendered.engine.container)
    assert container is not None
    return ReadyPods(
        pods=pods,
        ready_seen_s=ready_at,
        image=container.image,
        image_digest=container.image_digest,
        timeline=timeline,
        beside=_Beside(looking, pods[0], container.name),
    )


def engine_log(api: KubeApi, rendered: Rendered, identity: Identity, namespace: str, lines: int) -> str:
    """The last lines of the engine's pods without secrets; of one that was restarted, those of the run that ended."""
    pods = engine_pods(api, rendered, identity, namespace)
    hide = _masking(rendered, pods)
    tails = []
    for pod in pods:
        if (one := pod.container(rendered.engine.container)) is not None:
            text = hide(log_text(api, namespace, log_of(pod, one), lines)).rstrip()
            tails.append(f"{pod.name}:\n{text}" if len(pods) > 1 else text)
    return "\n".join(filter(None, tails))


def engine_pods(api: KubeApi, rendered: Rendered, identity: Identity, namespace: str) -> list[Pod]:
    """The cell's pods that have the engine's container."""
    found = [pod_of(one) for one in api.list(POD, namespace, identity.selector(rendered.cell.id))]
    return sorted((pod for pod in found if pod.container(rendered.engine.container) is not None), key=lambda pod: pod.name)


def _until_ready(
    watch: Watch, looking: Looking, timeline: Timeline, settings: KubernetesSettings, progress: Progress
) -> tuple[tuple[Pod, ...], float]:
    """The engine's pods as soon as all are ready, and when that was heard of. Raises ``_FailedError``."""
    patience = _Clocks()
    snapshot, told, pause_s = None, "", TICK_S
    while True:
        news = watch.next(pause_s)
        snapshot = news or snapshot
        if snapshot is None:
            continue
        seen = looking.seen(snapshot)
        pods = looking.engine_pods(seen)
        if news is not None:
            timeline.saw(pods, looking.rendered.engine.container, seen.events, news.at)
        wanted = seen.workload.replicas if seen.workload is not None else None
        if pods and len(pods) >= (wanted or 1) and all(pod.is_ready for pod in pods):
            return pods, snapshot.at
        found, seen = _informed(looking, seen, settings)
        if isinstance(found, Waiting):
            late, pause_s = patience.check(found)
            found = late or found
        if isinstance(found, Diagnosis):
            raise _FailedError(found, seen)
        if found.text != told:
            told = found.text
            progress(masked_text(told))


def _informed(looking: Looking, seen: Seen, settings: KubernetesSettings) -> tuple[Diagnosis | Waiting, Seen]:
    """What is found with the log that it asks for, where there is one."""
    found = diagnose(seen, settings) or pods_to_come(seen, settings)
    if found.log is None:
        return found, seen
    seen = looking.with_log(seen, found.log)
    return diagnose(seen, settings) or found, seen


class _Clocks:
    """Since when each state has lasted without a break."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def check(self, waiting: Waiting) -> tuple[Diagnosis | None, float]:
        """What it is called now that a patience is over, and how long to wait until one may be."""
        now = monotonic()
        self._since = {one.state: self._since.get(one.state, now) for one in waiting.patience}
        left = [(one.seconds - (now - self._since[one.state]), one) for one in waiting.patience]
        over = next((one.then for left_s, one in left if left_s <= 0), None)
        return over, min([TICK_S, *(left_s for left_s, _ in left if left_s > 0)])


def _error(looking: Looking, folder: Path | None, failed: _FailedError) -> DeployError:
    """The error that a user reads. Trouble in gathering what lies beside it never hides it."""
    found, seen = failed.found, failed.seen
    hide = _masking(looking.rendered, seen.pods)
    kept = ""
    if folder is not None:
        try:
            place = keep_evidence(
                looking.api,
                looking.identity,
                looking.rendered.cell,
                looking.namespace,
                folder,
                found.text,
                seen.events,
                kinds=looking.kinds,
            )
            kept = f"(logs, events and objects: {place})"
        except (DeployError, OSError) as error:
            kept = f"(logs, events and objects could not be kept: {error})"
    hint = "\n  ".join(filter(None, [found.hint, kept]))
    tail = "" if found.log is None else "\n".join(hide(_log(looking, seen, found.log)).splitlines()[-TAIL_LINES:])
    return DeployError(hide(found.text), hint=hint, log_tail=tail)


def _log(looking: Looking, seen: Seen, of: LogOf) -> str:
    """What a container wrote last; where that could not be read before, it is tried once more."""
    try:
        text = seen.logs.get(of) or log_text(looking.api, looking.namespace, of, TAIL_LINES, LOG_S)
    except DeployError as error:
        return f"(its log could not be read: {error.what})"
    return text.strip("\n") or "(the container has written nothing)"


def _masking(rendered: Rendered, pods: Sequence[Pod]) -> Callable[[str], str]:
    return masking(pods, secrets_in_objects(rendered.objects))
