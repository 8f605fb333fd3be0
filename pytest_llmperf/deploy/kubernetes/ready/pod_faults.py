"""What there is to say of one pod: where it is on its way, or why it will never be ready."""

from __future__ import annotations

from pytest_llmperf.deploy.kubernetes.ready.claims import claim_finding, mount_finding
from pytest_llmperf.deploy.kubernetes.ready.container_faults import container_finding
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened, warnings
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.scheduling import placing_finding
from pytest_llmperf.deploy.kubernetes.ready.seen import Seen
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings

NODE_GRACE_S = 60.0
"""How long a node may be silent: a kubelet that restarts is back sooner."""
JOB_GRACE_S = 15.0
"""How long a Job may take to try again what has failed once."""
GOING_GRACE_S = 600.0
"""How long none may come for a pod that goes: it ends first, and its node may not answer."""
REFUSALS = 3
"""After so many pods that a node did not take, another will be no better off."""
DISRUPTED = "DisruptionTarget"
"""The condition of a pod that something takes from its node."""
_DISRUPTIONS = {
    "PreemptionByScheduler": "was preempted by a pod of a higher priority",
    "DeletionByTaintManager": "was driven from its node by a taint",
    "EvictionByEvictionAPI": "was evicted (its node is drained)",
    "DeletionByPodGC": "was on a node that is gone",
    "TerminationByKubelet": "was ended by its node",
}


