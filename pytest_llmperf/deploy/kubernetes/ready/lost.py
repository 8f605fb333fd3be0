"""Pods that were ready and do not serve any more, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.api.kinds import EVENT, NODE
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.container_faults import how_it_ended
from pytest_llmperf.deploy.kubernetes.ready.findings import shortened
from pytest_llmperf.deploy.kubernetes.ready.pod_faults import disruption
from pytest_llmperf.deploy.kubernetes.ready.pods import Container, Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import event_of, node_of
from pytest_llmperf.deploy.kubernetes.ready.waiting import ReadyPods, engine_pods

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered

_TELLING = ("Preempted", "Evicted", "TaintManagerEviction", "NodeNotReady", "Preempting", "NodeShutdown")


def lost_reason(api: KubeApi, rendered: Rendered, identity: Identity, namespace: str, ready: ReadyPods) -> str | None:
    """Why one of the pods that were ``ready`` does not serve any more, or None while all do. One that is slow is not lost."""
    now = {pod.name: pod for pod in engine_pods(api, rendered, identity, namespace)}
    engine = rendered.engine.container
    reasons = (_lost(api, before, now.get(before.name), engine, namespace) for before in ready.pods)
    return next((reason for reason in reasons if reason is not None), None)


def _lost(api: KubeApi, before: Pod, now: Pod | None, engine: str, namespace: str) -> str | None:
    if now is None or now.uid != before.uid:
        return f"the pod {before.name} is gone{_said(api, before, namespace)}"
    if why := disruption(now):
        return f"the pod {now.name} {why}"
    if now.is_deleted:
        return f"the pod {now.name} is being deleted{_said(api, before, namespace)}"
    # A sidecar that is started again (a mesh's, an exporter) takes no answer from the load.
    known, one = before.container(engine), now.container(engine)
    if known is not None and one is not None and one.exits > known.exits:
        return _restarted(now, one)
    if now.phase == "Failed":
        return f"the pod {now.name} has failed: {now.reason} {now.message}".rstrip()
    return None if now.is_ready else _node_lost(api, now)


def _restarted(pod: Pod, one: Container) -> str:
    ended = one.ended or one.last
    how = how_it_ended(one, ended) if ended is not None else "was started again"
    return f"the container {one.name} of the pod {pod.name} {how}"


def _said(api: KubeApi, pod: Pod, namespace: str) -> str:
    """The last that was said of a pod that goes."""
    found = api.list(EVENT, namespace, fields=f"involvedObject.uid={pod.uid}")
    events = sorted((event_of(one) for one in found), key=lambda one: one.last_s)
    # That its containers are stopped is the consequence of what else was said.
    telling = [one for one in events if one.reason in _TELLING] or [one for one in events if one.reason == "Killing"]
    return f": {telling[-1].reason}: {shortened(telling[-1].message, 160)}" if telling else ""


def _node_lost(api: KubeApi, pod: Pod) -> str | None:
    """Of a pod that is not ready: whether that is because nobody hears of its node."""
    found = api.get(NODE, pod.node) if api.may("get", NODE).allowed else None
    if found is None:
        return None
    ready = node_of(found).condition("Ready")
    if ready is None or ready.is_true:
        return None
    return f"the node {pod.node} is not ready: {ready.reason}: {shortened(ready.message, 160)}"
