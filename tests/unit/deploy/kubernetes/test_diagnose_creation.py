"""Pods that are to be there: what forbids them, what they wait for, and that nothing makes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis
from pytest_llmperf.deploy.kubernetes.ready.pods import Condition
from tests.unit.deploy.kubernetes.seen_objects import REPLICA_SET, WORKLOAD, fault, patience, said, seen, wait

QUOTA = (
    'pods "vllm-6d4-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1,requests.memory=24Gi, '
    "used: requests.nvidia.com/gpu=8,requests.memory=1Gi, limited: requests.nvidia.com/gpu=8,requests.memory={memory}"
)
CONSTRAINT = (
    'pods "vllm-6d4-" is forbidden: unable to validate against any security context constraint: [provider "anyuid": Forbidden: '
    "not usable by user or serviceaccount, provider restricted-v2: .spec.securityContext.fsGroup: Invalid value: []int64{1000}: "
    '1000 is not an allowed group, provider "privileged": Forbidden: not usable by user or serviceaccount]'
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
        (CONSTRAINT, "the pods cannot be made: unable to validate against any security context constraint: "),
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


def test_a_quota_that_the_deployment_alone_exceeds_is_no_queue() -> None:
    failure = Condition("ReplicaFailure", True, "FailedCreate", QUOTA.format(memory="1Ti"))
    nine = replace(REPLICA_SET, replicas=9, conditions=(failure,))
    found = fault(seen(controllers=(nine,)))
    assert found.cause.startswith("the pods cannot be made: the quota 'gpus' has no room: ")
    assert found.details == ("each of 9 pods asks for that", "ReplicaSet vllm-6d4")
    assert wait(seen(controllers=(replace(nine, replicas=8),))).queue


def test_what_pod_security_forbids_is_told_line_by_line() -> None:
    failure = Condition("ReplicaFailure", True, "FailedCreate", SECURITY)
    found = fault(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    assert found.details[:2] == ("runAsNonRoot != true (pod must set a, b)", "seccompProfile (pod must set c)")


def test_a_service_account_may_still_come() -> None:
    message = 'pods "vllm" is forbidden: error looking up service account team/default: serviceaccount "default" not found'
    assert_passing(message)


def test_openshift_may_not_have_prepared_a_new_namespace_yet() -> None:
    missing = "unable to find annotation openshift.io/sa.scc.uid-range"
    assert_passing(f'pods "vllm-6d4-" is forbidden: error fetching namespace "team": {missing}')


def test_what_openshift_forbids_has_its_own_way_out() -> None:
    failure = Condition("ReplicaFailure", True, "FailedCreate", CONSTRAINT)
    found = fault(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    assert found.hint.startswith("Take runAsUser, runAsGroup and fsGroup out of the manifest's securityContext")


def test_a_quota_may_not_be_counted_yet() -> None:
    assert_passing('pods "vllm" is forbidden: status unknown for quota: gpus, resources: requests.nvidia.com/gpu')


def test_a_webhook_that_is_away_may_come_back_and_is_not_the_manifests_fault() -> None:
    message = 'Internal error occurred: failed calling webhook "gate.example": Post "https://a": connection refused'
    found = assert_passing(message, within_s=8.0)
    assert found.cause == "the pods cannot be made: the admission webhook 'gate.example' does not answer"
    assert found.details[0] == 'Post "https://a": connection refused'
    assert "manifest" not in found.hint


def test_a_webhook_whose_time_ran_out_once_is_asked_again() -> None:
    assert_passing('Internal error occurred: failed calling webhook "gate.example": Post "https://a": context deadline exceeded')


def assert_passing(message: str, within_s: float = 30.0) -> Diagnosis:
    failure = Condition("ReplicaFailure", True, "FailedCreate", message)
    waiting = wait(seen(controllers=(replace(REPLICA_SET, conditions=(failure,)),)))
    seconds, found = patience(waiting, "not made")
    assert seconds == within_s
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
