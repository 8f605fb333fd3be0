"""Looking at a cell's deployment: what is watched, and what is asked for besides when that does not tell enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic, time
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.api.kinds import EVENT, NODE, POD, PVC, REPLICASET, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.deploy.kubernetes.api.watch import Snapshot, Watched
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.capacity import candidates
from pytest_llmperf.deploy.kubernetes.ready.container_log import log_text
from pytest_llmperf.deploy.kubernetes.ready.pod_faults import is_said_silent
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod, pod_of
from pytest_llmperf.deploy.kubernetes.ready.seen import (
    Event,
    LogOf,
    Node,
    Nodes,
    Seen,
    claim_of,
    controller_of,
    event_of,
    node_of,
)
from pytest_llmperf.errors import DeployError

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered

READ_S = 5.0
"""How old a log may be before it is read again."""
LOG_S = 2.0
"""How long a log may be waited for: what is waited for is not the log, and a node that is away has none to give."""
NODES_S = 10.0
"""The same, of what is known of the cluster's nodes."""
LOG_LINES = 1000
"""An engine of eight processes ends with as many tracebacks, and the first says why."""
_MAKERS = ("Deployment", "ReplicaSet", "StatefulSet", "Job", "Pod")
"""Kinds that make their pods themselves, or by a ReplicaSet."""


@dataclass(frozen=True)
class _Read:
    """A log when it was read, and the state of the container then."""

    at: float
    state: tuple[int, bool]
    text: str


@dataclass
class Looking:
    """One deployment that is being looked at."""

    api: KubeApi
    rendered: Rendered
    identity: Identity
    namespace: str
    _logs: dict[LogOf, _Read] = field(default_factory=dict)
    _nodes: Nodes | None = None
    _nodes_at: float = float("-inf")
    _may: dict[tuple[str, str], bool] = field(default_factory=dict)
    _uids: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of objects by kind and name, also of those that are gone: what was said of them says why."""

    def __post_init__(self) -> None:
        engine = self.rendered.engine
        kinds = {(one["kind"], one["metadata"]["name"]): self.api.kind_of(one) for one in self.rendered.objects}
        self.workload_kind = kinds[engine.kind, engine.name]
        self.kinds = tuple(dict.fromkeys(kinds.values()))
        """Of all objects that were applied."""
        self._clock_offset_s = self.api.now() - time()

    def watched(self) -> tuple[Watched, ...]:
        """What tells of the deployment: its pods, all that makes them, claims and events."""
        selector = self.identity.selector(self.rendered.cell.id)
        engine = Watched(self.workload_kind, self.namespace, fields=f"metadata.name={self.rendered.engine.name}")
        return (
            Watched(POD, self.namespace, selector),
            Watched(REPLICASET, self.namespace, selector),
            # A claim may be one that was there before; events have no labels.
            Watched(PVC, self.namespace),
            Watched(EVENT, self.namespace),
            *(() if self.workload_kind in (POD, REPLICASET) else (engine,)),
        )

    def seen(self, snapshot: Snapshot) -> Seen:
        """What the watch tells."""
        pods = tuple(pod_of(one) for one in snapshot.of(POD).values())
        controllers = tuple(controller_of(one) for one in snapshot.of(REPLICASET).values())
        workload = snapshot.of(self.workload_kind).get(self.rendered.engine.name)
        claims = tuple(claim_of(one) for one in snapshot.of(PVC).values())
        for kind in {POD, REPLICASET, PVC, self.workload_kind}:
            self._uids |= {(kind.kind, name): one["metadata"]["uid"] for name, one in snapshot.of(kind).items()}
        events = [event for one in snapshot.of(EVENT).values() if self._is_ours(event := event_of(one))]
        seen = Seen(
            now_s=time() + self._clock_offset_s,
            workload=controller_of(workload) if workload is not None else None,
            controllers=controllers,
            pods=pods,
            # Not by their times: those are of several machines' clocks.
            events=tuple(sorted(events, key=lambda event: (event.version, event.last_s))),
            claims=claims,
            logs={of: read.text for of, read in self._logs.items()},
        )
        return replace(seen, nodes=self._nodes_for(seen))

    def engine_pods(self, seen: Seen) -> tuple[Pod, ...]:
        """The pods of the engine's workload that are to stay."""
        engine = self.rendered.engine
        makers = {(engine.kind, engine.name)}
        makers |= {(one.kind, one.name) for one in seen.controllers if one.owner in makers}
        found = [pod for pod in seen.pods if not pod.is_deleted and pod.phase not in ("Failed", "Succeeded")]
        made = tuple(pod for pod in found if pod.owner in makers or (engine.kind, pod.name) == ("Pod", engine.name))
        if engine.kind in _MAKERS or made:
            return made
        # Of a kind that has others between it and its pods, those are all that have the engine's container.
        return tuple(pod for pod in found if pod.container(engine.container) is not None)

    def with_log(self, seen: Seen, of: LogOf) -> Seen:
        """The same with a container's log, read again where it may have gone on."""
        one = next((one for pod in seen.pods if pod.name == of.pod for one in pod.containers if one.name == of.container), None)
        if one is None:
            return seen
        state, now = (one.exits, one.is_running), monotonic()
        known = self._logs.get(of)
        if known is None or known.state != state or now - known.at > READ_S:
            text = known.text if known is not None else ""
            try:
                text = log_text(self.api, self.namespace, of, LOG_LINES, LOG_S)
            except LoginError:
                raise  # a watch that goes on hears of that only when it ends
            except DeployError:
                pass  # what was read before counts
            known = self._logs[of] = _Read(monotonic(), state, text)
        return replace(seen, logs={**seen.logs, of: known.text})

    def node_labels(self, name: str) -> Mapping[str, str]:
        """The labels of a node; none where nodes may not be read."""
        node = self.api.get(NODE, name) if self._allowed("get", NODE) else None
        return {} if node is None else node_of(node).labels

    def _is_ours(self, event: Event) -> bool:
        """Whether it is of an object of the deployment, and not of one that had its name before."""
        uid = self._uids.get((event.kind, event.name))
        return uid is not None and event.uid in ("", uid)

    def _nodes_for(self, seen: Seen) -> Nodes | None:
        """The nodes, where a pod finds none or one is said to be silent, and they may be read."""
        homeless = [pod for pod in seen.pods if not pod.node and not pod.gates and pod.condition("PodScheduled") is not None]
        if not (homeless or any(is_said_silent(pod, seen) for pod in seen.pods)) or not self._allowed("list", NODE):
            return None
        if monotonic() - self._nodes_at > NODES_S:
            nodes = tuple(node_of(one) for one in self.api.list(NODE))
            self._nodes = Nodes(nodes, self._users(homeless, nodes))
            self._nodes_at = monotonic()
        return self._nodes

    def _users(self, homeless: Iterable[Pod], nodes: tuple[Node, ...]) -> tuple[Pod, ...] | None:
        """The pods on the nodes that these could have; None where other namespaces' may not be read."""
        if not self._allowed("list", POD):
            return None
        names = sorted({node.name for pod in homeless for node in candidates(pod, nodes)})
        return tuple(pod_of(one) for name in names for one in self.api.list(POD, fields=f"spec.nodeName={name}"))

    def _allowed(self, verb: str, kind: Kind) -> bool:
        """Whether this user may do that in the whole cluster."""
        asked = (verb, kind.plural)
        if asked not in self._may:
            self._may[asked] = self.api.may(verb, kind).allowed
        return self._may[asked]
