"""Pods that nobody may make: what the API server says to the controllers that were to make them."""

from __future__ import annotations

import re
from dataclasses import replace

from pytest_llmperf.deploy.kubernetes.api.refusals import POD_SECURITY, Asked, Quota, Status, exceeded_quota, refusal
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened
from pytest_llmperf.deploy.kubernetes.ready.pods import quantity
from pytest_llmperf.deploy.kubernetes.ready.scheduling import queueing
from pytest_llmperf.deploy.kubernetes.ready.seen import Controller, Event, Seen
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings

CREATION_GRACE_S = 30.0
"""How long nothing may make the pods, or fail to for a reason that may pass."""
WEBHOOK_GRACE_S = 8.0
"""The same where an admission webhook does not answer: it is asked again and again meanwhile."""
_WRAPPING = re.compile(r'^(?:Error creating: |create Pod \S+ in StatefulSet \S+ failed error: )?(?:pods "[^"]*" is forbidden: )?')
_APART = re.compile(r"(?<=\)), ")
_REFUSED = ("is forbidden", "denied the request", "denied request", "is invalid")
_PASSING = re.compile(
    r'serviceaccount "[^"]*" not found|error looking up service account|status unknown for quota'
    r'|error fetching namespace "[^"]*": unable to find annotation'
)
"""A namespace's service account, and OpenShift's annotations of it, are made a moment after it; a quota is counted a moment
after it is made."""
_AWAY = "failed calling webhook"
_CONSTRAINT = "unable to validate against any security context constraint"
_CONSTRAINT_HINT = (
    "Take runAsUser, runAsGroup and fsGroup out of the manifest's securityContext, so that OpenShift sets them, or allow the "
    "service account a constraint that has them (`oc adm policy add-scc-to-user`)."
)


def creation_finding(seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting | None:
    """What there is to say of pods that are to be there and that nobody may make."""
    makers = [*seen.controllers, *([seen.workload] if seen.workload is not None else [])]
    for maker in makers:
        if maker.replicas is None or _has_all_pods(maker, seen) or not (message := _creation_failure(maker, seen)):
            continue
        fault = _uncreatable(maker, message)
        quota = exceeded_quota(message)
        if quota is not None and _is_used_by_others(quota, maker.replicas):
            room = f"room in the quota {quota.name!r}"
            text = f"waiting for {room}: requested {quota.requested}, used {quota.used} of {quota.limited}"
            return queueing(text, room, settings, (str(quota), *fault.details), fault.hint)
        if quota is not None and maker.replicas > 1:
            fault = replace(fault, details=(f"each of {maker.replicas} pods asks for that", *fault.details))
        if any(word in message for word in _REFUSED) and _PASSING.search(message) is None:
            return fault
        text = f"the pods are not made yet: {shortened(message, 120)}"
        # One whose time ran out was asked once until now; who does not listen was asked often.
        is_away = _AWAY in message and "deadline exceeded" not in message
        grace_s = WEBHOOK_GRACE_S if is_away else CREATION_GRACE_S
        return Waiting(text, Stage.ABSENT, (Patience("not made", grace_s, fault),))
    return None


def _is_used_by_others(quota: Quota, pods: int) -> bool:
    """Whether there would be room for all of the pods if nobody else used it: then somebody may stop to."""
    allowed = _amounts(quota.limited)
    return all(pods * asked <= allowed.get(name, 0.0) for name, asked in _amounts(quota.requested).items())


def _amounts(text: str) -> dict[str, float]:
    """``requests.nvidia.com/gpu=1,pods=1`` -> the amount of each."""
    return {name: quantity(amount) for name, _, amount in (part.strip().partition("=") for part in text.split(","))}


def _uncreatable(maker: Controller, message: str) -> Diagnosis:
    where = f"{maker.kind} {maker.name}"
    if (match := POD_SECURITY.search(message)) is not None:
        wants = tuple(_APART.split(match["why"]))
        hint = "Change the manifest's securityContext, or use a namespace with another pod-security.kubernetes.io/enforce."
        return Diagnosis(f"the namespace's Pod Security level {match['level']!r} forbids the pods", hint, (*wants, where))
    asked = Asked("create", "pods", namespace=maker.namespace)
    # The message is all that is told; a webhook that is away is no rule that forbids something.
    code = 500 if _AWAY in message else 403
    refused = refusal(Status(code, "", message), asked)
    what = refused.what.removeprefix(f"cannot {asked}: ")
    hint = refused.hint or ""
    if what == message:
        what, hint = shortened(_WRAPPING.sub("", message)), "Correct the manifest, or ask whoever made the rule."
        hint = _CONSTRAINT_HINT if _CONSTRAINT in message else hint
    # Whom it asked in vain, and how, is a long line of its own.
    what, _, why = what.partition(": ") if _AWAY in message else (what, "", "")
    return Diagnosis(f"the pods cannot be made: {what}", hint, (*filter(None, [why]), where))


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
