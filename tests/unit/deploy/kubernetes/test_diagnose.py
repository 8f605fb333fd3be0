"""What is seen of pods that have their node -> what they wait for, or why they will never be ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.ready.diagnose import diagnose
from pytest_llmperf.deploy.kubernetes.ready.findings import Stage
from pytest_llmperf.deploy.kubernetes.ready.pods import Condition, Container, Ended, Probe
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf, Nodes
from tests.unit.deploy.kubernetes.seen_objects import (
    NODE,
    OOM,
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

READY = (Condition("Ready", True),)


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
    assert late.hint.startswith("Its readiness probe does not pass: ")
    _, late = patience(wait(seen(pod())), "starting")
    assert late.hint == "Waited 30m; --llmperf-ready-timeout sets more."


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
