"""What is seen of a deployment -> what it waits for, or why it cannot become ready. Pure: it asks nobody and knows no clock.

A state that may pass carries its patience: for how long, and what it is called then. Whoever looks again and again counts the
seconds (``waiting``).
"""

from __future__ import annotations

import re
from dataclasses import replace

from pytest_llmperf.deploy.kubernetes.api.refusals import Asked, Quota, Status, exceeded_quota, refusal
from pytest_llmperf.deploy.kubernetes.names import QUEUE
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened, warnings
from pytest_llmperf.deploy.kubernetes.ready.pod_faults import pod_finding
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod, quantity
from pytest_llmperf.deploy.kubernetes.ready.scheduling import queueing
from pytest_llmperf.deploy.kubernetes.ready.seen import Controller, Event, Seen
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings
from pytest_llmperf.deploy.readiness import timeout_hint
from pytest_llmperf.units import format_duration

CREATION_GRACE_S = 30.0
"""How long nothing may make the pods, or fail to for a reason that may pass."""
OPERATOR_GRACE_S = 180.0
"""The same, of a kind that an operator makes pods of: it has more to do before."""
_WRAPPING = re.compile(r'^(?:Error creating: |create Pod \S+ in StatefulSet \S+ failed error: )?(?:pods "[^"]*" is forbidden: )?')
_POD_SECURITY = re.compile(r'violates PodSecurity "(?P<level>[^"]+)": (?P<why>.*)', re.DOTALL)
_APART = re.compile(r"(?<=\)), ")
_REFUSED = ("is forbidden", "denied the request", "denied request", "is invalid")
_PASSING = ("serviceaccount", "error looking up service account", "status unknown for quota")
"""A namespace's service account is made a moment after it, and a quota is counted a moment after it is made."""


