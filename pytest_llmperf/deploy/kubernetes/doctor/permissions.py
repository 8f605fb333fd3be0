"""Every verb that is used on a cluster, and what for. ``doctor`` asks about these, and ``manifests/rbac/`` grants just them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_llmperf.deploy.kubernetes.api.kinds import (
    CONFIG_MAP,
    CRON_JOB,
    DAEMONSET,
    DEPLOYMENT,
    EVENT,
    INGRESS,
    JOB,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    PVC,
    REPLICASET,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFULSET,
    STORAGE_CLASS,
    Kind,
)
from pytest_llmperf.deploy.kubernetes.ownership.teardown import FOLLOWING

_READ = ("get", "list", "watch")
_ALL = (*_READ, "create", "patch", "delete")
"""Server-side apply is a patch, and a creation where the object does not exist yet."""


@dataclass(frozen=True)
class Need:
    """Verbs on one kind of objects, or on a subresource of it."""

    kind: Kind
    verbs: tuple[str, ...]
    purpose: str
    """What cannot be done without."""
    subresource: str = ""

    @property
    def resource(self) -> str:
        """As RBAC's rules name it: ``pods/log``."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    def __str__(self) -> str:
        return f"{self.resource}.{self.kind.group}" if self.kind.group else self.resource


IN_NAMESPACE: tuple[Need, ...] = (
    Need(POD, (*_READ, "delete"), "watch and remove the engine's pods"),
    Need(POD, ("get",), "show and keep logs", "log"),
    # A WebSocket is opened with GET; newer servers want it to be allowed to create too.
    Need(POD, ("get", "create"), "reach the engine by a port-forward", "portforward"),
    Need(EVENT, ("list", "watch"), "say why a pod does not start"),
    Need(DEPLOYMENT, _ALL, "deploy the engine"),
    Need(STATEFULSET, _ALL, "deploy an engine whose manifest has one"),
    Need(JOB, _ALL, "download weights beforehand"),
    Need(REPLICASET, _READ, "say why a Deployment gets no pods"),
    Need(SERVICE, _ALL, "reach the engine"),
    *(Need(kind, ("list", "watch"), "see that nothing of a Service is left") for kind in FOLLOWING),
    Need(CONFIG_MAP, _ALL, "apply what manifests have of them"),
    Need(SECRET, _ALL, "hand the Hugging Face token to the engine"),
    Need(PVC, _ALL, "keep the weights"),
    Need(LEASE, _ALL, "tell living sessions from dead ones, and remove all that one made"),
    Need(INGRESS, _READ, "reach the engine by its address"),
    Need(SERVICE_ACCOUNT, ("get",), "see that pods can be made"),
    Need(NAMESPACE, ("get",), "see that the namespace is there"),
)
"""In the namespace in which cells are deployed. Without these nothing works, or not as it should."""
IN_CLUSTER: tuple[Need, ...] = (
    Need(NODE, _READ, "say which label or resource no node has, and which GPU was measured"),
    Need(POD, ("list", "watch"), "say how many GPUs others use"),
    Need(STORAGE_CLASS, ("get", "list"), "say beforehand that a claim will get no volume"),
    Need(NAMESPACE, ("list",), "name the namespace that a typo meant"),
)
"""Of the whole cluster: without these cells are deployed and measured, and less is said of what goes wrong."""
FOR_OWN_NAMESPACES: tuple[Need, ...] = (
    Need(NAMESPACE, ("get", "list", "watch", "create", "delete"), "make a namespace for a session, and remove it"),
    Need(SERVICE_ACCOUNT, ("get", "watch", "list"), "wait until pods can be made in it"),
    *(Need(kind, ("list",), "see that nobody else uses it before it is removed") for kind in (DAEMONSET, CRON_JOB)),
)
"""Of the whole cluster too, with all of ``IN_NAMESPACE`` in every namespace: where none is given and each session makes one."""


def rules(needs: Iterable[Need]) -> frozenset[tuple[str, str, str]]:
    """(group, resource, verb), as RBAC's rules have them."""
    return frozenset((need.kind.group, need.resource, verb) for need in needs for verb in need.verbs)


APPLYING = ("create", "patch", "delete", "list")
"""What applying objects of a kind takes, and removing them."""


def beyond(kind: Kind, needs: Iterable[Need]) -> tuple[str, ...]:
    """The verbs of ``APPLYING`` on a kind that no need has: the kind is only read, or only a user's own manifests have it."""
    known = {verb for need in needs if need.kind == kind and not need.subresource for verb in need.verbs}
    return tuple(verb for verb in APPLYING if verb not in known)


def needs_of(namespace: str | None) -> Sequence[Need]:
    """What has to be allowed: in a namespace that is given, or everywhere where each session makes its own."""
    return IN_NAMESPACE if namespace is not None else (*FOR_OWN_NAMESPACES, *IN_NAMESPACE)
