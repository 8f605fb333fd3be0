"""What is seen of a cell's deployment at one moment: its pods, and what the cluster says of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.deploy.kubernetes.ready.pods import Condition, Labels, Pod, conditions_of, epoch_s, owner_of, quantity

KIND_OF_GPU = ("gpu", "mig-", "gaudi", "tpu", "neuron")
_COUNTED = ("Deployment", "ReplicaSet", "StatefulSet")
"""Kinds that have one replica where they do not say how many."""
_FIELD = re.compile(r"\{(.+)\}")


@dataclass(frozen=True)
class Event:
    """What a component of the cluster has said of an object."""

    kind: str
    """Of the object."""
    name: str
    reason: str
    message: str
    is_warning: bool = True
    count: int = 1
    first_s: float = 0.0
    """In seconds since the epoch, by the clock of who said it."""
    last_s: float = 0.0
    container: str = ""
    version: int = 0
    """A later one has a higher one, whichever component's clock says what."""
    uid: str = ""
    """Of the object; empty where who said it does not know."""

    def __str__(self) -> str:
        times = f" (x{self.count})" if self.count > 1 else ""
        return f"{self.reason} {self.kind.lower()}/{self.name}: {self.message}{times}"


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim."""

    name: str
    phase: str = "Pending"
    storage_class: str | None = None


@dataclass(frozen=True)
class Controller:
    """What makes pods: a Deployment, a ReplicaSet, a StatefulSet, a Job, or another kind."""

    kind: str
    name: str
    owner: tuple[str, str] = ("", "")
    replicas: int | None = None
    """How many pods it is to have; None of a kind that does not say."""
    is_suspended: bool = False
    is_paused: bool = False
    namespace: str = ""
    labels: Labels = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type."""
        return next((one for one in self.conditions if one.type == kind), None)


@dataclass(frozen=True)
class Taint:
    """What keeps pods from a node, or drives them away."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True)
class Node:
    """A node: what it is called, and what it has for pods."""

    name: str
    labels: Labels = field(default_factory=dict)
    allocatable: Mapping[str, float] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    is_cordoned: bool = False
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type."""
        return next((one for one in self.conditions if one.type == kind), None)

    @property
    def has_accelerators(self) -> bool:
        """Whether it has any, free or not."""
        return any(amount > 0 and is_accelerator(name) for name, amount in self.allocatable.items())


@dataclass(frozen=True)
class Nodes:
    """The cluster's nodes; ``pods`` are those that run on the nodes which could take the pod in question."""

    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...] | None = None
    """None where other namespaces' pods may not be read."""


@dataclass(frozen=True)
class LogOf:
    """A container's log; ``previous`` is that of the run before."""

    pod: str
    container: str
    previous: bool = False


@dataclass(frozen=True)
class Seen:
    """One moment of a cell's deployment."""

    now_s: float
    """In seconds since the epoch, by the cluster's clock."""
    workload: Controller | None = None
    """The engine's; None until the API has it."""
    controllers: tuple[Controller, ...] = ()
    """ReplicaSets of the cell."""
    pods: tuple[Pod, ...] = ()
    events: tuple[Event, ...] = ()
    """Of these objects, the oldest first."""
    claims: tuple[Claim, ...] = ()
    nodes: Nodes | None = None
    """None where they are not looked at, or may not be."""
    logs: Mapping[LogOf, str] = field(default_factory=dict)

    def events_of(self, kind: str, name: str, *reasons: str) -> tuple[Event, ...]:
        """What was said of one object; with ``reasons`` only that."""
        return tuple(
            one for one in self.events if (one.kind, one.name) == (kind, name) and (not reasons or one.reason in reasons)
        )


def is_accelerator(resource: str) -> bool:
    """Whether a resource is a GPU, a slice of one, or its like: ``nvidia.com/gpu``."""
    return "/" in resource and any(word in resource for word in KIND_OF_GPU)


def event_of(found: Mapping[str, Any]) -> Event:
    """An event as the API gives it: in the old form (``lastTimestamp``) or the new one (``eventTime``, ``series``)."""
    about, series = found.get("involvedObject") or {}, found.get("series") or {}
    made = epoch_s(found.get("eventTime") or found["metadata"].get("creationTimestamp")) or 0.0
    part = _FIELD.search(about.get("fieldPath") or "")
    return Event(
        kind=about.get("kind") or "",
        name=about.get("name") or "",
        reason=found.get("reason") or "",
        message=(found.get("message") or "").strip(),
        is_warning=found.get("type") == "Warning",
        count=series.get("count") or found.get("count") or 1,
        first_s=epoch_s(found.get("firstTimestamp")) or made,
        last_s=epoch_s(series.get("lastObservedTime") or found.get("lastTimestamp")) or made,
        container="" if part is None else part[1],
        version=int(found["metadata"].get("resourceVersion") or 0),
        uid=about.get("uid") or "",
    )


def claim_of(found: Mapping[str, Any]) -> Claim:
    """A claim as the API gives it."""
    return Claim(
        found["metadata"]["name"],
        (found.get("status") or {}).get("phase") or "Pending",
        (found.get("spec") or {}).get("storageClassName"),
    )


def controller_of(found: Mapping[str, Any]) -> Controller:
    """What makes pods, as the API gives it."""
    kind, meta, spec = found["kind"], found["metadata"], found.get("spec") or {}
    replicas = spec.get("parallelism", 1) if kind == "Job" else spec.get("replicas", 1 if kind in _COUNTED else None)
    return Controller(
        kind=kind,
        name=meta["name"],
        owner=owner_of(meta),
        replicas=replicas,
        is_suspended=bool(spec.get("suspend")),
        is_paused=bool(spec.get("paused")),
        namespace=meta.get("namespace", ""),
        labels=dict(meta.get("labels") or {}),
        conditions=conditions_of(found.get("status") or {}),
    )


def node_of(found: Mapping[str, Any]) -> Node:
    """A node as the API gives it."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    return Node(
        name=found["metadata"]["name"],
        labels=dict(found["metadata"].get("labels") or {}),
        allocatable={name: quantity(text) for name, text in (status.get("allocatable") or {}).items()},
        taints=tuple(Taint(one["key"], one.get("value") or "", one["effect"]) for one in spec.get("taints") or ()),
        is_cordoned=bool(spec.get("unschedulable")),
        conditions=conditions_of(status),
    )
