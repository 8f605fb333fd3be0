"""Claims that get no volume, volumes that cannot be mounted, and networks that cannot be set up."""

from __future__ import annotations

import re

from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened
from pytest_llmperf.deploy.kubernetes.ready.missing import is_missing, missing_finding, missing_hint
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Claim, Event, Seen

PROVISION_GRACE_S = 120.0
"""How long a claim may have no volume when nothing has begun to make one, or has failed to."""
PROVISIONING_GRACE_S = 900.0
"""The same, when something makes it: a shared file system takes minutes, and is asked for again and again meanwhile."""
MOUNT_GRACE_S = 240.0
"""How long a volume may not be mounted, or there be no network: the drivers of a node that is new come one by one."""
DETACH_GRACE_S = 480.0
"""The same, of a volume that another node has: from one that is gone it is taken by force after 6 minutes."""
_NO_CLASS = re.compile(r'storageclass\S* "([^"]+)" not found', re.IGNORECASE)
_NO_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_WRAPPING = re.compile(r'^(?:MountVolume\.SetUp|AttachVolume\.Attach) failed for volume "[^"]*" : ')
_DISK_TYPE = re.compile(r"\bdisk type\b", re.IGNORECASE)
"""What a cloud says of a disk that a kind of machine cannot have, or that it does not have where the node is."""
_DISK_HINT = (
    "Take a storage class with another type of disk (on GKE hyperdisk-balanced for newer machines, pd-balanced for older ones): "
    "name it in the manifest's storageClassName or the platform's record."
)
_CLASS_HINT = (
    "`kubectl get storageclass` shows those that there are: name one in the manifest's storageClassName or the platform's "
    "record, or use another --llmperf-model-cache."
)
_AT_IT = re.compile(r"code = (?:DeadlineExceeded|Aborted)")
"""What is said of an attempt that was too short, or of one that still goes on."""
_IS_IT_RUNNING = "Is the storage class's provisioner running?"
_OUTCOMES = {
    "Provisioning": ("it is not made in time", "The storage driver's own logs say more."),
    "ProvisioningFailed": ("it cannot be made", "What the storage says is above."),
    "ExternalProvisioning": ("nothing makes it", _IS_IT_RUNNING),
    "FailedBinding": ("nothing makes it", _IS_IT_RUNNING),
}
"""What it comes to when the last that was said of a claim is that, and what to do."""
_MOUNT = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SANDBOX = ("FailedCreatePodSandBox",)
_NETWORK = re.compile(r"network|\bcni\b", re.IGNORECASE)


def claim_finding(pod: Pod, seen: Seen) -> Diagnosis | Waiting | None:
    """What there is to say of the claims of a pod that has no node, or no volumes yet."""
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and (missing := _NO_CLAIM.search(scheduled.message)) is not None:
        cause = f"there is no PersistentVolumeClaim {missing[1]!r}"
        found = Diagnosis(cause, missing_hint(missing[0], pod.namespace), (pod.place,))
        # A claim is made just before its pod, and the scheduler may hear of it just after.
        return missing_finding(f"{cause} yet", Stage.HELD, found)
    claims = [told for claim in seen.claims if claim.name in pod.claims and (told := _of_claim(claim, seen)) is not None]
    if claims:
        return next((one for one in claims if isinstance(one, Diagnosis)), claims[0])
    return _unbound(pod) if scheduled is not None and "unbound immediate PersistentVolumeClaims" in scheduled.message else None


