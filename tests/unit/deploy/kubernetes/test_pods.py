"""Objects as the API has them -> what is used of them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.ready.pods import Ended, Probe, Requirement, Tolerated, epoch_s, pod_of, quantity
from pytest_llmperf.deploy.kubernetes.ready.seen import Taint, claim_of, controller_of, event_of, node_of

DIGEST = f"sha256:{'ab' * 32}"


def served(**status: Any) -> dict[str, Any]:
    """A pod of one container with an init container before it."""
    engine = {
        "name": "vllm",
        "image": "vllm/vllm-openai:v1",
        "command": ["vllm", "serve"],
        "args": ["--port=8000"],
        "env": [{"name": "HOME", "value": "/scratch"}, {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {}}}],
        "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi", "nvidia.com/gpu": 2}},
        "startupProbe": {"httpGet": {"path": "/health"}, "periodSeconds": 5, "failureThreshold": 360},
    }
    download = {"name": "download", "image": "vllm/vllm-openai:v1", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}
    sidecar = {"name": "log", "image": "log:1", "restartPolicy": "Always", "resources": {"requests": {"cpu": "250m"}}}
    spec = {
        "containers": [engine],
        "initContainers": [download, sidecar],
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "weights"}}, {"name": "tmp", "ephemeral": {}}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
                }
            }
        },
    }
    owners = [{"kind": "ReplicaSet", "name": "vllm-6d4", "controller": True}]
    return {"metadata": {"name": "vllm-6d4-x", "namespace": "team", "ownerReferences": owners}, "spec": spec, "status": status}


def test_a_pod_that_nobody_has_looked_at() -> None:
    pod = pod_of(served())
    assert (pod.name, pod.namespace, pod.owner, pod.node, pod.phase) == (
        "vllm-6d4-x",
        "team",
        ("ReplicaSet", "vllm-6d4"),
        "",
        "Pending",
    )
    assert [(one.name, one.is_init) for one in pod.containers] == [("download", True), ("log", False), ("vllm", False)]
    assert not pod.is_ready
    assert pod.node_selector == (Requirement("gpu", values=("h100",)),)
    assert pod.node_terms == ((Requirement("zone", "In", ("a", "b")),),)
    assert pod.tolerations == (Tolerated("nvidia.com/gpu", "Exists"),)
    assert pod.claims == ("weights", "vllm-6d4-x-tmp")


def test_a_pod_asks_for_what_runs_together_or_for_the_greediest_before() -> None:
    assert pod_of(served()).requests == {"cpu": 2.0, "memory": 2.0**31, "nvidia.com/gpu": 2.0, "pods": 1.0}


def test_the_state_of_containers() -> None:
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-31T12:00:00Z"}
    status = {
        "name": "vllm",
        "ready": False,
        "restartCount": 1,
        "imageID": f"docker.io/vllm/vllm-openai@{DIGEST}",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": ended},
    }
    engine = pod_of(served(containerStatuses=[status])).container("vllm")
    assert engine is not None
    assert (engine.waiting, engine.last, engine.ended) == ("CrashLoopBackOff", Ended(137, "OOMKilled"), None)
    assert engine.exits == 2, "the run that is restarted, and the one before"
    assert engine.image_digest == DIGEST
    assert engine.memory_limit == "2Gi"
    assert engine.startup == Probe(5.0, 360)
    assert engine.environment == (("HOME", "/scratch"),)
    assert engine.command == ("vllm", "serve", "--port=8000")


def test_a_container_that_runs_again_has_ended_once() -> None:
    running = {"running": {"startedAt": "2026-01-31T12:00:00Z"}}
    status = {"name": "vllm", "restartCount": 1, "state": running, "lastState": {"terminated": {"exitCode": 1}}}
    engine = pod_of(served(containerStatuses=[status])).container("vllm")
    assert engine is not None
    assert engine.is_running
    assert engine.running_since_s == epoch_s("2026-01-31T12:00:00Z")
    assert engine.exits == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("24Gi", 24 * 2**30), ("8", 8), (3, 3), ("1e3", 1000), ("2k", 2000), ("128974848000m", 128974848)],
)
def test_quantities(text: object, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        (Requirement("gpu", "In", ("h100",)), "gpu=h100"),
        (Requirement("gpu", "In", ("h100", "a100")), "gpu in (h100, a100)"),
        (Requirement("spot", "DoesNotExist"), "!spot"),
        (Requirement("gpu.count", "Gt", ("3",)), "gpu.count>3"),
    ],
)
def test_requirements_read_as_kubectl_writes_them(requirement: Requirement, text: str) -> None:
    assert str(requirement) == text


def test_events_of_both_forms() -> None:
    about = {"kind": "Pod", "name": "vllm-0", "fieldPath": "spec.containers{vllm}"}
    old = event_of(
        {
            "metadata": {"resourceVersion": "17"},
            "involvedObject": about,
            "reason": "BackOff",
            "message": "Back-off\n",
            "type": "Warning",
            "count": 3,
            "firstTimestamp": "2026-01-31T12:00:00Z",
            "lastTimestamp": "2026-01-31T12:00:30Z",
        }
    )
    assert (old.container, old.count, old.last_s - old.first_s, old.message, old.version) == ("vllm", 3, 30.0, "Back-off", 17)
    new = event_of(
        {
            "metadata": {},
            "involvedObject": {"kind": "Pod", "name": "vllm-0"},
            "reason": "FailedScheduling",
            "type": "Warning",
            "eventTime": "2026-01-31T12:00:00.250000Z",
            "series": {"count": 2, "lastObservedTime": "2026-01-31T12:00:01.250000Z"},
        }
    )
    assert (new.container, new.count, new.last_s - new.first_s) == ("", 2, 1.0)


def test_what_makes_pods() -> None:
    meta = {"name": "vllm", "namespace": "team"}
    assert controller_of({"kind": "StatefulSet", "metadata": meta, "spec": {}}).replicas == 1
    assert controller_of({"kind": "Deployment", "metadata": meta, "spec": {"replicas": 0, "paused": True}}).is_paused
    job = controller_of({"kind": "Job", "metadata": meta, "spec": {"suspend": True, "parallelism": 2}})
    assert (job.is_suspended, job.replicas) == (True, 2)
    assert controller_of({"kind": "InferenceService", "metadata": meta, "spec": {}}).replicas is None


def test_nodes_and_claims() -> None:
    node = node_of(
        {
            "metadata": {"name": "node1", "labels": {"zone": "a"}},
            "spec": {"unschedulable": True, "taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"nvidia.com/gpu": "8", "memory": "1Gi"}},
        }
    )
    assert node.is_cordoned
    assert node.has_accelerators
    assert [str(taint) for taint in node.taints] == ["gpu=yes:NoSchedule"]
    assert str(Taint("gpu", "", "NoExecute")) == "gpu:NoExecute"
    assert claim_of({"metadata": {"name": "weights"}, "spec": {"storageClassName": "fast"}}).storage_class == "fast"
