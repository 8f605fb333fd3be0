"""Every fault that a deployment may have, caused on a real cluster: what is said of it, and how soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.ready.waiting import await_running, engine_log
from pytest_llmperf.errors import DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.components import NODE
from tests.cluster.faults import (
    FAULTS,
    NEVER_READY,
    POD_SECURITY,
    POLICY,
    QUOTA,
    STATEFUL_SET_QUOTA,
    WEBHOOK,
    Fault,
    Object,
    asking,
    normalised,
    policy,
    registry,
    rendered,
    shell,
    webhook,
)
from tests.cluster.objects import listed
from tests.cluster.trials import CLOCK_S, GOLDEN, PROMISE_S, Outcome, Trial, assert_golden, namespace_of

AT_ONCE = 6
"""Each has threads and connections of its own, and all of them share this process: with more, they keep each other waiting."""


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[KubeApi]:
    with KubeApi.connect(cluster.kubeconfig) as api:
        yield api


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[str]:
    with namespace_of(cluster) as name:
        yield name


@pytest.fixture(scope="module")
def outcomes(
    cluster: Cluster, api: KubeApi, shared: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Outcome]]]:
    """Several at once: each of them waits most of its time. Those that wait longest come first."""
    cluster.kubectl("apply", f"--namespace={shared}", "--filename=-", given=json.dumps(registry()))
    cluster.kubectl("wait", "pod/registry", f"--namespace={shared}", "--for=condition=Ready", "--timeout=60s")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            fault.name: pool.submit(
                Trial(api, shared, fault.name, tmp_path_factory.mktemp(fault.name), fault.settings).outcome, fault
            )
            for fault in sorted(FAULTS, key=lambda fault: -fault.grace_s)
        }


@pytest.fixture
def trial(api: KubeApi, shared: str, tmp_path: Path) -> Trial:
    return Trial(api, shared, f"t{uuid4().hex[:6]}", tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_soon(fault: Fault, outcomes: Mapping[str, Future[Outcome]]) -> None:
    outcome = outcomes[fault.name].result(timeout=120.0)
    print(f"{fault.name}: {outcome.late_s:.1f} s after the cluster knew; told: {outcome.progress}")
    assert_golden(fault.name, outcome)
    assert outcome.late_s < PROMISE_S + CLOCK_S


def test_pods_that_run_and_are_never_ready_are_named_when_their_time_is_over(cluster: Cluster, trial: Trial) -> None:
    """However long they took to run: they are looked at from the moment on when their probe has had its answer."""
    probed = replace(trial, name=NEVER_READY.name, limits={"ready_timeout_s": 1.0})
    what, told = NEVER_READY.rendered, list[str]()
    probed.apply(what)
    cluster.await_true("its probe is answered", lambda: any("statuscode: 404" in message for message in probed.messages()))
    with pytest.raises(DeployError) as caught:
        await_running(probed.api, what, probed.identity, probed.namespace, probed.settings, told.append)
    assert_golden(NEVER_READY.name, Outcome(caught.value, tuple(told), 0.0, probed.folder))


def test_a_quota_without_room_is_named_at_once(cluster: Cluster, api: KubeApi, tmp_path: Path) -> None:
    with namespace_of(cluster) as namespace:
        cluster.kubectl("create", "quota", "gpus", "--hard=requests.nvidia.com/gpu=0", f"--namespace={namespace}")
        cluster.kubectl("wait", "quota/gpus", "--for=jsonpath={.status.hard}", f"--namespace={namespace}", "--timeout=30s")
        for fault in (QUOTA, STATEFUL_SET_QUOTA):
            outcome = Trial(api, namespace, fault.name, tmp_path).outcome(fault)
            assert_golden(fault.name, outcome)
            assert outcome.late_s < PROMISE_S + CLOCK_S


def test_pods_that_the_namespace_forbids_are_named_at_once(cluster: Cluster, api: KubeApi, tmp_path: Path) -> None:
    with namespace_of(cluster, enforce="restricted") as namespace:
        outcome = Trial(api, namespace, POD_SECURITY.name, tmp_path).outcome(POD_SECURITY)
    assert_golden(POD_SECURITY.name, outcome)
    assert outcome.late_s < PROMISE_S + CLOCK_S


@pytest.mark.parametrize(("fault", "made"), [(POLICY, policy), (WEBHOOK, webhook)], ids=["policy", "webhook"])
def test_pods_that_a_rule_of_the_cluster_denies_are_named_soon(
    fault: Fault, made: Callable[[str, str], Sequence[Object]], cluster: Cluster, api: KubeApi, tmp_path: Path
) -> None:
    with namespace_of(cluster) as namespace:
        rule = json.dumps(listed(*made(namespace, namespace)))
        cluster.kubectl("apply", "--filename=-", given=rule)
        try:
            cluster.await_true("the rule counts", lambda: is_denied(cluster, namespace))
            outcome = Trial(api, namespace, fault.name, tmp_path).outcome(fault)
        finally:
            cluster.kubectl("delete", "--filename=-", given=rule)
    print(f"{outcome.late_s:.1f} s after the cluster knew")
    assert_golden(fault.name, outcome)
    assert outcome.late_s < PROMISE_S + CLOCK_S


def is_denied(cluster: Cluster, namespace: str) -> bool:
    """Whether no pod may be made in the namespace."""
    try:
        cluster.kubectl("run", "probe", "--image=any", f"--namespace={namespace}", "--dry-run=server")
    except DeployError:
        return True
    return False


def test_accelerators_that_others_use_are_waited_for(cluster: Cluster, api: KubeApi, shared: str, tmp_path: Path) -> None:
    holder = Trial(api, shared, "holder", tmp_path)
    holder.ready(rendered("holder", asking(gpu="8")), [])
    told: list[str] = []
    waiter = Trial(api, shared, "waiter", tmp_path, {"queue_timeout_s": 3.0, "unschedulable_grace_s": 0.0})
    with pytest.raises(DeployError) as caught:
        waiter.ready(rendered("waiter", asking(gpu="1")), told)
    assert_golden("queue-timeout", Outcome(caught.value, tuple(told), 0.0, tmp_path))
    (phrase,) = [normalised(phrase) for phrase in told if "in use" in phrase]
    assert phrase == "waiting for 1 nvidia.com/gpu: 8 of 8 in use by NAMESPACE/holder-HASH\n"
    patient = Trial(api, shared, "waiter", tmp_path)
    with ThreadPoolExecutor(1) as pool:
        queued: list[str] = []
        ready = pool.submit(patient.ready, rendered("waiter", asking(gpu="1")), queued)
        cluster.await_true("it waits", lambda: any("in use" in phrase for phrase in queued))
        cluster.kubectl("delete", "deployment", "holder", f"--namespace={shared}")
        assert [pod.node for pod in ready.result(timeout=60.0).pods] == [NODE]
    cluster.kubectl("delete", "deployment", "waiter", f"--namespace={shared}")


def test_ready_pods_have_a_past_that_adds_up(trial: Trial) -> None:
    """Each stretch has its name; a first crash is told and no fault."""
    script = "test -f /models/once || { touch /models/once; exit 3; }; echo 'Loading weights took 0.25 seconds'; sleep 1; "
    serve = "mkdir /tmp/www; touch /tmp/www/health; exec httpd -f -p 8000 -h /tmp/www"
    download = {"name": "download-model", "image": "localhost/llmperf-busybox:1", "command": shell("sleep 3")}
    what = rendered(
        trial.name,
        {"command": shell(script + serve), "volumeMounts": [{"name": "models", "mountPath": "/models"}]},
        {"initContainers": [download], "volumes": [{"name": "models", "emptyDir": {}}]},
    )
    trial.apply(what)
    told: list[str] = []
    began = time.monotonic()
    ready = await_running(trial.api, what, trial.identity, trial.namespace, trial.settings, told.append)
    phases = {phase.name: phase.seconds for phase in ready.phases}
    assert set(phases) <= {"scheduled", "image pulled", "weights downloaded", "started", "weights loaded", "ready"}
    assert min(phases.values()) > 0
    assert phases["weights downloaded"] > 0.5
    assert phases["weights loaded"] == 0.25
    assert sum(phases.values()) == pytest.approx(ready.ready_seen_s - began, abs=0.5)
    assert any("ended with exit code 3" in phrase for phrase in told)
    assert "downloading weights" in told
    assert ready.image == "localhost/llmperf-busybox:1"
    assert ready.node_labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"


def test_a_container_that_ends_under_load_is_lost(cluster: Cluster, trial: Trial) -> None:
    serve = "mkfifo /tmp/end; httpd -p 8000 -h /tmp; touch /tmp/health; read line < /tmp/end; sleep 1; exit 4"
    what = rendered(trial.name, {"command": shell(serve)})
    ready = trial.ready(what, [])
    (pod,) = ready.pods
    assert trial.lost(what, ready) is None
    cluster.kubectl("exec", pod.name, f"--namespace={trial.namespace}", "--", "sh", "-c", "echo now > /tmp/end")
    cluster.await_true("it is lost", lambda: trial.lost(what, ready) is not None)
    assert trial.lost(what, ready) == f"the container vllm of the pod {pod.name} ended with exit code 4"


def test_a_pod_that_is_preempted_is_lost(cluster: Cluster, trial: Trial) -> None:
    cluster.kubectl("create", "priorityclass", "urgent", "--value=1000")
    what = rendered(trial.name, asking(gpu="8"))
    ready = trial.ready(what, [])
    urgent = Trial(trial.api, trial.namespace, f"{trial.name}-urgent", trial.folder)
    urgent.ready(rendered(urgent.name, asking(gpu="8"), {"priorityClassName": "urgent"}), [])
    assert (trial.lost(what, ready) or "").startswith(f"the pod {ready.pods[0].name} is gone: Preempted: Preempted by pod ")
    cluster.kubectl("delete", "deployment", urgent.name, trial.name, f"--namespace={trial.namespace}")


def test_a_node_that_is_not_heard_of_is_lost(cluster: Cluster, trial: Trial) -> None:
    what = rendered(trial.name, {})
    ready = trial.ready(what, [])
    cluster.stop("kubelet")
    try:
        # What the cluster finds by itself, once the node has been silent for 50 s.
        silent = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "silent"}
        lost = {"type": "Ready", "status": "False"}
        pod = (f"pod/{ready.pods[0].name}", f"--namespace={trial.namespace}")
        for of, condition in ((("node", NODE), silent), (pod, lost)):
            patch = json.dumps({"status": {"conditions": [condition]}})
            cluster.kubectl("patch", *of, "--subresource=status", "--type=strategic", f"--patch={patch}")
        assert trial.lost(what, ready) == f"the node {NODE} is not ready: NodeStatusUnknown: silent"
    finally:
        cluster.start("kubelet")
        cluster.kubectl("wait", f"node/{NODE}", "--for=condition=Ready", "--timeout=60s")


def test_evidence_holds_what_a_person_needs_and_no_secret(trial: Trial) -> None:
    token = "hf_very-secret-token"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{trial.name}-token"}, "stringData": {"token": token}}
    environment = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": f"{trial.name}-token", "key": "token"}}}]
    script = 'echo "the token is $HF_TOKEN"; echo "key $0"; exit 1'
    command = [*shell(script), "--api-key=sk-another-secret"]
    what = rendered(trial.name, {"command": command, "env": environment}, others=[secret])
    with pytest.raises(DeployError) as caught:
        trial.ready(what, [])
    (folder,) = trial.folder.iterdir()
    kept = {file.name: file.read_text() for file in folder.iterdir()}
    assert str(folder) in (caught.value.hint or "")
    assert str(folder) not in caught.value.log_tail
    assert {"diagnosis.txt", "events.txt", "objects.yaml"} < set(kept)
    assert any("the token is ***" in text for name, text in kept.items() if name.endswith("_vllm.log"))
    assert "BackOff" in kept["events.txt"]
    assert "kind: Deployment" in kept["objects.yaml"]
    assert "kind: Node" in kept["objects.yaml"]
    assert "ended with exit code 1" in kept["diagnosis.txt"]
    shown = [*kept.values(), str(caught.value), engine_log(trial.api, what, trial.identity, trial.namespace, 40)]
    assert not [text for text in shown if token in text or "sk-another-secret" in text]


def test_an_error_is_read_within_a_terminal() -> None:
    """Of each: a cause, then facts, then what to do; no line that a person would not read."""
    for file in GOLDEN.glob("*.txt"):
        cause, *rest = file.read_text().splitlines()
        assert len(cause) <= 160, file.name
        assert all(line.startswith("  ") for line in rest), file.name
