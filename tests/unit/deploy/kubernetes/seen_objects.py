"""Deployments as they may be seen, made of as little as a test needs."""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.deploy.kubernetes.ready.diagnose import diagnose
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Waiting
from pytest_llmperf.deploy.kubernetes.ready.pods import Condition, Container, Ended, Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Controller, Event, Node, Seen
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings

SETTINGS = KubernetesSettings(RenderSettings(), "unit0000", ready_timeout_s=1800.0)
GPU = "nvidia.com/gpu"
NODE = Node(
    "node1",
    {"nvidia.com/gpu.product": "NVIDIA-H100"},
    {"cpu": 32.0, "memory": 2.0**38, GPU: 8.0},
    conditions=(Condition("Ready", True),),
)
WORKLOAD = Controller("Deployment", "vllm", replicas=1, namespace="team")
REPLICA_SET = Controller("ReplicaSet", "vllm-6d4", owner=("Deployment", "vllm"), replicas=1, namespace="team")
OOM = Ended(137, "OOMKilled")


def container(name: str = "vllm", **state: object) -> Container:
    """A container that waits to be made, or is otherwise as said."""
    return replace(Container(name, "vllm/vllm-openai:v1"), **state)  # type: ignore[arg-type]


def pod(*containers: Container, **state: object) -> Pod:
    """A pod that has its node, or is otherwise as said."""
    here = Pod("vllm-1", "team", owner=("ReplicaSet", "vllm-6d4"), node="node1", containers=containers or (container(),))
    return replace(here, **state)  # type: ignore[arg-type]


def unschedulable(message: str, **state: object) -> Pod:
    """A pod for which the scheduler has no node."""
    return pod(node="", conditions=(Condition("PodScheduled", False, "Unschedulable", message),), **state)


def said(reason: str, message: str, container: str = "vllm", kind: str = "Pod", name: str = "vllm-1", count: int = 1) -> Event:
    """An event; of a pod it is of its container."""
    return Event(kind, name, reason, message, container=container if kind == "Pod" else "", count=count)


def seen(*pods: Pod, **more: object) -> Seen:
    """One moment of a Deployment."""
    here = Seen(now_s=1000.0, workload=WORKLOAD, controllers=(REPLICA_SET,), pods=pods)
    return replace(here, **more)  # type: ignore[arg-type]


def fault(here: Seen, settings: KubernetesSettings = SETTINGS) -> Diagnosis:
    """What cannot become ready, and why."""
    found = diagnose(here, settings)
    assert isinstance(found, Diagnosis), found
    return found


def wait(here: Seen, settings: KubernetesSettings = SETTINGS) -> Waiting:
    """What it waits for."""
    found = diagnose(here, settings)
    assert isinstance(found, Waiting), found
    return found


def patience(waiting: Waiting, state: str) -> tuple[float, Diagnosis]:
    """How long a state of the pod may last, or of all, and what it is called then."""
    (found,) = (one for one in waiting.patience if one.state.split(" of ")[0] == state)
    return found.seconds, found.then
