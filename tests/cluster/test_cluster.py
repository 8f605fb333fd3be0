"""What tests may rely on: pods run, GPUs are counted, volumes are made, and a lost API server comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_llmperf.units import parse_bytes
from tests.cluster.cluster import Cluster
from tests.cluster.components import GPU_LABELS, GPU_RESOURCES, NODE, PAUSE_IMAGE
from tests.cluster.init import MEMORY_KIB, MIN_CPUS
from tests.cluster.objects import Object, listed, pod, service

SLEEP = ("sleep", "infinity")


def apply(cluster: Cluster, namespace: str, *objects: Object) -> None:
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(listed(*objects)))


def await_condition(cluster: Cluster, namespace: str, what: str, condition: str) -> None:
    cluster.kubectl("wait", what, f"--for={condition}", f"--namespace={namespace}", "--timeout=60s")


def read(cluster: Cluster, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", *words, "--output=json"))
    return found


def test_the_node_says_what_a_node_with_gpus_says(cluster: Cluster) -> None:
    node = read(cluster, "node", NODE)
    assert GPU_LABELS.items() <= node["metadata"]["labels"].items()
    allocatable = node["status"]["allocatable"]
    assert GPU_RESOURCES.items() <= allocatable.items()
    assert int(allocatable["cpu"]) >= MIN_CPUS
    assert parse_bytes(allocatable["memory"]) > 0.99 * MEMORY_KIB * 2**10


def test_a_pod_runs_to_its_end(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, pod("hello", ["sh", "-c", "echo hello; exit 3"]))
    await_condition(cluster, namespace, "pod/hello", "jsonpath={.status.phase}=Failed")
    assert cluster.kubectl("logs", "hello", f"--namespace={namespace}") == "hello\n"
    (status,) = read(cluster, "pod", "hello", f"--namespace={namespace}")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 3


@pytest.mark.parametrize("resource", sorted(GPU_RESOURCES))
def test_a_pod_gets_gpus(cluster: Cluster, namespace: str, resource: str) -> None:
    apply(cluster, namespace, pod("gpu", SLEEP, {resource: GPU_RESOURCES[resource]}, nodeSelector=GPU_LABELS))
    await_condition(cluster, namespace, "pod/gpu", "condition=Ready")


def test_a_pod_that_asks_for_more_gpus_than_there_are_waits(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, pod("greedy", SLEEP, {"nvidia.com/gpu": "9"}))
    await_condition(cluster, namespace, "pod/greedy", "condition=PodScheduled=false")
    status = read(cluster, "pod", "greedy", f"--namespace={namespace}")["status"]
    assert status["phase"] == "Pending"
    assert "Insufficient nvidia.com/gpu" in status["conditions"][0]["message"]


def test_gpus_that_another_pod_has_are_not_free(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, pod("first", SLEEP, {"nvidia.com/gpu": "6"}))
    await_condition(cluster, namespace, "pod/first", "condition=Ready")
    apply(cluster, namespace, pod("second", SLEEP, {"nvidia.com/gpu": "3"}))
    await_condition(cluster, namespace, "pod/second", "condition=PodScheduled=false")
    cluster.kubectl("delete", "pod", "first", f"--namespace={namespace}", "--now")
    await_condition(cluster, namespace, "pod/second", "condition=Ready")


def test_a_pod_of_another_product_finds_no_node(cluster: Cluster, namespace: str) -> None:
    selector = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    apply(cluster, namespace, pod("elsewhere", SLEEP, {"nvidia.com/gpu": "1"}, nodeSelector=selector))
    await_condition(cluster, namespace, "pod/elsewhere", "condition=PodScheduled=false")


def test_an_image_that_the_node_does_not_have_is_told_at_once(cluster: Cluster, namespace: str) -> None:
    container = {"name": "main", "image": "registry.example/nothing:1"}
    apply(cluster, namespace, pod("imageless", SLEEP, containers=[container]))
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImagePull"
    await_condition(cluster, namespace, "pod/imageless", reason)


def test_pods_reach_a_service_that_leads_to_another_pod_or_to_themselves(cluster: Cluster, namespace: str) -> None:
    serve = ["sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
    server = pod("web", serve)
    labelled: Object = {**server, "metadata": {"name": "web", "labels": {"app": "web"}}}
    apply(cluster, namespace, labelled, service("web", 8080), pod("client", SLEEP))
    for name in ("web", "client"):
        await_condition(cluster, namespace, f"pod/{name}", "condition=Ready")
    address = cluster.kubectl("get", "service", "web", f"--namespace={namespace}", "--output=jsonpath={.spec.clusterIP}")
    fetch = f"until wget -q -O - http://{address}:8080/; do sleep 0.1; done"  # kube-proxy may not have heard of it yet
    for name in ("client", "web"):
        assert cluster.kubectl("exec", name, f"--namespace={namespace}", "--", "timeout", "60", "sh", "-c", fetch) == "hello\n"


def test_a_claim_gets_a_volume(cluster: Cluster, namespace: str) -> None:
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "60Gi"}}},
    }
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    mount = {"name": "models", "mountPath": "/models"}
    command = ["sh", "-c", "echo weights > /models/weights && cat /models/weights"]
    container = {"name": "main", "image": PAUSE_IMAGE, "command": command, "volumeMounts": [mount]}
    apply(cluster, namespace, claim, pod("reader", [], containers=[container], volumes=[volume]))
    await_condition(cluster, namespace, "pod/reader", "jsonpath={.status.phase}=Succeeded")
    assert cluster.kubectl("logs", "reader", f"--namespace={namespace}") == "weights\n"


def test_a_pod_outlives_the_api_server(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, pod("steady", SLEEP))
    await_condition(cluster, namespace, "pod/steady", "condition=Ready")
    before = read(cluster, "pod", "steady", f"--namespace={namespace}")["status"]["containerStatuses"]
    cluster.stop("kube-apiserver")
    assert not cluster.api.is_ready()
    cluster.start("kube-apiserver")
    cluster.await_true("the API server is ready again", cluster.api.is_ready)
    assert read(cluster, "pod", "steady", f"--namespace={namespace}")["status"]["containerStatuses"] == before
    assert cluster.kubectl("exec", "steady", f"--namespace={namespace}", "--", "echo", "here") == "here\n"
