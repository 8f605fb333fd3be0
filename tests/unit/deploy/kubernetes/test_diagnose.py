"""What is seen of pods that have their node -> what they wait for, or why they will never be ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.ready.diagnose import diagnose
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Stage
from pytest_llmperf.deploy.kubernetes.ready.pods import Condition, Container, Ended, Probe
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf, Nodes
from tests.unit.deploy.kubernetes.seen_objects import (
    NODE,
    OOM,
    REPLICA_SET,
    SETTINGS,
    WORKLOAD,
    container,
    fault,
    patience,
    pod,
    said,
    seen,
    wait,
)

IMAGE = "vllm/vllm-openai:v1"
READY = (Condition("Ready", True),)
PULL_FAILED = f'Failed to pull image "{IMAGE}": '


def running(**state: Any) -> Container:
    """A container whose startup probe has succeeded."""
    return container(running_since_s=900.0, is_started=True, **state)


def test_pods_that_are_ready_are_no_trouble() -> None:
    assert diagnose(seen(pod(conditions=READY)), SETTINGS) is None


def test_a_pod_on_its_node_is_told() -> None:
    waiting = wait(seen(pod()))
    assert (waiting.text, waiting.stage) == ("scheduled on node1", Stage.PLACED)


def test_the_least_advanced_pod_is_told_of() -> None:
    first = pod(conditions=READY)
    second = replace(pod(running()), name="vllm-2")
    third = replace(pod(), name="vllm-3")
    assert wait(seen(first, second, third)).text == "1 of 3 pods ready; scheduled on node1"


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("failed to resolve reference: docker.io/x: not found", "there is no such image"),
        ("unexpected status: 401 Unauthorized", "the registry wants other credentials"),
        ("no basic auth credentials", "the registry wants other credentials"),
        ("denied: requested access to the resource is denied", "may not be read without credentials"),
        (
            'denied: Permission "artifactregistry.repositories.downloadArtifacts" denied on resource "a" (or it may not exist)',
            "may not be read without credentials",
        ),
        ("name unknown: The repository with name 'x' does not exist in the registry with id '1'", "there is no such image"),
        ("initializing source docker://x:1: reading manifest 1 in x: manifest unknown", "there is no such image"),
        ("http: server gave HTTP response to HTTPS client", "the registry does not speak TLS"),
        ('Head "https://a": tls: first record does not look like a TLS handshake', "the registry does not speak TLS"),
        ("tls: failed to verify certificate: x509: certificate signed by", "the node does not trust the registry's certificate"),
        ("pull access denied, repository does not exist or may require authorization", "may not be read without credentials"),
        ("dial tcp: lookup registry on 10.0.0.1:53: no such host", "the registry cannot be reached"),
        ("no match for platform in manifest", "it is not made for the node's kind of processor"),
        ("write /var/lib: no space left on device", "the node's disk is full"),
        ("the moon is full", "the moon is full"),
    ],
)
def test_an_image_that_cannot_be_pulled(message: str, cause: str) -> None:
    backed_off = container(
        waiting="ImagePullBackOff", waiting_message=f'Back-off pulling image "{IMAGE}": ErrImagePull: {message}'
    )
    found = fault(seen(pod(backed_off)))
    assert found.cause.startswith(f"the image {IMAGE} cannot be pulled: ")
    assert found.cause.endswith(cause)


def test_one_failure_to_pull_may_pass() -> None:
    failed = pod(container(waiting="ErrImagePull", waiting_message="rpc error: code = Unknown desc = i/o timeout"))
    event = said("Failed", PULL_FAILED + "not found")
    assert wait(seen(failed, events=(event,))).text == f"pulling {IMAGE} has failed once (the registry cannot be reached)"
    known = pod(container(waiting="ErrImagePull", waiting_message="not found"))
    assert fault(seen(known, events=(replace(event, count=2),))).cause.startswith(f"the image {IMAGE} cannot be pulled")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("pulling from host a failed with status code [manifests 1]: 429 Too Many Requests", "the registry limits how often"),
        ("unexpected status from HEAD request to https://a: 503 Service Unavailable", "the registry has trouble of its own"),
        ("dial tcp 10.0.0.1:443: i/o timeout", "the registry cannot be reached"),
        ("failed to copy: httpReadSeeker: failed open: unexpected EOF", "the registry cannot be reached"),
    ],
)
def test_what_a_registry_may_get_over_is_certain_after_some_tries(message: str, why: str) -> None:
    backed_off = pod(container(waiting="ImagePullBackOff", waiting_message=message))
    event = said("Failed", PULL_FAILED + message, count=3)
    back_off = said("BackOff", f'Back-off pulling image "{IMAGE}"')
    waiting = wait(seen(backed_off, events=(event, back_off)))
    assert waiting.text == f"pulling {IMAGE} has failed 3 times ({why})"
    assert patience(waiting, "pull")[0] == 300.0
    again = wait(seen(backed_off, events=(event, back_off, said("Pulling", f"Pulling image {IMAGE}"))))
    assert [one.state for one in again.patience] == ["starting of vllm-1"], "a large image takes its time"
    assert fault(seen(backed_off, events=(replace(event, count=4), back_off))).cause.endswith(why)


def test_a_pull_that_has_succeeded_after_all_is_no_fault() -> None:
    backed_off = pod(container(waiting="ImagePullBackOff", waiting_message="not found"))
    events = (
        said("Failed", PULL_FAILED + "not found", count=2),
        said("BackOff", f'Back-off pulling image "{IMAGE}"'),
        said("Pulling", f"Pulling image {IMAGE}"),
        said("Pulled", f"Successfully pulled image {IMAGE} in 3s"),
    )
    assert wait(seen(backed_off, events=events)).text == "scheduled on node1"


def test_the_events_of_a_back_off_come_before_the_pods_own_state() -> None:
    events = (said("Pulling", f"Pulling image {IMAGE}"), said("Failed", PULL_FAILED + "not found"))
    backed_off = said("BackOff", f'Back-off pulling image "{IMAGE}"')
    found = fault(seen(pod(container(waiting="ContainerCreating")), events=(*events, backed_off)))
    assert found.details[-1] == "not found"


def test_an_image_is_pulled() -> None:
    event = said("Pulling", f"Pulling image {IMAGE}")
    waiting = wait(seen(pod(container(waiting="ContainerCreating")), events=(event,)))
    assert (waiting.text, waiting.stage) == (f"pulling {IMAGE}", Stage.PULLING)


@pytest.mark.parametrize(
    ("reason", "cause"), [("InvalidImageName", "not an image's name"), ("ErrImageNeverPull", "may not pull it")]
)
def test_images_that_are_certain_at_once(reason: str, cause: str) -> None:
    assert cause in fault(seen(pod(container(waiting=reason)))).cause


@pytest.mark.parametrize(
    ("message", "cause", "hint"),
    [
        ('secret "hf-token" not found', 'secret "hf-token" not found', "kubectl create secret generic hf-token --namespace=team"),
        (
            "couldn't find key token in Secret team/hf-token",
            "couldn't find key token",
            "Add the key token to the Secret hf-token",
        ),
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


def test_a_first_crash_is_told_and_a_second_is_certain() -> None:
    once = container(ended=Ended(3, "Error"))
    waiting = wait(seen(pod(once)))
    assert waiting.text == "container vllm ended with exit code 3, and is started again"
    assert waiting.log == LogOf("vllm-1", "vllm")
    again = running(last=Ended(3, "Error"), restarts=1)
    assert wait(seen(pod(again))).text == "running, not ready; before, container vllm ended with exit code 3"
    twice = fault(seen(pod(container(waiting="CrashLoopBackOff", last=Ended(3, "Error"), restarts=1))))
    assert twice.cause == "container vllm ended with exit code 3 (2 times)"
    assert twice.log == LogOf("vllm-1", "vllm")


def test_a_crash_that_the_log_explains_is_certain_at_once() -> None:
    log = {LogOf("vllm-1", "vllm"): "INFO up\ntorch.OutOfMemoryError: CUDA out of memory. Tried\nmore"}
    found = fault(seen(pod(container(ended=Ended(1, "Error"))), logs=log))
    assert found.cause == "the engine ran out of the GPU's memory"
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried" in found.details
    assert "--max-model-len" in found.hint


def test_a_crash_before_it_was_ready_is_forgotten() -> None:
    served = running(is_ready=True, last=OOM, restarts=3)
    assert diagnose(seen(pod(served, conditions=READY)), SETTINGS) is None


def test_out_of_memory_is_certain_at_once_and_names_the_limit() -> None:
    found = fault(seen(pod(container(ended=OOM, memory_limit="24Gi"))))
    assert found.cause == "container vllm was killed for using more memory than its limit of 24Gi (OOMKilled)"


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (Ended(0), "ended with exit code 0"),
        (Ended(139), "was killed by SIGSEGV (exit code 139)"),
        (Ended(255), "ended with exit code 255"),
    ],
)
def test_how_a_container_ended(ended: Ended, how: str) -> None:
    assert fault(seen(pod(container(last=ended, waiting="CrashLoopBackOff")))).cause == f"container vllm {how}"


def test_an_init_container_that_fails_is_named() -> None:
    download = container("download", is_init=True, last=Ended(6), waiting="CrashLoopBackOff", restarts=1)
    assert fault(seen(pod(download, container(waiting="PodInitializing")))).cause.startswith("init container download ended")


def test_an_init_container_at_work_and_done() -> None:
    download = container("download-weights", is_init=True, running_since_s=1.0)
    assert wait(seen(pod(download, container(waiting="PodInitializing")))).text == "downloading weights"
    done = container("download-weights", is_init=True, ended=Ended(0, "Completed"))
    assert wait(seen(pod(done, container(waiting="PodInitializing")))).stage is Stage.PREPARING


def test_a_startup_probe_counts_and_its_kill_is_certain() -> None:
    starting = container(running_since_s=940.0, startup=Probe(5.0, 360))
    assert wait(seen(pod(starting))).text == "starting (startup probe: 12/360)"
    log = {LogOf("vllm-1", "vllm"): "Loading safetensors checkpoint shards:  25% Completed | 1/4"}
    assert wait(seen(pod(starting), logs=log)).text == "loading weights 25% (startup probe: 12/360)"
    events = (
        said("Unhealthy", "Startup probe failed: HTTP probe failed with statuscode: 503"),
        said("Killing", "Container vllm failed startup probe, will be restarted"),
    )
    found = fault(seen(pod(starting), events=events))
    assert found.cause == "container vllm did not pass its startup probe within 30m, and was ended"
    assert "its last answer: HTTP probe failed with statuscode: 503" in found.details


def test_a_liveness_probe_that_kills_what_starts() -> None:
    events = (said("Killing", "Container vllm failed liveness probe, will be restarted"),)
    assert "failed its liveness probe before it was ready" in fault(seen(pod(running()), events=events)).cause


def test_a_readiness_probe_is_progress_until_the_time_is_over() -> None:
    events = (said("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404"),)
    waiting = wait(seen(pod(running()), events=events))
    assert waiting.text == "running, not ready: HTTP probe failed with statuscode: 404"
    seconds, late = patience(waiting, "starting")
    assert seconds == SETTINGS.ready_timeout_s
    assert late.cause == "the pods were not ready within 30m"
    assert late.details[0] == f"the last state: {waiting.text}"


def test_a_pod_that_waits_for_a_gate_of_its_own() -> None:
    ready = running(is_ready=True)
    conditions = (Condition("Ready", False), Condition("example.com/lb-ready", False))
    assert wait(seen(pod(ready, conditions=conditions))).text == "running, waits for example.com/lb-ready"


def test_a_pod_that_was_evicted() -> None:
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
    assert fault(seen(evicted)).cause == "the pod was evicted: The node was low on resource: ephemeral-storage."


def test_a_pod_that_its_node_refused() -> None:
    refused = pod(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed due to no healthy devices")
    waiting = wait(seen(refused))
    assert waiting.text.endswith("was not taken by the node node1 (UnexpectedAdmissionError), another one is to come")
    others = (replace(refused, name="vllm-2"), replace(refused, name="vllm-3"))
    found = fault(seen(refused, *others))
    assert found.cause.startswith("the node node1 did not take the pod: UnexpectedAdmissionError: Allocate failed")
    alone = fault(seen(replace(refused, owner=("", ""))))
    assert alone.cause == found.cause


def test_a_spot_node_that_ends_takes_its_pod_along_and_another_comes() -> None:
    target = Condition("DisruptionTarget", True, "TerminationByKubelet", "Pod was terminated in response to node shutdown.")
    ended = pod(phase="Failed", reason="Terminated", message="Pod was terminated", conditions=(target,))
    seconds, found = patience(wait(seen(ended)), "another")
    assert (seconds, found.cause.partition(",")[0]) == (600.0, "no pod has come for vllm-1")
    second = replace(pod(running()), name="vllm-2")
    assert wait(seen(ended, second)).text == "running, not ready"
    assert "was ended by its node" in fault(seen(replace(ended, owner=("", "")))).cause


def test_a_pod_that_goes_and_has_another_in_its_place_hides_nothing() -> None:
    gone = pod(is_deleted=True)
    assert wait(seen(gone, replace(pod(), name="vllm-2"))).text == "scheduled on node1"
    seconds, found = patience(wait(seen(gone)), "another")
    assert (seconds, found.cause) == (600.0, "no pod has come for vllm-1, which is deleted")


def test_each_pod_has_its_own_patience() -> None:
    two = replace(WORKLOAD, replicas=2)
    placed, held = pod(running()), replace(pod(node=""), name="vllm-2")
    waiting = wait(seen(placed, held, workload=two))
    assert waiting.text == "0 of 2 pods ready; waiting for the scheduler"
    assert [one.state for one in waiting.patience] == ["starting of vllm-1", "unscheduled of vllm-2"]


def test_a_server_that_has_ended_is_not_waited_for() -> None:
    done = pod(container(ended=Ended(0, "Completed")), phase="Succeeded", owner=("Job", "serve"))
    assert fault(seen(done, workload=replace(WORKLOAD, kind="Job", name="serve"))).cause == "the pod vllm-1 has ended"


def test_a_pod_that_was_preempted_is_waited_for_anew() -> None:
    target = Condition("DisruptionTarget", True, "PreemptionByScheduler", "preempted by team/other")
    waiting = wait(seen(pod(is_deleted=True, conditions=(target,))))
    assert waiting.stage is Stage.ABSENT
    assert "was preempted by a pod of a higher priority: preempted by team/other" in waiting.text


def test_a_node_that_is_not_heard_of() -> None:
    silent = Nodes((replace(NODE, conditions=(Condition("Ready", False, "NodeStatusUnknown"),)),), ())
    events = (said("NodeNotReady", "Node is not ready"),)
    seconds, lost = patience(wait(seen(pod(running()), events=events, nodes=silent)), "node")
    assert (seconds, lost.cause) == (60.0, "the node node1 is not ready any more")


@pytest.mark.parametrize(
    ("reason", "message"),
    [("NodeNotReady", "Node is not ready"), ("TaintManagerEviction", "Cancelling deletion of Pod team/vllm-1")],
)
def test_a_node_that_is_heard_of_again_is_no_trouble(reason: str, message: str) -> None:
    """Nobody says of the pod that it is: this stays the last event."""
    events = (said(reason, message),)
    assert wait(seen(pod(running()), events=events, nodes=Nodes((NODE,), ()))).text == "running, not ready"
    assert wait(seen(pod(running()), events=events)).text == "running, not ready", "nodes that may not be read"


def test_a_volume_that_cannot_be_mounted() -> None:
    events = (said("FailedMount", 'MountVolume.SetUp failed for volume "spec" : configmap "settings" not found', ""),)
    seconds, found = patience(wait(seen(pod(), events=events)), "FailedMount")
    assert (seconds, found.cause) == (20.0, 'a volume of the pod cannot be mounted: configmap "settings" not found')
    assert found.hint.startswith("Create the configmap settings in the namespace team")
    mounted = pod(conditions=(Condition("PodReadyToStartContainers", True),))
    assert wait(seen(mounted, events=events)).text == "scheduled on node1"
    elsewhere = said("FailedAttachVolume", "Multi-Attach error for volume x: already exclusively attached to one node", "")
    assert patience(wait(seen(pod(), events=(elsewhere,))), "FailedAttachVolume")[0] == 480.0


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ('plugin type="calico" failed (add): failed to setup network for sandbox', "the pod's network cannot be set up"),
        ("failed to create containerd task: failed to start shim: exit status 1", "the node cannot set the pod up"),
    ],
)
def test_a_sandbox_that_cannot_be_made(message: str, what: str) -> None:
    event = said("FailedCreatePodSandBox", f"Failed to create pod sandbox: rpc error: code = Unknown desc = {message}", "")
    assert patience(wait(seen(pod(), events=(event,))), "FailedCreatePodSandBox")[1].cause.startswith(what)


def test_a_pod_of_a_job_may_be_made_anew() -> None:
    failed = pod(container(ended=Ended(2)), phase="Running", owner=("Job", "download"), restart_policy="Never")
    seconds, found = patience(wait(seen(failed)), "job download")
    assert (seconds, found.cause) == (15.0, "container vllm ended with exit code 2")
    second = replace(failed, name="vllm-2")
    assert fault(seen(failed, second)).cause == "container vllm ended with exit code 2"
    third = replace(pod(running()), name="vllm-3", owner=failed.owner)
    assert wait(seen(replace(failed, phase="Failed"), third)).text == "running, not ready"
    given_up = replace(WORKLOAD, kind="Job", name="download", conditions=(Condition("Failed", True, "BackoffLimitExceeded"),))
    assert fault(seen(failed, workload=given_up)).cause == "container vllm ended with exit code 2"


QUOTA = (
    'pods "vllm-6d4-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1,requests.memory=24Gi, '
    "used: requests.nvidia.com/gpu=8,requests.memory=1Gi, limited: requests.nvidia.com/gpu=8,requests.memory={memory}"
)
SECURITY = (
    'pods "vllm" is forbidden: violates PodSecurity "restricted:v1": runAsNonRoot != true (pod must set a, b), '
    "seccompProfile (pod must set c)"
)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (QUOTA.format(memory="23Gi"), "the pods cannot be made: the quota 'gpus' has no room"),
        (SECURITY, "the namespace's Pod Security level 'restricted:v1' forbids the pods"),
        (
            'admission webhook "gate.example" denied the request: no team label',
            "the pods cannot be made: the admission webhook 'gate.example'",
        ),
        (
            'pods "vllm" is forbidden: no PriorityClass with name high was found',
            "the pods cannot be made: no PriorityClass with name high was found",
        ),
    ],
)
def test_pods_that_nobody_may_make(message: str, cause: str) -> None:
    failure = Condition("ReplicaFailure", True, "FailedCreate", message)
    found = fault(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    assert found.cause.startswith(cause)
    event = said("FailedCreate", f"Error creating: {message}", kind="ReplicaSet", name="vllm-6d4")
    assert fault(seen(events=(event,))).cause.startswith(cause)


def test_a_quota_that_others_use_is_waited_for() -> None:
    failure = Condition("ReplicaFailure", True, "FailedCreate", QUOTA.format(memory="1Ti"))
    waiting = wait(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    assert waiting.queue
    assert waiting.text.startswith("waiting for room in the quota 'gpus': requested requests.nvidia.com/gpu=1,")
    seconds, found = patience(waiting, "queue")
    assert (seconds, found.cause) == (3600.0, "waited 60m for room in the quota 'gpus'")


def test_what_pod_security_forbids_is_told_line_by_line() -> None:
    failure = Condition("ReplicaFailure", True, "FailedCreate", SECURITY)
    found = fault(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    assert found.details[:2] == ("runAsNonRoot != true (pod must set a, b)", "seccompProfile (pod must set c)")


def test_a_service_account_may_still_come() -> None:
    message = 'pods "vllm" is forbidden: error looking up service account team/default: serviceaccount "default" not found'
    assert_passing(message)


def test_a_quota_may_not_be_counted_yet() -> None:
    assert_passing('pods "vllm" is forbidden: status unknown for quota: gpus, resources: requests.nvidia.com/gpu')


def test_a_webhook_that_is_away_may_come_back_and_is_not_the_manifests_fault() -> None:
    found = assert_passing('Internal error occurred: failed calling webhook "gate.example": Post "https://a": connection refused')
    assert found.cause.startswith("the pods cannot be made: the admission webhook 'gate.example' does not answer: ")
    assert "manifest" not in found.hint


def assert_passing(message: str) -> Diagnosis:
    failure = Condition("ReplicaFailure", True, "FailedCreate", message)
    waiting = wait(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    seconds, found = patience(waiting, "not made")
    assert seconds == 30.0
    return found


def test_pods_that_nothing_makes() -> None:
    _, found = patience(wait(seen()), "no pods")
    assert found.cause == "nothing makes the pods of the Deployment vllm"
    _, found = patience(wait(seen(workload=replace(WORKLOAD, replicas=0))), "no pods")
    assert found.cause == "the Deployment vllm asks for no pods"
    _, found = patience(wait(seen(workload=None)), "no workload")
    assert found.cause == "the engine's workload is gone"
    operated = replace(WORKLOAD, kind="LLMInferenceService", replicas=None)
    assert patience(wait(seen(workload=operated)), "no pods")[0] == 180.0


def test_an_error_has_a_line_for_each_fact_and_repeats_none() -> None:
    reasons = ("Unhealthy", "Odd", "Odder", "Unhealthy", "Oddest")
    events = tuple(said(reason, f"Readiness probe failed: {number}") for number, reason in enumerate(reasons))
    _, late = patience(wait(seen(pod(running()), events=events)), "starting")
    assert late.text.splitlines() == [
        "the pods were not ready within 30m",
        "  the last state: running, not ready: 3",
        "  pod vllm-1 on node1",
        "  event: Odder pod/vllm-1: Readiness probe failed: 2",
        "  event: Unhealthy pod/vllm-1: Readiness probe failed: 3",
        "  event: Oddest pod/vllm-1: Readiness probe failed: 4",
    ]
