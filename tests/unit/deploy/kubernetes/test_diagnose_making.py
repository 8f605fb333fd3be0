"""Containers that cannot be made on their node: what they name is missing, their volumes, their network, their program."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.deploy.kubernetes.ready.pods import Condition, Ended, Pod
from tests.unit.deploy.kubernetes.seen_objects import container, fault, patience, pod, said, seen, unschedulable, wait


@pytest.mark.parametrize(
    ("message", "cause", "hint"),
    [
        ("invalid container name", "invalid container name", "Correct the container in the manifest"),
        (
            'container has runAsNonRoot and image will run as root (pod: "vllm-1_team(uid)", container: vllm)',
            "container has runAsNonRoot and image will run as root",
            "runAsUser",
        ),
    ],
)
def test_a_container_that_cannot_be_made(message: str, cause: str, hint: str) -> None:
    found = fault(seen(pod(container(waiting="CreateContainerConfigError", waiting_message=message))))
    assert found.cause.startswith("container vllm cannot be started: " + cause)
    assert "pod:" not in found.cause
    assert hint in found.hint


@pytest.mark.parametrize(
    ("here", "cause", "hint"),
    [
        (
            pod(container(waiting="CreateContainerConfigError", waiting_message='secret "hf-token" not found')),
            'container vllm cannot be started: secret "hf-token" not found',
            "Create it (`kubectl create secret generic hf-token --namespace=team ",
        ),
        (
            pod(
                container(waiting="CreateContainerConfigError", waiting_message="couldn't find key token in Secret team/hf-token")
            ),
            "container vllm cannot be started: couldn't find key token in Secret team/hf-token",
            "Add the key token to the Secret hf-token",
        ),
        (
            "references non-existent secret key: token",
            "a volume of the pod cannot be mounted: references non-existent secret key: token",
            "Add the key to the object that the volume names",
        ),
        (
            'configmap "settings" not found',
            'a volume of the pod cannot be mounted: configmap "settings" not found',
            "Create it (`kubectl create configmap settings --namespace=team ",
        ),
        (
            "hostPath type check failed: /models is not a directory",
            "a volume of the pod cannot be mounted: hostPath type check failed: /models is not a directory",
            "Make the folder on the node, writable by the pod's user",
        ),
        (
            unschedulable('0/1 nodes are available: persistentvolumeclaim "weights" not found.', claims=("weights",)),
            "there is no PersistentVolumeClaim 'weights'",
            "Create the claim in the namespace team",
        ),
    ],
)
def test_what_is_missing_may_come_for_a_moment_whatever_names_it(here: Pod | str, cause: str, hint: str) -> None:
    events = () if isinstance(here, Pod) else (said("FailedMount", f'MountVolume.SetUp failed for volume "spec" : {here}', ""),)
    waiting = wait(seen(here if isinstance(here, Pod) else pod(), events=events))
    seconds, found = patience(waiting, "missing")
    assert seconds == 5.0
    assert found.cause == cause
    assert found.hint.startswith(hint)


def test_trouble_of_the_node_may_pass() -> None:
    waiting = wait(seen(pod(container(waiting="CreateContainerError", waiting_message="context deadline exceeded"))))
    assert patience(waiting, "CreateContainerError")[0] == 30.0


def test_a_program_that_is_not_there() -> None:
    message = (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        'unable to start container process: exec: "vllm": executable file not found in $PATH: unknown'
    )
    found = fault(seen(pod(container(ended=Ended(128, "StartError", message)))))
    assert found.cause == 'container vllm cannot be started: exec: "vllm": executable file not found in $PATH'


def test_a_runtime_that_restarts_may_start_it_the_next_time() -> None:
    message = "failed to create containerd task: connection error: error while dialing: dial unix /run/containerd.sock"
    once = container(ended=Ended(128, "StartError", message))
    assert wait(seen(pod(once))).text == "container vllm ended with exit code 128, and is started again"
    assert fault(seen(pod(replace(once, restarts=1)))).cause.startswith("container vllm cannot be started: ")


def test_a_volume_that_cannot_be_mounted() -> None:
    events = (said("FailedMount", 'MountVolume.SetUp failed for volume "spec" : mount failed: exit status 32', ""),)
    seconds, found = patience(wait(seen(pod(), events=events)), "volumes")
    assert (seconds, found.cause) == (240.0, "a volume of the pod cannot be mounted: mount failed: exit status 32")
    of_the_cluster = said("FailedMount", 'MountVolume.SetUp failed for volume "api" : configmap "kube-root-ca.crt" not found', "")
    assert patience(wait(seen(pod(), events=(of_the_cluster,))), "volumes")[0] == 240.0
    mounted = pod(conditions=(Condition("PodReadyToStartContainers", True),))
    assert wait(seen(mounted, events=events)).text == "scheduled on node1"


def test_a_volume_that_another_node_has_is_waited_for_whoever_speaks_of_it_last() -> None:
    attach = said("FailedAttachVolume", "Multi-Attach error for volume x: already exclusively attached to one node", "")
    mount = said("FailedMount", "Unable to attach or mount volumes: timed out waiting for the condition", "")
    for events in ((attach,), (attach, mount), (attach, mount, attach)):
        assert patience(wait(seen(pod(), events=events)), "volumes")[0] == 480.0


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ('plugin type="calico" failed (add): failed to setup network for sandbox', "the pod's network cannot be set up"),
        ("failed to create containerd task: failed to start shim: exit status 1", "the node cannot set the pod up"),
    ],
)
def test_a_sandbox_that_cannot_be_made(message: str, what: str) -> None:
    event = said("FailedCreatePodSandBox", f"Failed to create pod sandbox: rpc error: code = Unknown desc = {message}", "")
    assert patience(wait(seen(pod(), events=(event,))), "sandbox")[1].cause.startswith(what)


def test_a_disk_that_the_nodes_machine_cannot_have_is_certain_at_once() -> None:
    said_of_it = "rpc error: code = Internal desc = googleapi: Error 400: pd-balanced disk type cannot be used by a3-highgpu-8g"
    event = said("FailedAttachVolume", f'AttachVolume.Attach failed for volume "pvc-1" : {said_of_it}', "")
    found = fault(seen(pod(), events=(event,)))
    assert found.cause == f"the node node1 cannot have a volume of this type of disk: {said_of_it}"
    assert found.hint.startswith("Take a storage class with another type of disk")
