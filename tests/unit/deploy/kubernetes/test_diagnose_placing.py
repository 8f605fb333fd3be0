"""Pods without a node: what no node has, what others use, what an autoscaler or a queue is at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.deploy.kubernetes.names import QUEUE
from pytest_llmperf.deploy.kubernetes.ready.capacity import candidates, some, why_no_node
from pytest_llmperf.deploy.kubernetes.ready.pods import PODS, Pod, Requirement, Tolerated
from pytest_llmperf.deploy.kubernetes.ready.seen import Claim, Nodes, Taint
from tests.unit.deploy.kubernetes.seen_objects import (
    GPU,
    NODE,
    SETTINGS,
    WORKLOAD,
    fault,
    patience,
    pod,
    said,
    seen,
    unschedulable,
    wait,
)

MESSAGE = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption victims found."
)
ONE_GPU = {GPU: 1.0}
CPU_NODE = replace(NODE, name="cpu1", labels={"zone": "a"}, allocatable={"cpu": 8.0})


def cause(asking: Pod, *nodes: object, users: tuple[Pod, ...] | None = ()) -> tuple[str, tuple[str, ...], bool]:
    found = why_no_node(asking, Nodes(nodes, users))  # type: ignore[arg-type]
    assert found is not None
    return found.cause, found.details, found.is_queue


def labelled(**labels: str) -> Pod:
    return pod(requests=ONE_GPU, node_selector=tuple(Requirement(key, values=(value,)) for key, value in labels.items()))


def test_a_label_that_no_node_has() -> None:
    wanted = pod(node_selector=(Requirement("nvidia.com/gpu.product", values=("NVIDIA-L40S",)),))
    assert cause(wanted, NODE, CPU_NODE) == (
        "no node has the label nvidia.com/gpu.product=NVIDIA-L40S",
        ("nodes have for it: NVIDIA-H100",),
        False,
    )


def test_a_label_whose_key_no_node_has() -> None:
    told, details, _ = cause(labelled(accelerator="h100"), NODE)
    assert told == "no node has the label accelerator=h100"
    assert details == ("no node has a label accelerator", "nodes with GPUs have: nvidia.com/gpu.product=NVIDIA-H100")
    assert cause(labelled(accelerator="h100"), CPU_NODE)[1][-1] == "no node offers GPUs"


def test_labels_that_no_node_has_together() -> None:
    both = pod(node_selector=(Requirement("zone", values=("a",)), Requirement("nvidia.com/gpu.product", values=("NVIDIA-H100",))))
    assert cause(both, NODE, CPU_NODE) == (
        "no node has all of the labels zone=a and nvidia.com/gpu.product=NVIDIA-H100",
        ("node1 is not zone=a", "cpu1 is not nvidia.com/gpu.product=NVIDIA-H100"),
        False,
    )


def test_node_affinity() -> None:
    either = pod(node_terms=((Requirement("zone", "In", ("b",)),), (Requirement("spot", "Exists"),)))
    assert cause(either, CPU_NODE)[0] == "no node fits the pod's node affinity: zone=b or spot"
    assert candidates(pod(node_terms=((Requirement("zone", "NotIn", ("a",)),),)), [NODE, CPU_NODE]) == (NODE,)
    many = replace(NODE, labels={"gpu.count": "8"})
    assert candidates(pod(node_terms=((Requirement("gpu.count", "Gt", ("4",)),),)), [many, NODE]) == (many,)
    assert candidates(pod(node_terms=((Requirement("gpu.count", "Lt", ("4",)),),)), [many, NODE]) == ()
    assert candidates(pod(node_terms=((Requirement("gpu.count", "DoesNotExist"),),)), [many, NODE]) == (NODE,)


TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        (Tolerated("nvidia.com/gpu", "Exists"), True),
        (Tolerated("nvidia.com/gpu", "Equal", "present", "NoSchedule"), True),
        (Tolerated("", "Exists"), True),
        (Tolerated("nvidia.com/gpu", "Equal", "absent"), False),
        (Tolerated("nvidia.com/gpu", "Exists", effect="NoExecute"), False),
        (Tolerated("other", "Exists"), False),
    ],
)
def test_taints(toleration: Tolerated, tolerates: bool) -> None:
    tainted = replace(NODE, taints=(TAINT, Taint("soft", "", "PreferNoSchedule")))
    asking = pod(requests=ONE_GPU, tolerations=(toleration,))
    assert bool(candidates(asking, [tainted])) is tolerates
    if not tolerates:
        told, details, _ = cause(asking, tainted)
        assert told == "the pod does not tolerate the taints of the nodes that fit"
        assert details == ("node1 has the taint nvidia.com/gpu=present:NoSchedule",)


def test_nodes_that_are_cordoned() -> None:
    assert cause(pod(), replace(NODE, is_cordoned=True))[0] == "every node that fits is cordoned: node1"


def test_more_than_the_largest_node_has() -> None:
    assert cause(pod(requests={GPU: 16.0, "cpu": 4.0}), NODE) == (
        "it asks for 16 nvidia.com/gpu, and the largest node that fits has 8",
        ("nodes have: nvidia.com/gpu 8",),
        False,
    )
    assert cause(pod(requests={"nvidia.com/mig-3g.40gb": 1.0}), NODE)[0].endswith("and no node that fits has any")
    assert (
        cause(pod(requests={"memory": 2.0**39}), NODE)[0] == "it asks for 512Gi memory, and the largest node that fits has 256Gi"
    )


def test_what_others_use() -> None:
    users = (
        replace(pod(requests={GPU: 6.0}), name="big", namespace="team-a"),
        replace(pod(requests={GPU: 2.0}), name="small", namespace="team-b"),
        replace(pod(requests={GPU: 8.0}), name="done", phase="Succeeded"),
        replace(pod(requests={GPU: 8.0}), name="elsewhere", node="node2"),
        replace(pod(requests={"cpu": 1.0}), name="none"),
    )
    told = "1 nvidia.com/gpu: 8 of 8 in use by team-a/big, team-b/small"
    assert cause(pod(requests=ONE_GPU), NODE, CPU_NODE, users=users) == (told, (), True)
    assert cause(pod(requests=ONE_GPU), NODE, users=None) == ("1 nvidia.com/gpu: in use by others", (), True)
    assert why_no_node(pod(requests=ONE_GPU), Nodes((NODE,), ())) is None, "there is room: something else keeps it away"


def test_more_nodes_than_are_looked_at_are_in_use_as_those_are() -> None:
    nodes = [replace(NODE, name=f"node{number:02}") for number in range(40)]
    looked_at = candidates(pod(requests=ONE_GPU), nodes)
    users = tuple(replace(pod(requests={GPU: 8.0}), name=node.name, node=node.name) for node in looked_at)
    assert len(looked_at) == 16
    assert cause(pod(requests=ONE_GPU), *nodes, users=users)[2], "a queue"


def test_what_others_use_is_not_what_keeps_a_pod_that_lacks_something_else() -> None:
    other = "0/1 nodes are available: 1 node(s) had volume node affinity conflict. preemption: no"
    waiting = wait(seen(unschedulable(other, requests=ONE_GPU), nodes=Nodes((NODE,), None)))
    assert not waiting.queue
    assert patience(waiting, "unschedulable")[1].cause.endswith("1 node(s) had volume node affinity conflict")


def test_a_cluster_without_nodes() -> None:
    assert cause(pod())[0] == "the cluster has no nodes"


def test_names_that_are_many_are_counted() -> None:
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_queueing_is_no_fault_and_has_its_own_patience() -> None:
    nodes = Nodes((NODE,), (replace(pod(requests={GPU: 8.0}), name="big"),))
    waiting = wait(seen(unschedulable(MESSAGE, requests=ONE_GPU), nodes=nodes))
    assert (waiting.text, waiting.queue) == ("waiting for 1 nvidia.com/gpu: 8 of 8 in use by team/big", True)
    assert [(one.state, one.seconds) for one in waiting.patience] == [("queue of vllm-1", SETTINGS.queue_timeout_s)]
    assert waiting.patience[0].then.cause == "waited 60m for 1 nvidia.com/gpu: 8 of 8 in use by team/big"


FULL = "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found."


def test_a_node_that_has_as_many_pods_as_it_takes_is_queued_for() -> None:
    asking = unschedulable(FULL, requests={"cpu": 1.0, PODS: 1.0})
    full = replace(NODE, allocatable={**NODE.allocatable, PODS: 2.0})
    users = tuple(replace(pod(requests={PODS: 1.0}), name=name) for name in ("a", "b"))
    waiting = wait(seen(asking, nodes=Nodes((full,), users)))
    assert (waiting.text, waiting.queue) == ("waiting for room for one more pod: 2 of 2 in use by team/a, team/b", True)
    assert why_no_node(asking, Nodes((NODE,), users)) is None, "a node that sets no limit"
    assert wait(seen(asking)).queue, "nodes that may not be read"


def test_no_node_will_do() -> None:
    asking = unschedulable(MESSAGE, requests={GPU: 16.0})
    waiting = wait(seen(asking, nodes=Nodes((NODE,), ())))
    seconds, found = patience(waiting, "unschedulable")
    assert seconds == SETTINGS.unschedulable_grace_s
    assert not waiting.queue
    assert found.text.splitlines() == [
        "no node can take the pod: it asks for 16 nvidia.com/gpu, and the largest node that fits has 8",
        "  nodes have: nvidia.com/gpu 8",
        "  the scheduler says: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
        "  pod vllm-1; waited 5m for a node to be added",
    ]


def test_an_autoscaler_is_told_of() -> None:
    asking, nodes = unschedulable(MESSAGE, requests={GPU: 16.0}), Nodes((NODE,), ())
    scaling = said("TriggeredScaleUp", "pod triggered scale-up: [{group 0->1 (max: 4)}]", "")
    waiting = wait(seen(asking, nodes=nodes, events=(scaling,)))
    assert waiting.text.startswith("waiting for a new node (TriggeredScaleUp): it asks")
    assert patience(waiting, "unschedulable")[0] == 900.0
    first = replace(scaling, reason="NotTriggerScaleUp")
    assert patience(wait(seen(asking, nodes=nodes, events=(first, scaling))), "unschedulable")[0] == 900.0
    out = said("FailedScaleUp", "Node scale up in zones a failed: GCE out of resources.", "")
    seconds, found = patience(wait(seen(asking, nodes=nodes, events=(scaling, out))), "unschedulable")
    assert seconds == SETTINGS.unschedulable_grace_s
    assert "the autoscaler says: Node scale up in zones a failed: GCE out of resources." in found.details
    refused = said("NotTriggerScaleUp", "pod didn't trigger scale-up: 2 max node group size reached", "")
    _, found = patience(wait(seen(asking, nodes=nodes, events=(scaling, refused))), "unschedulable")
    assert "the autoscaler says: pod didn't trigger scale-up: 2 max node group size reached" in found.details


def test_without_nodes_the_schedulers_words_count() -> None:
    waiting = wait(seen(unschedulable(MESSAGE, requests=ONE_GPU)))
    assert (waiting.text, waiting.queue) == ("waiting for 1 nvidia.com/gpu: in use by others", True)
    other = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: no"
    _, found = patience(wait(seen(unschedulable(other))), "unschedulable")
    assert found.cause == "no node can take the pod: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules"
    assert "nodes cannot be read with these credentials: more is not known" in found.details


def test_the_scheduler_has_its_own_time() -> None:
    hasty = replace(SETTINGS, unschedulable_grace_s=0.0)
    waiting = wait(seen(pod(node="")), hasty)
    assert waiting.text == "waiting for the scheduler"
    assert patience(waiting, "unscheduled")[0] == 60.0
    seconds, never = patience(wait(seen(pod(node="", scheduler="volcano"))), "unscheduled")
    assert (seconds, never.cause) == (300.0, "the scheduler 'volcano' has not looked at the pod vllm-1")


def test_queues_of_kueue() -> None:
    gated = pod(node="", gates=("kueue.x-k8s.io/admission",), labels={QUEUE: "gpus"})
    assert (wait(seen(gated)).text, wait(seen(gated)).queue) == ("waiting in Kueue's queue gpus", True)
    other = wait(seen(replace(gated, labels={})))
    assert other.text == "held back by the scheduling gate kueue.x-k8s.io/admission"
    assert "they" not in patience(other, "queue")[1].hint, "it names nobody who could be done"
    suspended = replace(WORKLOAD, kind="Job", is_suspended=True, labels={QUEUE: "gpus"})
    assert wait(seen(workload=suspended)).text == "waiting in Kueue's queue gpus"


UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found', "there is no storage class 'fast'"),
        (
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
            "the cluster has no default",
        ),
        (
            "ProvisioningFailed",
            "rpc error: code = InvalidArgument desc = hyperdisk-ml disk type is not supported in zone us-east4-a",
            "its type of disk cannot be had",
        ),
    ],
)
def test_a_claim_that_can_get_no_volume(reason: str, message: str, told: str) -> None:
    event = said(reason, message, kind="PersistentVolumeClaim", name="weights")
    found = fault(seen(unschedulable(UNBOUND, claims=("weights",)), claims=(Claim("weights"),), events=(event,)))
    assert found.cause.startswith("the claim weights gets no volume: ")
    assert found.cause.endswith(told)
    assert "the manifest's storageClassName or the platform's record" in found.hint


@pytest.mark.parametrize("reason", ["ProvisioningFailed", "ExternalProvisioning"])
def test_a_claim_that_may_still_get_one(reason: str) -> None:
    event = said(reason, "rpc error: out of quota", kind="PersistentVolumeClaim", name="weights")
    here = seen(unschedulable(UNBOUND, claims=("weights",)), claims=(Claim("weights"),), events=(event,))
    seconds, found = patience(wait(here), "claim weights")
    assert seconds == 120.0
    assert found.cause.startswith("the claim weights gets no volume: ")


@pytest.mark.parametrize(
    ("reasons", "seconds", "cause"),
    [
        (("Provisioning", "ExternalProvisioning"), 900.0, "it is not made in time"),
        (("ExternalProvisioning", "Provisioning", "ProvisioningFailed", "ExternalProvisioning"), 120.0, "it cannot be made"),
    ],
)
def test_a_volume_that_is_being_made_has_its_time(reasons: tuple[str, ...], seconds: float, cause: str) -> None:
    events = tuple(said(reason, "something", kind="PersistentVolumeClaim", name="weights") for reason in reasons)
    here = seen(unschedulable(UNBOUND, claims=("weights",)), claims=(Claim("weights"),), events=events)
    allowed, found = patience(wait(here), "claim weights")
    assert (allowed, found.cause) == (seconds, f"the claim weights gets no volume: {cause}")
    tired = replace(events[0], reason="ProvisioningFailed", message="rpc error: code = DeadlineExceeded desc = context deadline")
    assert patience(wait(replace(here, events=(tired,))), "claim weights")[0] == 900.0


def test_a_claim_of_which_nothing_was_said() -> None:
    pending = unschedulable(UNBOUND, claims=("weights",))
    waiting = wait(seen(pending, claims=(Claim("weights"),), nodes=Nodes((NODE,), ())))
    assert waiting.text == "waiting for the volumes of its claims"
    made = said("Provisioning", "something", kind="PersistentVolumeClaim", name="weights")
    at_it = wait(seen(pending, claims=(Claim("weights"),), events=(made,)))
    assert [one.state for one in at_it.patience] == ["claim weights of vllm-1"], "its time to get ready begins on a node"
    first = said("WaitForFirstConsumer", "waiting for first consumer", kind="PersistentVolumeClaim", name="weights")
    assert wait(seen(pod(claims=("weights",)), claims=(Claim("weights"),), events=(first,))).text == "scheduled on node1"