def mount_finding(pod: Pod, seen: Seen) -> Diagnosis | Waiting | None:
    """What there is to say of the volumes, or the network, of a pod that has its node and no container yet."""
    prepared = pod.condition("PodReadyToStartContainers")
    events = seen.events_of("Pod", pod.name)
    if (prepared is not None and prepared.is_true) or not events or events[-1].reason not in (*_MOUNT, *_SANDBOX):
        return None
    last = events[-1]
    what = "a volume of the pod cannot be mounted"
    if last.reason in _SANDBOX:
        is_network = _NETWORK.search(last.message) is not None
        what = "the pod's network cannot be set up" if is_network else "the node cannot set the pod up"
    said = _WRAPPING.sub("", shortened(last.message))
    if last.reason == "FailedAttachVolume" and _DISK_TYPE.search(last.message) is not None:
        return Diagnosis(f"the node {pod.node} cannot have a volume of this type of disk: {said}", _DISK_HINT, (pod.place,))
    hint = missing_hint(last.message, pod.namespace) or "The node's and the storage driver's own logs say more."
    then = Diagnosis(f"{what}: {said}", hint, (pod.place,))
    text = f"{what} yet: {shortened(said, 120)}"
    if is_missing(last.message):
        return missing_finding(text, Stage.PLACED, then)
    # What attaches volumes and what mounts them speak in turn, each of the same trouble.
    is_elsewhere = any(one.reason in _MOUNT and "Multi-Attach" in one.message for one in events)
    state = "sandbox" if last.reason in _SANDBOX else "volumes"
    return Waiting(text, Stage.PLACED, (Patience(state, DETACH_GRACE_S if is_elsewhere else MOUNT_GRACE_S, then),))


def _unbound(pod: Pod) -> Waiting:
    """Of a pod that waits for its volumes, of which nothing was said yet."""
    hint = "`kubectl describe pvc` says what the cluster knows of them; --llmperf-model-cache=none does without a claim."
    then = Diagnosis(f"the claims {', '.join(pod.claims)} get no volume", hint, (pod.place,))
    return Waiting("waiting for the volumes of its claims", Stage.HELD, (Patience("claims", PROVISION_GRACE_S, then),))


def _of_claim(claim: Claim, seen: Seen) -> Diagnosis | Waiting | None:
    if claim.phase == "Bound":
        return None
    events = seen.events_of("PersistentVolumeClaim", claim.name)
    if claim.phase == "Lost":
        return Diagnosis(f"the volume of the claim {claim.name} is lost", "Its data is gone: make a new claim.", events=events)
    # That something else is to make it is said again and again; what that says of its attempts tells more.
    attempts = [one for one in events if one.reason in ("Provisioning", "ProvisioningFailed")]
    return next((found for event in reversed(attempts or events) if (found := _told(claim, event, events))), None)


def _told(claim: Claim, event: Event, events: tuple[Event, ...]) -> Diagnosis | Waiting | None:
    """What one event says of a claim that has no volume; None where it says nothing bad."""
    what = f"the claim {claim.name} gets no volume"
    if (no_class := _NO_CLASS.search(event.message)) is not None:
        return Diagnosis(
            f"{what}: there is no storage class {no_class[1]!r}",
            _CLASS_HINT,
            (shortened(event.message),),
        )
    if event.reason == "FailedBinding" and "no storage class is set" in event.message:
        return Diagnosis(
            f"{what}: it names no storage class, and the cluster has no default",
            _CLASS_HINT,
            (shortened(event.message),),
        )
    if event.reason == "ProvisioningFailed" and _DISK_TYPE.search(event.message) is not None:
        return Diagnosis(f"{what}: its type of disk cannot be had", _DISK_HINT, (shortened(event.message),))
    if (outcome := _OUTCOMES.get(event.reason)) is None:
        return None
    said, hint = outcome
    is_at_it = event.reason == "Provisioning" or _AT_IT.search(event.message) is not None
    grace_s = PROVISIONING_GRACE_S if is_at_it else PROVISION_GRACE_S
    then = Diagnosis(
        f"{what}: {said}", f"{hint} --llmperf-model-cache=none does without a claim.", (shortened(event.message),), events
    )
    text = f"waiting for the volume of the claim {claim.name}"
    return Waiting(text, Stage.PLACED, (Patience(f"claim {claim.name}", grace_s, then),))
