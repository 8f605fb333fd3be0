"""Takes away what was applied: what holds an accelerator first, nothing that lacks our labels, and sees that it is gone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.api.kinds import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    INGRESS,
    JOB,
    LEASE,
    POD,
    PVC,
    REPLICASET,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFULSET,
    Kind,
    Manifest,
)
from pytest_llmperf.deploy.kubernetes.api.refusals import (
    ForbiddenError,
    LoginError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from pytest_llmperf.deploy.kubernetes.names import CELL, MANAGED_BY, MANAGER, OWNER, Identity, label_of
from pytest_llmperf.deploy.kubernetes.ready.pods import epoch_s
from pytest_llmperf.errors import ConfigError, DeployError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

FORCE_AFTER_S = 10.0
"""So long after a pod's own grace period it is taken from the API, whatever its node says (or does not say any more)."""
FORCED_S = 20.0
"""How long what was forced may take to be gone."""
REMOVAL_S = 120.0
OURS = f"{MANAGED_BY}={MANAGER}"
"""The label selector of everything that any session has put on a cluster."""
APPLIED = (
    DEPLOYMENT,
    STATEFULSET,
    DAEMONSET,
    JOB,
    REPLICASET,
    POD,
    SERVICE,
    INGRESS,
    CONFIG_MAP,
    SECRET,
    PVC,
    SERVICE_ACCOUNT,
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects"),
    Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets"),
    Kind("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices"),
    Kind("serving.kserve.io/v1alpha1", "ServingRuntime", "servingruntimes"),
    Kind("serving.kserve.io/v1alpha1", "LLMInferenceService", "llminferenceservices"),
    Kind("gateway.networking.k8s.io/v1", "Gateway", "gateways"),
    Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
    Kind("inference.networking.k8s.io/v1", "InferencePool", "inferencepools"),
    Kind("route.openshift.io/v1", "Route", "routes"),
)
"""Where a session's objects are looked for when nobody remembers what it applied. Other kinds go with the Lease, their owner."""
FOLLOWING = (Kind("v1", "Endpoints", "endpoints"), Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"))
"""What the cluster gives a Service's labels, and takes away after it. That is waited for."""
_OWN_GROUPS = ("", "apps", "batch", "autoscaling", "policy")
_POLL_S = 0.5


def remove_cell(
    api: KubeApi, identity: Identity, cell_id: str, namespace: str, kinds: Iterable[Kind], timeout_s: float = REMOVAL_S
) -> None:
    """Remove all there is of a cell: the ``kinds`` that were applied, and what workloads made of them.

    Safe to call twice, and when only half was applied. Raises ``DeployError`` that names what is left.
    """
    applied = frozenset(kinds)
    labels = f"{OURS},{OWNER}={identity.owner},{CELL}={label_of(cell_id)}"
    again = gc_command(namespace, identity.session, api.kubeconfig, api.named_context)
    removal = Removal(api, namespace, labels, (*applied, REPLICASET, POD, PVC, *FOLLOWING))
    with telling_how(cell_id, again):
        left = removal.run(timeout_s)
    if left or applied & removal.unseen.keys():
        raise removal.error(cell_id, left, again)


def remove_owned(api: KubeApi, namespace: str, labels: str, what: str, again: str, timeout_s: float = REMOVAL_S) -> None:
    """Remove everything in a namespace that bears our label and ``labels``. Raises ``DeployError`` that names what is left.

    ``again`` is the command that tries once more. Kinds that the caller may not list are passed over: the Lease takes them along.
    """
    removal = Removal(api, namespace, f"{OURS},{labels}", (*APPLIED, *FOLLOWING))
    left = removal.run(timeout_s)
    if left:
        raise removal.error(what, left, again)


def remove_process(
    api: KubeApi,
    namespace: str,
    owner: str,
    again: str,
    *,
    timeout_s: float = REMOVAL_S,
    before_lease: Callable[[], object] = lambda: None,
    uid: str | None = None,
) -> None:
    """Remove everything that a process has put in a namespace, then its Lease, which is named ``owner``.

    A Lease whose objects do not all go stays, so that they are found again; so does one that was made anew meanwhile (``uid``),
    and where ``before_lease`` raises an error. Raises ``DeployError`` that names what is left.
    """
    with telling_how(owner, again):
        remove_owned(api, namespace, f"{OWNER}={owner}", owner, again, timeout_s)
        before_lease()
        api.delete(LEASE, owner, namespace, uid=uid)


def gc_command(namespace: str, session: str, kubeconfig: Path | None, context: str | None) -> str:
    """The command that removes what a session has left, on the cluster where it is."""
    named = {"--kubeconfig": kubeconfig, "--context": context, "--namespace": namespace, "--session": session}
    options = (f" {option}={shlex.quote(str(value))}" for option, value in named.items() if value is not None)
    return f"pytest-llmperf gc{''.join(options)}"


class UnansweredError(DeployError):
    """Nobody can say whether something is gone: the cluster cannot be asked any more."""


@contextmanager
def telling_how(what: str, again: str) -> Iterator[None]:
    """Says in the error of a cluster that cannot be asked any more that something may be left there, and how it is removed.

    Raises ``UnansweredError`` in its place.
    """
    try:
        yield
    except (UnreachableError, LoginError, ConfigError) as error:  # a kubeconfig that has changed leads there no longer
        told = f"{what}: nobody can say whether all of it is gone: {error.what}"
        hint = " ".join(filter(None, (error.hint, f"Then `{again}` removes what is left.")))
        state = error.state if isinstance(error, DeployError) else None
        raise UnansweredError(told, where=error.where, hint=hint, state=state) from None


def begin_removal(api: KubeApi, namespace: str, owner: str) -> None:
    """Tell everything that a process has put in a namespace to go; ``remove_process`` waits for it."""
    Removal(api, namespace, f"{OURS},{OWNER}={owner}", APPLIED).begin()


@dataclass(frozen=True)
class ObjectSeen:
    """An object that is to go."""

    kind: Kind
    name: str
    uid: str
    ends_s: float | None
    """When its grace period is over, by the API server's clock; None where nobody has deleted it yet."""
    finalizers: tuple[str, ...]
    is_made: bool = False
    """By another object, which it follows: a ReplicaSet by its Deployment."""

    def __str__(self) -> str:
        if self.ends_s is None:
            return f"{self.kind.kind} {self.name}"
        held = f"kept by the finalizer {', '.join(self.finalizers)}" if self.finalizers else "still ending"
        return f"{self.kind.kind} {self.name} ({held})"


def object_seen(kind: Kind, manifest: Manifest) -> ObjectSeen:
    """An object as a record."""
    metadata = manifest["metadata"]
    ends_s = epoch_s(metadata.get("deletionTimestamp"))
    is_made = any(owner.get("controller") for owner in metadata.get("ownerReferences") or ())
    return ObjectSeen(kind, metadata["name"], metadata["uid"], ends_s, tuple(metadata.get("finalizers") or ()), is_made)


def in_order(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Each kind once, in the order of removal: what makes pods, then pods, then what holds no accelerator."""
    return tuple(sorted(dict.fromkeys(kinds), key=_rank))


def _rank(kind: Kind) -> int:
    if kind in {REPLICASET, POD}:
        return 2 if kind == REPLICASET else 3
    if kind.group in {"apps", "batch"}:
        return 1
    return 4 if _is_own(kind) else 0


def _is_own(kind: Kind) -> bool:
    """Whether it is one of Kubernetes' own kinds."""
    return kind.group in _OWN_GROUPS or kind.group.endswith(".k8s.io")


class Removal:
    """The end of all objects with some labels in a namespace."""

    def __init__(self, api: KubeApi, namespace: str, labels: str, kinds: Iterable[Kind]) -> None:
        self._api = api
        self._namespace = namespace
        self._labels = labels
        self._kinds = in_order(kinds)
        self._forced: set[str] = set()
        self._refused: dict[str, RefusedError] = {}
        """Why an object could not be deleted, by its uid."""
        self.unseen: dict[Kind, RefusedError] = {}
        """Why nobody can say whether there is one of a kind."""

    def run(self, timeout_s: float) -> Sequence[ObjectSeen]:
        """Delete them and wait; what is left after ``timeout_s``, or after the pods' own grace if that is longer."""
        left = self.begin()
        deadline = monotonic() + max(timeout_s, self._pods_s(left))
        while (awaited := self._awaited(left)) and monotonic() < deadline:
            force_s = self._force(awaited, self._api.now())
            self._await(awaited, min(deadline - monotonic(), force_s))
            left = self.begin()
        return left

    def error(self, what: str, left: Sequence[ObjectSeen], again: str) -> DeployError:
        """What is left, why, and how to remove it."""
        reasons = [*(self._refused[one.uid] for one in left if one.uid in self._refused), *self.unseen.values()]
        if not left:
            return DeployError(f"{what}: nobody can say whether all of it is gone: {reasons[0].what}", hint=reasons[0].hint)
        named = ", ".join(map(str, left[:5])) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        why = f": {reasons[0].what}" if reasons else ""
        hints = [reasons[0].hint] if reasons and reasons[0].hint else []
        return DeployError(
            f"{what}: not all of it could be removed from the namespace {self._namespace!r}{why}",
            state=f"left: {named}",
            hint=" ".join([*hints, _hint(left, self._namespace, self._labels, again)]),
        )

    def begin(self) -> list[ObjectSeen]:
        """Delete what nobody has deleted yet; what is there after that."""
        there = []
        for kind in self._kinds:
            if found := self._listed(kind):
                there.append(kind)
                for one in found:
                    if self._is_to_be_deleted(one):
                        self._delete(one)
        return [one for kind in there for one in self._listed(kind)]

    def _awaited(self, objects: Iterable[ObjectSeen]) -> list[ObjectSeen]:
        """Those that will go: what was made by another object follows it, even if it could not be deleted by itself."""
        return [one for one in objects if one.uid not in self._refused or one.is_made]

    def _is_to_be_deleted(self, one: ObjectSeen) -> bool:
        return one.ends_s is None and one.uid not in self._refused and one.kind not in FOLLOWING

    def _listed(self, kind: Kind) -> list[ObjectSeen]:
        try:
            found = [object_seen(kind, one) for one in self._api.list(kind, self._namespace, labels=self._labels)]
        except NotFoundError:
            return []  # the cluster does not know the kind
        except RefusedError as error:
            self.unseen[kind] = error
            return []
        self.unseen.pop(kind, None)
        return found

    def _delete(self, one: ObjectSeen, grace_s: int | None = None) -> None:
        # What Kubernetes' own kinds make bears our labels and is looked for; other kinds have to wait for what they made.
        propagation = "Background" if _is_own(one.kind) else "Foreground"
        try:
            self._api.delete(one.kind, one.name, self._namespace, uid=one.uid, propagation=propagation, grace_s=grace_s)
        except RefusedError as error:
            self._refused[one.uid] = error  # the others are to go all the same

    def _pods_s(self, left: Iterable[ObjectSeen]) -> float:
        """How long the pods may take: until the last one's grace period is over, and it has been forced."""
        ends = [pod.ends_s for pod in left if pod.kind == POD and pod.ends_s is not None]
        return max(ends) - self._api.now() + FORCE_AFTER_S + FORCED_S if ends else 0.0

    def _force(self, left: Iterable[ObjectSeen], now_s: float) -> float:
        """Take those pods from the API that should have ended long ago; the seconds until that is due for the next one."""
        next_s = float("inf")
        for pod in left:
            if pod.kind != POD or pod.ends_s is None or pod.uid in self._forced:
                continue
            due_s = pod.ends_s + FORCE_AFTER_S - now_s
            if due_s <= 0:
                self._forced.add(pod.uid)
                self._delete(pod, grace_s=0)
            else:
                next_s = min(next_s, due_s)
        return next_s

    def _await(self, left: Iterable[ObjectSeen], seconds: float) -> None:
        """Until all of it is gone, or something has come that nobody has deleted yet."""
        from pytest_llmperf.deploy.kubernetes.api.watch import Watched, watching

        until = monotonic() + seconds
        kinds = tuple(dict.fromkeys((*(one.kind for one in left), POD)))
        try:
            with watching(self._api, [Watched(kind, self._namespace, labels=self._labels) for kind in kinds]) as watch:
                while (wait_s := until - monotonic()) > 0 and (snapshot := watch.next(wait_s)) is not None:
                    there = [object_seen(kind, one) for kind in kinds for one in snapshot.of(kind).values()]
                    if not self._awaited(there) or any(map(self._is_to_be_deleted, there)):
                        return
        except ForbiddenError:
            sleep(min(_POLL_S, max(0.0, until - monotonic())))  # one who may list need not be one who may watch


def _hint(left: Sequence[ObjectSeen], namespace: str, labels: str, again: str) -> str:
    held = next((one for one in left if one.ends_s is not None and one.finalizers), None)
    if held is None:
        kinds = ",".join(dict.fromkeys(one.kind.plural for one in left))
        return f"`{again}` tries again; by hand: kubectl delete {kinds} --namespace={namespace} --selector={labels}"
    patch = '{"metadata":{"finalizers":null}}'
    return (
        "Whoever set the finalizer has to let go. By force: "
        f"kubectl patch {held.kind.plural} {held.name} --namespace={namespace} --type=merge --patch='{patch}'. Then `{again}`."
    )
