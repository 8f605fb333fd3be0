"""What is seen of a deployment -> what it waits for, or why it cannot become ready. Pure: it asks nobody and knows no clock.

A state that may pass carries its patience: for how long, and what it is called then. Whoever looks again and again counts the
seconds (``waiting``).
"""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.deploy.kubernetes.names import QUEUE
from pytest_llmperf.deploy.kubernetes.ready.creation_faults import CREATION_GRACE_S, creation_finding
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, warnings
from pytest_llmperf.deploy.kubernetes.ready.pod_faults import pod_finding
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.scheduling import queueing
from pytest_llmperf.deploy.kubernetes.ready.seen import Controller, Seen
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings
from pytest_llmperf.deploy.readiness import timeout_hint
from pytest_llmperf.units import format_duration

OPERATOR_GRACE_S = 180.0
"""How long an operator may take to make the pods of a kind of its own: it has more to do before."""
_PROBED_HINT = (
    "Its readiness probe does not pass: correct it in the manifest. Raise --llmperf-ready-timeout only if the log shows progress."
)


def diagnose(seen: Seen, settings: KubernetesSettings) -> Diagnosis | Waiting | None:
    """Why the deployment cannot become ready, what it waits for, or None where all pods that there are are ready."""
    uncreated = creation_finding(seen, settings)
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
    if not pod.node or waiting.stage <= Stage.HELD:
        return replace(waiting, patience=own)
    timeout_s = settings.ready_timeout_s
    is_probed = any(one.is_running and one.is_started and not one.is_ready for one in pod.containers)
    late = Diagnosis(
        f"the pods were not ready within {format_duration(timeout_s)}",
        _PROBED_HINT if is_probed else timeout_hint(timeout_s),
        (f"the last state: {waiting.text}", pod.place),
        warnings(seen.events_of("Pod", pod.name)),
        log=waiting.log,
    )
    return replace(waiting, patience=(*own, Patience(f"starting of {pod.name}", timeout_s, late)))


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
