"""Every fault that a deployment may have, caused on a real cluster: what is said of it, and how soon."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import EVENT, POD
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.pods import epoch_s
from pytest_llmperf.deploy.kubernetes.ready.seen import event_of
from pytest_llmperf.deploy.kubernetes.ready.waiting import ReadyPods, await_running, engine_log, lost_reason
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, placed
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from pytest_llmperf.errors import DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.components import NODE
from tests.cluster.faults import (
    FAULTS,
    POD_SECURITY,
    QUOTA,
    STATEFUL_SET_QUOTA,
    Fault,
    asking,
    normalised,
    rendered,
    shell,
)

GOLDEN = Path(__file__).with_name("golden")
WRITE = "LLMPERF_WRITE_GOLDEN"
"""Set to anything: golden files are written instead of compared."""
SESSION = "f4u1t5aa"
PROMISE_S = 10.0
"""Between the cluster's knowing of a fault and the error."""
AT_ONCE = 6
"""Each has threads and connections of its own, and all of them share this process: with more, they keep each other waiting."""
PATIENT_S = 120.0
CLOCK_S = 1.0
"""The cluster tells whole seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of a deployment."""

    error: DeployError
    progress: tuple[str, ...]
    late_s: float
    """After the cluster knew."""
    folder: Path


@dataclass(frozen=True)
class Trial:
    """One deployment in a namespace; ``name`` keeps its objects apart from those of others."""

    api: KubeApi
    namespace: str
    name: str
    folder: Path
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        return Identity(SESSION, self.name)

    @property
    def settings(self) -> KubernetesSettings:
        return KubernetesSettings(
            RenderSettings(),
            SESSION,
            self.name,
            log_directory=self.folder,
            ready_timeout_s=self.limits.get("ready_timeout_s", PATIENT_S),
            unschedulable_grace_s=self.limits.get("unschedulable_grace_s", PATIENT_S),
            queue_timeout_s=self.limits.get("queue_timeout_s", PATIENT_S),
        )

    def apply(self, what: Rendered) -> None:
        for one in placed(what, self.identity, self.namespace, None):
            self.api.apply(one)

    def ready(self, what: Rendered, progress: list[str]) -> ReadyPods:
        self.apply(what)
        return await_running(self.api, what, self.identity, self.namespace, self.settings, progress.append)

    def lost(self, what: Rendered, ready: ReadyPods) -> str | None:
        return lost_reason(self.api, what, self.identity, self.namespace, ready)

    def outcome(self, fault: Fault) -> Outcome:
        progress: list[str] = []
        with pytest.raises(DeployError) as caught:
            self.ready(fault.rendered, progress)
        ended = time.time()
        return Outcome(caught.value, tuple(progress), ended - fault.grace_s - self._known(fault), self.folder)

    def _known(self, fault: Fault) -> float:
        """When the cluster knew, in seconds since the epoch."""
        if fault.known_exit:
            pods = self.api.list(POD, self.namespace, self.identity.selector())
            kinds = ("initContainerStatuses", "containerStatuses")
            states = [
                one[key]
                for pod in pods
                for kind in kinds
                for one in pod["status"].get(kind, ())
                for key in ("state", "lastState")
            ]
            return max(epoch_s(state["terminated"]["finishedAt"]) or 0.0 for state in states if "terminated" in state)
        reason, part = fault.known_by
        events = [event_of(one) for one in self.api.list(EVENT, self.namespace)]
        names = (fault.name, *(other["metadata"]["name"] for other in fault.others))
        return min(one.first_s for one in events if one.reason == reason and part in one.message and one.name.startswith(names))


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[KubeApi]:
    with KubeApi.connect(cluster.kubeconfig) as api:
        yield api


@contextmanager
def namespace_of(cluster: Cluster, **labels: str) -> Iterator[str]:
    """A namespace with these labels; its pods end with it."""
    name = f"test-{uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    if labels:
        cluster.kubectl(
            "label", "namespace", name, *(f"pod-security.kubernetes.io/{key}={value}" for key, value in labels.items())
        )
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "deployments,statefulsets,jobs", "--all", f"--namespace={name}", "--cascade=orphan")
    cluster.kubectl("delete", "replicasets", "--all", f"--namespace={name}", "--cascade=orphan")
    cluster.kubectl("delete", "pods", "--all", f"--namespace={name}", "--force", "--grace-period=0")


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[str]:
    with namespace_of(cluster) as name:
        yield name


@pytest.fixture(scope="module")
def outcomes(api: KubeApi, shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Outcome]]]:
    """Several at once: each of them waits most of its time. Those that wait longest come first."""
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


def assert_golden(name: str, outcome: Outcome) -> None:
    text, file = normalised(str(outcome.error)), GOLDEN / f"{name}.txt"
    if os.environ.get(WRITE):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_soon(fault: Fault, outcomes: Mapping[str, Future[Outcome]]) -> None:
    outcome = outcomes[fault.name].result(timeout=120.0)
    print(f"{fault.name}: {outcome.late_s:.1f} s after the cluster knew; told: {outcome.progress}")
    assert_golden(fault.name, outcome)
    assert outcome.late_s < PROMISE_S + CLOCK_S


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
    download = {"name": "download-model", "image": "localhost/llmperf-busybox:1", "command": shell("sleep 1")}
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
    serve = "mkfifo /tmp/end; httpd -p 8000 -h /tmp; touch /tmp/health; read line < /tmp/end; exit 4"
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
    assert str(folder) in caught.value.log_tail
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
