"""Pods as the API tells them: only what is used here, parsed where it arrives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Labels = Mapping[str, str]
PODS = "pods"
"""The resource of a node that says how many pods it takes."""

_NUMBER = re.compile(r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)([a-zA-Z]*)")
_SUFFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY_SUFFIXES = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60}

_DOWNLOAD_WORDS = ("download", "weights", "model")


@dataclass(frozen=True)
class Condition:
    """One of an object's conditions."""

    type: str
    is_true: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Ended:
    """How a run of a container ended."""

    exit_code: int
    reason: str = ""
    message: str = ""
    signal: int = 0


@dataclass(frozen=True)
class Probe:
    """A startup probe: how often it is asked, and how many failures in a row end the container."""

    period_s: float = 10.0
    failures: int = 3
    delay_s: float = 0.0


@dataclass(frozen=True)
class Container:
    """A container, or an init container; a sidecar among the init containers counts as a container."""

    name: str
    image: str
    is_init: bool = False
    memory_limit: str = ""
    startup: Probe | None = None
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Its environment as it is written, (name, value)."""
    command: tuple[str, ...] = field(default=(), repr=False)
    """With its arguments."""
    has_status: bool = False
    image_id: str = ""
    is_ready: bool = False
    is_started: bool = False
    """Whether its startup probe has succeeded, or it has none."""
    restarts: int = 0
    waiting: str = ""
    """Why it does not run: ``ImagePullBackOff``."""
    waiting_message: str = ""
    running_since_s: float | None = None
    """In seconds since the epoch, by the node's clock; None while it does not run."""
    ended: Ended | None = None
    """How it ended, where it does not run any more or not yet again."""
    last: Ended | None = None
    """How the run before ended."""

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self.running_since_s is not None

    @property
    def brings_weights(self) -> bool:
        """Whether it is an init container that, by its name, downloads the model."""
        return self.is_init and any(word in self.name for word in _DOWNLOAD_WORDS)

    @property
    def exits(self) -> int:
        """How many of its runs have ended."""
        has_ended = not self.is_running and (self.ended is not None or self.last is not None)
        return self.restarts + has_ended

    @property
    def image_digest(self) -> str | None:
        """``sha256:…`` of the image that it runs."""
        digest = self.image_id.rpartition("@")[2]
        return digest if digest.startswith("sha256:") else None


@dataclass(frozen=True)
class Requirement:
    """What a node's label must be: ``operator`` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str = "In"
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.operator:
            case "In" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case "Gt" | "Lt":
                return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{''.join(self.values)}"
            case _:
                return f"{self.key} {'in' if self.operator == 'In' else 'not in'} ({', '.join(self.values)})"


@dataclass(frozen=True)
class Tolerated:
    """A taint that a pod tolerates; an empty key is any, an empty effect every one."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True)
class Pod:
    """A pod: what it asks for, and how it is."""

    name: str
    namespace: str
    uid: str = ""
    owner: tuple[str, str] = ("", "")
    """Kind and name of the controller that made it; empty for one that was applied."""
    labels: Labels = field(default_factory=dict)
    node: str = ""
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    is_deleted: bool = False
    """Whether it is about to go."""
    restart_policy: str = "Always"
    scheduler: str = "default-scheduler"
    gates: tuple[str, ...] = ()
    """What keeps the scheduler from looking at it."""
    conditions: tuple[Condition, ...] = ()
    containers: tuple[Container, ...] = ()
    """Init containers first, in their order."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """What a node must have free for it, in base units by resource."""
    node_selector: tuple[Requirement, ...] = ()
    node_terms: tuple[tuple[Requirement, ...], ...] = ()
    """Required node affinity: one of these must hold, where there are some."""
    tolerations: tuple[Tolerated, ...] = ()
    claims: tuple[str, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type."""
        return next((one for one in self.conditions if one.type == kind), None)

    @property
    def place(self) -> str:
        """``pod vllm-0 on node1``."""
        return f"pod {self.name} on {self.node}" if self.node else f"pod {self.name}"

    @property
    def is_ready(self) -> bool:
        """Whether it is to get requests."""
        ready = self.condition("Ready")
        return ready is not None and ready.is_true and not self.is_deleted

    @property
    def is_done(self) -> bool:
        """Whether it has done its work, as a Job's."""
        return self.phase == "Succeeded"

    def container(self, name: str) -> Container | None:
        """The container of this name."""
        return next((one for one in self.containers if one.name == name), None)


def pod_of(found: Mapping[str, Any]) -> Pod:
    """A pod as the API gives it."""
    meta, spec, status = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return Pod(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        owner=owner_of(meta),
        labels=dict(meta.get("labels") or {}),
        node=spec.get("nodeName") or "",
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        is_deleted=bool(meta.get("deletionTimestamp")),
        restart_policy=spec.get("restartPolicy") or "Always",
        scheduler=spec.get("schedulerName") or "default-scheduler",
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
        conditions=conditions_of(status),
        containers=tuple(_containers(spec, status)),
        requests=_requests(spec),
        node_selector=tuple(Requirement(key, values=(value,)) for key, value in (spec.get("nodeSelector") or {}).items()),
        node_terms=tuple(_term(term) for term in required.get("nodeSelectorTerms") or ()),
        tolerations=tuple(_tolerated(one) for one in spec.get("tolerations") or ()),
        claims=tuple(_claims(meta["name"], spec)),
    )