def diagnose(seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting | None:
    """Why the deployment cannot become ready, what it waits for, or None where all pods that there are are ready."""
    uncreated = _not_created(seen, settings)
    if isinstance(uncreated, Diagnosis):
        return uncreated
    found = [(pod, pod_finding(pod, seen, settings)) for pod in seen.pods]
    if (fault := next((one for _, one in found if isinstance(one, Diagnosis)), None)) is not None:
        return fault
    if uncreated is not None:
        return uncreated
    waiting = [_bounded(pod, _among(one, seen), seen, settings) for pod, one in found if isinstance(one, Waiting)]
    if not waiting:
        wanted = seen.workload.replicas if seen.workload is not None else None
        living = [pod for pod in seen.pods if not pod.is_done]
        return pods_to_come(seen, settings) if len(living) < (wanted or 1) else None
    # The one that is told of hides no other's patience.
    return replace(min(waiting, key=lambda one: one.stage), patience=tuple(each for one in waiting for each in one.patience))


def _among(waiting: Waiting, seen: Seen) -> Waiting:
    """The same with how many pods are ready, where there are several."""
    pods = [pod for pod in seen.pods if not pod.is_deleted and pod.phase not in ("Succeeded", "Failed")]
    if len(pods) < 2:
        return waiting
    return replace(waiting, text=f"{sum(pod.is_ready for pod in pods)} of {len(pods)} pods ready; {waiting.text}")


def _bounded(pod: Pod, waiting: Waiting, seen: Seen, settings: KubernetesSettings) -> Waiting:
    """The same with the time that a pod has to become ready once it has its node. Each pod has its own times."""
    own = tuple(replace(one, state=f"{one.state} of {pod.name}") for one in waiting.patience)
    if waiting.stage <= Stage.HELD:
        return replace(waiting, patience=own)
    timeout_s = settings.ready_timeout_s
    late = Diagnosis(
        f"the pods were not ready within {format_duration(timeout_s)}",
        timeout_hint(timeout_s),
        (f"the last state: {waiting.text}", pod.place),
        warnings(seen.events_of("Pod", pod.name)),
        log=waiting.log,
    )
    return replace(waiting, patience=(*own, Patience(f"starting of {pod.name}", timeout_s, late)))


def _not_created(seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting | None:
    """Pods that are to be there and that nobody may make."""
    makers = [*seen.controllers, *([seen.workload] if seen.workload is not None else [])]
    for maker in makers:
        if maker.replicas is None or _has_all_pods(maker, seen) or not (message := _creation_failure(maker, seen)):
            continue
        fault = _uncreatable(maker, message)
        if (quota := exceeded_quota(message)) is not None and _is_used_by_others(quota):
            room = f"room in the quota {quota.name!r}"
            text = f"waiting for {room}: requested {quota.requested}, used {quota.used} of {quota.limited}"
            return queueing(text, room, settings, (str(quota), *fault.details), fault.hint)
        if any(word in message for word in _REFUSED) and not any(word in message for word in _PASSING):
            return fault
        text = f"the pods are not made yet: {shortened(message, 120)}"
        return Waiting(text, Stage.ABSENT, (Patience("not made", CREATION_GRACE_S, fault),))
    return None


def _is_used_by_others(quota: Quota) -> bool:
    """Whether there would be room if nobody else used it: then somebody may stop to."""
    allowed = _amounts(quota.limited)
    return all(asked <= allowed.get(name, 0.0) for name, asked in _amounts(quota.requested).items())


def _amounts(text: str) -> dict[str, float]:
    """``requests.nvidia.com/gpu=1,pods=1`` -> the amount of each."""
    return {name: quantity(amount) for name, _, amount in (part.strip().partition("=") for part in text.split(","))}


def _uncreatable(maker: Controller, message: str) -> Diagnosis:
    where = f"{maker.kind} {maker.name}"
    if (match := _POD_SECURITY.search(message)) is not None:
        wants = tuple(_APART.split(match["why"]))
        hint = "Change the manifest's securityContext, or use a namespace with another pod-security.kubernetes.io/enforce."
        return Diagnosis(f"the namespace's Pod Security level {match['level']!r} forbids the pods", hint, (*wants, where))
    asked = Asked("create", "pods", namespace=maker.namespace)
    # The message is all that is told; a webhook that is away is no rule that forbids something.
    code = 500 if "failed calling webhook" in message else 403
    refused = refusal(Status(code, "", message), asked)
    what = refused.what.removeprefix(f"cannot {asked}: ")
    hint = refused.hint or ""
    if what == message:
        what, hint = shortened(_WRAPPING.sub("", message)), "Correct the manifest, or ask whoever made the rule."
    return Diagnosis(f"the pods cannot be made: {what}", hint, (where,))


def _has_all_pods(maker: Controller, seen: Seen) -> bool:
    made = sum(pod.owner == (maker.kind, maker.name) for pod in seen.pods)
    # A Deployment's pods are its ReplicaSets'; those speak for themselves.
    return maker.kind == "Deployment" or made >= (maker.replicas or 0)


def _creation_failure(maker: Controller, seen: Seen) -> str:
    """What the API server has said to who was to make pods; empty where it has said nothing bad."""
    failure = maker.condition("ReplicaFailure")
    if failure is not None and failure.is_true:
        return failure.message
    events: tuple[Event, ...] = seen.events_of(maker.kind, maker.name, "FailedCreate", "SuccessfulCreate")
    return events[-1].message if events and events[-1].reason == "FailedCreate" else ""


def pods_to_come(seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting:
    """What there is to say where pods are missing and none of those that there are waits for anything."""
    workload = seen.workload
    if workload is not None and (done := next((pod for pod in seen.pods if pod.is_done and _is_of(pod, workload)), None)):
        return Diagnosis(f"the pod {done.name} has ended", "A server is not to end: check the manifest's command and arguments.")
    if workload is not None and workload.is_suspended:
        queue = workload.labels.get(QUEUE)
        text = f"waiting in Kueue's queue {queue}" if queue else f"the {workload.kind} {workload.name} is suspended"
        return queueing(text, f"the {workload.kind} {workload.name} to be resumed", settings)
    if workload is None:
        fault = Diagnosis("the engine's workload is gone", "Somebody has deleted it: see who else works in this namespace.")
        return Waiting("waiting for the workload", Stage.ABSENT, (Patience("no workload", CREATION_GRACE_S, fault),))
    name = f"{workload.kind} {workload.name}"
    why = f"the {name} is paused" if workload.is_paused else f"the {name} asks for no pods" if workload.replicas == 0 else ""
    hint = "Correct its manifest." if why else "Is the cluster's controller for it running?"
    events = warnings(seen.events_of(workload.kind, workload.name))
    fault = Diagnosis(why or f"nothing makes the pods of the {name}", hint, (), events)
    grace_s = OPERATOR_GRACE_S if workload.replicas is None else CREATION_GRACE_S
    return Waiting("waiting for the pods to be made", Stage.ABSENT, (Patience("no pods", grace_s, fault),))


def _is_of(pod: Pod, workload: Controller) -> bool:
    return (workload.kind, workload.name) in (pod.owner, ("Pod", pod.name))