def pod_finding(pod: Pod, seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting | None:
    """What there is to say of a pod; None where it is ready, or has done its work."""
    if pod.is_done or pod.is_ready:
        return None
    if (why := _going(pod, seen)) and pod.reason != "Evicted":
        return None if _is_replaced(pod, seen) else _awaiting_another(pod, why)
    if (refused := _refused(pod)) is not None:
        return refused
    if not pod.node:
        return placing_finding(pod, seen, settings)
    found = _of_containers(pod, seen)
    return _of_job(pod, found, seen) if isinstance(found, Diagnosis) and pod.owner[0] == "Job" and _is_over(pod) else found


def disruption(pod: Pod) -> str:
    """Why something takes a pod from its node: ``was evicted: The node was low on memory``; empty where nothing does."""
    if pod.reason == "Evicted":
        return f"was evicted: {shortened(pod.message)}"
    target = pod.condition(DISRUPTED)
    if target is None or not target.is_true:
        return ""
    return f"{_DISRUPTIONS.get(target.reason, 'is being disrupted')}: {shortened(target.message)}"


def _going(pod: Pod, seen: Seen) -> str:
    """Why there is to be another pod in this one's place; empty where it stays, or none will come."""
    if pod.is_deleted:
        return disruption(pod) or "is deleted"
    if pod.phase != "Failed" or pod.owner[0] in ("", "Job"):
        return ""
    refused = [one for one in seen.pods if one.owner == pod.owner and _is_not_taken(one)]
    if _is_not_taken(pod) and len(refused) < REFUSALS:
        return f"was not taken by the node {pod.node} ({pod.reason})"
    return disruption(pod)


def _is_replaced(pod: Pod, seen: Seen) -> bool:
    """Whether there are as many pods without this one as there are to be."""
    makers = (*seen.controllers, *([seen.workload] if seen.workload is not None else []))
    wanted = next((one.replicas for one in makers if (one.kind, one.name) == pod.owner), None)
    staying = [one for one in seen.pods if one.owner == pod.owner and not one.is_deleted and one.phase != "Failed"]
    return len(staying) >= (1 if wanted is None else wanted)


def _awaiting_another(pod: Pod, why: str) -> Waiting:
    hint = f"`kubectl describe pod {pod.name} --namespace={pod.namespace}` says what keeps it: a node that is gone, a finalizer."
    then = Diagnosis(f"no pod has come for {pod.name}, which {why}", hint, (pod.place,))
    text = f"the pod {pod.name} {why}, another one is to come"
    return Waiting(text, Stage.ABSENT, (Patience("another", GOING_GRACE_S, then),))


def _is_not_taken(pod: Pod) -> bool:
    """Whether its node has refused it before anything of it ran."""
    is_refused = pod.phase == "Failed" and bool(pod.reason) and not any(one.ended for one in pod.containers)
    return is_refused and not disruption(pod)


def _refused(pod: Pod) -> Diagnosis | None:
    """Of a pod that its node has ended or never took."""
    if pod.phase != "Failed":
        return None
    where = (pod.place,)
    if why := disruption(pod):
        hint = f"`kubectl describe node {pod.node}` says more: try again on a node that stays."
        if pod.reason == "Evicted":
            hint = (
                "Ask for what it uses (requests of memory and ephemeral-storage in the manifest), or use a node with more of it."
            )
        return Diagnosis(f"the pod {why}", hint, where)
    if _is_not_taken(pod):
        cause = f"the node {pod.node} did not take the pod: {pod.reason}: {shortened(pod.message)}"
        return Diagnosis(cause, "What the node has free differs from what it says: see its device plugin.", where)
    return None


def _of_job(pod: Pod, found: Diagnosis, seen: Seen) -> Diagnosis | Waiting | None:
    """Of a pod that has failed and that its Job may make anew."""
    others = [one for one in seen.pods if one.owner == pod.owner and one is not pod]
    if any(not _is_over(one) for one in others):
        return None
    job = seen.workload if seen.workload is not None and (seen.workload.kind, seen.workload.name) == pod.owner else None
    has_given_up = job is not None and (failed := job.condition("Failed")) is not None and failed.is_true
    if others or has_given_up:
        return found
    text = f"{found.cause}; its Job {pod.owner[1]} may try again"
    return Waiting(text, Stage.ABSENT, (Patience(f"job {pod.owner[1]}", JOB_GRACE_S, found),), log=found.log)


def _is_over(pod: Pod) -> bool:
    """Whether a pod of a Job has failed; its phase says so a moment after its container."""
    return pod.phase == "Failed" or any(one.ended is not None and one.ended.exit_code for one in pod.containers)


def _of_containers(pod: Pod, seen: Seen) -> Diagnosis | Waiting:
    found = [container_finding(pod, one, seen) for one in pod.containers]
    if (fault := next((one for one in found if isinstance(one, Diagnosis)), None)) is not None:
        return fault
    if (silent := _silent_node(pod, seen)) is not None:
        return silent
    waiting = next((one for one in found if one is not None), None)
    if waiting is not None:
        return waiting
    if any(one.is_running or one.ended for one in pod.containers):
        return _between(pod)
    return claim_finding(pod, seen) or mount_finding(pod, seen) or Waiting(f"scheduled on {pod.node}", Stage.PLACED)


def _between(pod: Pod) -> Waiting:
    """All that runs does what it is to do, and the pod is not ready."""
    gates = [
        one
        for one in pod.conditions
        if not one.is_true and one.type not in ("Ready", "ContainersReady", "Initialized", DISRUPTED)
    ]
    if any(one.is_init for one in pod.containers) and not any(one.is_running for one in pod.containers if not one.is_init):
        return Waiting("the init containers are done, the container starts", Stage.PREPARING)
    return Waiting(f"running, waits for {gates[0].type}" if gates else "running, not ready", Stage.RUNNING)


def is_said_silent(pod: Pod, seen: Seen) -> bool:
    """Whether the last that was said of a pod is that its node is not heard of. That it is again, nobody says of the pod."""
    events = seen.events_of("Pod", pod.name)
    return bool(pod.node and events) and events[-1].reason in ("NodeNotReady", "TaintManagerEviction")


def _silent_node(pod: Pod, seen: Seen) -> Waiting | None:
    """Of a pod whose node is not heard of; of no other where nodes may not be read."""
    if seen.nodes is None or not is_said_silent(pod, seen):
        return None
    node = next((one for one in seen.nodes.nodes if one.name == pod.node), None)
    ready = node.condition("Ready") if node is not None else None
    if ready is not None and ready.is_true:
        return None
    then = Diagnosis(
        f"the node {pod.node} is not ready any more",
        f"`kubectl describe node {pod.node}` says what the cluster knows of it.",
        (pod.place,),
        warnings(seen.events_of("Pod", pod.name)),
    )
    return Waiting(f"the node {pod.node} is not ready", Stage.PLACED, (Patience("node", NODE_GRACE_S, then),))