def owner_of(meta: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and name of the controller of an object; empty where it has none."""
    return next(
        ((one["kind"], one["name"]) for one in meta.get("ownerReferences") or () if one.get("controller")),
        ("", ""),
    )


def conditions_of(status: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The conditions of an object's status."""
    return tuple(
        Condition(one["type"], one.get("status") == "True", one.get("reason") or "", one.get("message") or "")
        for one in status.get("conditions") or ()
    )


def epoch_s(text: str | None) -> float | None:
    """``2026-01-31T12:00:00Z`` in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp() if text else None


def quantity(text: object) -> float:
    """``500m`` -> 0.5, ``24Gi`` -> 25769803776.0: a quantity as Kubernetes writes it."""
    match = _NUMBER.fullmatch(str(text).strip())
    if match is None:
        return 0.0
    return float(match[1]) * {**_SUFFIXES, **_BINARY_SUFFIXES}.get(match[2], 1.0)


def _containers(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Container]:
    for kind, is_init in (("initContainer", True), ("container", False)):
        known = {one["name"]: one for one in status.get(f"{kind}Statuses") or ()}
        for one in spec.get(f"{kind}s") or ():
            yield _container(one, known.get(one["name"]), is_init=is_init and one.get("restartPolicy") != "Always")


def _container(spec: Mapping[str, Any], status: Mapping[str, Any] | None, *, is_init: bool) -> Container:
    seen = status or {}
    state, last = seen.get("state") or {}, seen.get("lastState") or {}
    waiting, running = state.get("waiting") or {}, state.get("running")
    return Container(
        name=spec["name"],
        image=spec.get("image", ""),
        is_init=is_init,
        memory_limit=str(((spec.get("resources") or {}).get("limits") or {}).get("memory", "")),
        startup=_probe(spec.get("startupProbe")),
        environment=tuple((one["name"], str(one["value"])) for one in spec.get("env") or () if one.get("value") is not None),
        command=tuple(map(str, (*(spec.get("command") or ()), *(spec.get("args") or ())))),
        has_status=status is not None,
        image_id=seen.get("imageID") or "",
        is_ready=bool(seen.get("ready")),
        is_started=bool(seen.get("started")),
        restarts=seen.get("restartCount") or 0,
        waiting=waiting.get("reason") or "",
        waiting_message=waiting.get("message") or "",
        running_since_s=None if running is None else epoch_s(running.get("startedAt")) or 0.0,
        ended=_ended(state.get("terminated")),
        last=_ended(last.get("terminated")),
    )


def _ended(found: Mapping[str, Any] | None) -> Ended | None:
    if found is None:
        return None
    return Ended(found.get("exitCode") or 0, found.get("reason") or "", found.get("message") or "", found.get("signal") or 0)


def _probe(found: Mapping[str, Any] | None) -> Probe | None:
    if found is None:
        return None
    return Probe(
        period_s=float(found.get("periodSeconds") or 10),
        failures=int(found.get("failureThreshold") or 3),
        delay_s=float(found.get("initialDelaySeconds") or 0),
    )


def _requests(spec: Mapping[str, Any]) -> Mapping[str, float]:
    """What the scheduler counts: one pod, and all containers together, or the greediest of the init containers before them."""
    together: dict[str, float] = dict(_quantities(spec.get("overhead") or {}))
    before: dict[str, float] = {}
    for one in spec.get("initContainers") or ():
        goal = together if one.get("restartPolicy") == "Always" else before
        for name, amount in _asked(one):
            goal[name] = goal.get(name, 0.0) + amount if goal is together else max(goal.get(name, 0.0), amount)
    for one in spec.get("containers") or ():
        for name, amount in _asked(one):
            together[name] = together.get(name, 0.0) + amount
    names = {**together, **before}
    return {**{name: max(together.get(name, 0.0), before.get(name, 0.0)) for name in names}, PODS: 1.0}


def _asked(container: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """A container's requests; what has a limit alone is requested too."""
    resources = container.get("resources") or {}
    return _quantities({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _quantities(found: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    return ((name, quantity(text)) for name, text in found.items())


def _term(found: Mapping[str, Any]) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(one["key"], one["operator"], tuple(one.get("values") or ())) for one in found.get("matchExpressions") or ()
    )


def _tolerated(found: Mapping[str, Any]) -> Tolerated:
    return Tolerated(
        found.get("key") or "", found.get("operator") or "Equal", found.get("value") or "", found.get("effect") or ""
    )


def _claims(pod: str, spec: Mapping[str, Any]) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield claim["claimName"]
        elif "ephemeral" in volume:
            yield f"{pod}-{volume['name']}"
