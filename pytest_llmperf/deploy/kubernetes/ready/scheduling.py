"""Pods that have no node: others use what there is, an autoscaler is at it, or no node will ever do."""

from __future__ import annotations

import re

from pytest_llmperf.deploy.kubernetes.names import QUEUE
from pytest_llmperf.deploy.kubernetes.ready.capacity import NoRoom, asked_for, why_no_node
from pytest_llmperf.deploy.kubernetes.ready.claims import claim_finding
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Event, Seen, is_accelerator
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings
from pytest_llmperf.units import format_duration

SCHEDULER_GRACE_S = 60.0
"""How long the scheduler may not have looked at a pod."""
SCALE_UP_GRACE_S = 900.0
"""How long a node that is being added may take: the autoscaler's own patience. GPUs and their drivers come late."""
_SCALING_UP = ("TriggeredScaleUp", "Nominated")
"""What the cluster's autoscaler and Karpenter say of a pod for which they add a node."""
_NOT_SCALING_UP = ("NotTriggerScaleUp", "FailedScaleUp")
_AFTER_REASONS = re.compile(r"\.? *(?:preemption: .*|no new claims to deallocate.*)", re.DOTALL)
_IN_USE = re.compile(r"Insufficient |Too many pods")
"""What the scheduler says of a resource that a node has no more of now."""
_RESOLVABLE = re.compile(rf"(?:{_IN_USE.pattern}).*No preemption victims found", re.DOTALL)
_QUEUE_HINT = "Wait until they are done, or wait longer for them: --llmperf-queue-timeout."
_KUEUE_HINT = "`kubectl get workloads,localqueues` says what it waits for; --llmperf-queue-timeout waits longer."
_GATE_HINT = "Whatever put the gate there takes it away again, or is not running; --llmperf-queue-timeout waits longer."


def placing_finding(pod: Pod, seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting:
    """What there is to say of a pod that has no node."""
    if pod.gates:
        return _gated(pod, settings)
    claim = claim_finding(pod, seen)
    if claim is not None:
        return claim
    scheduled = pod.condition("PodScheduled")
    if scheduled is None or not scheduled.message:
        never = Diagnosis(
            f"the scheduler {pod.scheduler!r} has not looked at the pod {pod.name}",
            "Does it run in the cluster? It is the manifest's schedulerName that says which one is to place the pod.",
        )
        is_other = pod.scheduler != "default-scheduler"  # one that lets groups of pods wait need not say so
        grace_s = max(SCHEDULER_GRACE_S, settings.unschedulable_grace_s if is_other else 0.0)
        patience = Patience("unscheduled", grace_s, never)
        return Waiting("waiting for the scheduler", Stage.HELD, (patience,))
    room = why_no_node(pod, seen.nodes) if seen.nodes is not None else _told_by_scheduler(pod, scheduled.message)
    if room is not None and room.is_queue and _IN_USE.search(scheduled.message) is None:
        room = None  # something else keeps it from the nodes that others use
    if room is not None and room.is_queue:
        return _queued(pod, room, scheduled.message, seen, settings)
    return _unschedulable(pod, room, scheduled.message, seen, settings)


def queueing(
    text: str, what: str, settings: KubernetesSettings, details: tuple[str, ...] = (), hint: str = _QUEUE_HINT
) -> Waiting:
    """What waits in a queue, until ``queue_timeout_s`` is over; then it is told that ``what`` was waited for so long."""
    cause = f"waited {format_duration(settings.queue_timeout_s)} for {what}"
    then = Diagnosis(cause, hint, details)
    return Waiting(text, Stage.HELD, (Patience("queue", settings.queue_timeout_s, then),), queue=True)


def _gated(pod: Pod, settings: KubernetesSettings) -> Waiting:
    queue = pod.labels.get(QUEUE)
    if queue is not None:
        return queueing(
            f"waiting in Kueue's queue {queue}",
            f"Kueue to admit the pod {pod.name} from its queue {queue}",
            settings,
            hint=_KUEUE_HINT,
        )
    gates = ", ".join(pod.gates)
    what = f"the scheduling gate {gates} to be taken away"
    return queueing(f"held back by the scheduling gate {gates}", what, settings, (pod.place,), _GATE_HINT)


def _queued(pod: Pod, room: NoRoom, message: str, seen: Seen, settings: KubernetesSettings) -> Waiting:
    details = (f"pod {pod.name}", f"the scheduler says: {_reasons(message)}")
    scaling = seen.events_of("Pod", pod.name, *_SCALING_UP, *_NOT_SCALING_UP)
    adds = f"; the autoscaler adds a node ({scaling[-1].reason})" if _is_scaling(scaling) else ""
    text = f"waiting for {room.cause}{adds}"
    return queueing(text, room.cause, settings, details)


def _unschedulable(pod: Pod, room: NoRoom | None, message: str, seen: Seen, settings: KubernetesSettings) -> Waiting:
    said = _reasons(message)
    cause = room.cause if room is not None else said
    scaling = seen.events_of("Pod", pod.name, *_SCALING_UP, *_NOT_SCALING_UP)
    waited = max(settings.unschedulable_grace_s, SCALE_UP_GRACE_S if _is_scaling(scaling) else 0.0)
    details = (
        *(room.details if room is not None else ()),
        *((f"the scheduler says: {said}",) if room is not None else ()),
        *(("nodes cannot be read with these credentials: more is not known",) if seen.nodes is None else ()),
        *((f"the autoscaler says: {shortened(scaling[-1].message)}",) if scaling else ()),
        f"pod {pod.name}; waited {format_duration(waited)} for a node to be added",
    )
    hint = (
        "Change what the cell or the manifest asks for, or add such a node; --llmperf-unschedulable-grace waits longer for one."
    )
    then = Diagnosis(f"no node can take the pod: {cause}", hint, details)
    text = f"no node can take the pod yet: {cause}"
    if _is_scaling(scaling):
        text = f"waiting for a new node ({scaling[-1].reason}): {cause}"
    return Waiting(text, Stage.HELD, (Patience("unschedulable", waited, then),))


def _is_scaling(events: tuple[Event, ...]) -> bool:
    """Whether the last that an autoscaler said is that it adds a node."""
    return bool(events) and events[-1].reason in _SCALING_UP


def _told_by_scheduler(pod: Pod, message: str) -> NoRoom | None:
    """Without knowing the nodes: what a pod with more priority could have is there, and others use it."""
    if _RESOLVABLE.search(message) is None:
        return None
    resource = next((name for name in pod.requests if is_accelerator(name) and f"Insufficient {name}" in message), None)
    if resource is None:
        return NoRoom(_reasons(message), is_queue=True)
    return NoRoom(f"{asked_for(pod, resource)}: in use by others", is_queue=True)


def _reasons(message: str) -> str:
    """The scheduler's words without what it says of preemption."""
    return shortened(_AFTER_REASONS.sub("", message)).rstrip(".")
